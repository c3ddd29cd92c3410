"""What rounds came to: figures by shape and by whom they are of, their medians and ratios."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

Figures = Mapping[str, float]


class Measured:
    """Figures of all rounds, in the order in which shapes and sides first came."""

    def __init__(self) -> None:
        self.rounds: dict[str, dict[str, list[Figures]]] = {}

    def add(self, shape: str, side: str, figures: Figures) -> None:
        """One round of one side."""
        self.rounds.setdefault(shape, {}).setdefault(side, []).append(figures)
        shown = "  ".join(f"{name} {show(value)}" for name, value in figures.items())
        print(f"{shape:<34} {side:<44} {shown}", flush=True)

    def medians(self, shape: str) -> dict[str, Figures]:
        """Of each side."""
        return {side: _medians(rounds) for side, rounds in self.rounds[shape].items()}

    def write(self, path: Path, about: Mapping[str, str]) -> None:
        """As JSON, with every round."""
        path.write_text(json.dumps({"about": about, "rounds": self.rounds}, indent=1) + "\n")

    def markdown(self, baseline: str) -> Iterator[str]:
        """A table a shape; the last column is the first figure beside that of `baseline`, where it took part."""
        for shape in self.rounds:
            sides = self.medians(shape)
            names = list(dict.fromkeys(name for figures in sides.values() for name in figures))
            base = next((figures for side, figures in sides.items() if side.startswith(baseline)), {})
            heads = [shape, *names, *([f"{names[0]}, x {baseline}"] if base else [])]
            yield f"| {' | '.join(heads)} |"
            yield f"|---|{'--:|' * (len(heads) - 1)}"
            for side, figures in sides.items():
                cells = [show(figures[name]) if name in figures else "" for name in names]
                if base:
                    cells.append(f"{figures[names[0]] / base[names[0]]:.2f}" if base.get(names[0]) else "")
                yield f"| {side} | {' | '.join(cells)} |"
            yield ""


def _medians(rounds: list[Figures]) -> Figures:
    return {name: median(figures[name] for figures in rounds if name in figures) for name in rounds[0]}


def show(value: float) -> str:
    """With three digits that count."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
