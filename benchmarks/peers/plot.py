"""Draws what was measured, in the peers' own environment: `plot.py RESULTS.json FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_OURS, _THEIRS = "#1f6feb", "#8c959f"


def _of(rounds: list[dict[str, float]], name: str) -> float:
    return median(figures[name] for figures in rounds)


def draw_rates(shape: str, sides: dict[str, Any], path: Path) -> None:
    """Events a second, the fastest first."""
    ordered = sorted(sides, key=lambda side: _of(sides[side], "events/s"))
    figure, axes = plt.subplots(figsize=(9, 0.4 * len(ordered) + 1))
    colours = [_OURS if side.startswith("Runwire") else _THEIRS for side in ordered]
    bars = axes.barh(ordered, [_of(sides[side], "events/s") / 1e3 for side in ordered], color=colours)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.set_xlabel("thousand events a second")
    axes.set_title(shape)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def draw_live(shapes: dict[str, Any], path: Path) -> None:
    """Latency and the server's processor time, by shape."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6))
    sides = list(next(iter(shapes.values())))
    for axes, name in zip(panels, ("p50 ms", "p99 ms", "us server"), strict=True):
        for number, side in enumerate(sides):
            places = [place + 0.4 * number for place in range(len(shapes))]
            values = [_of(shape[side], name) if side in shape else 0 for shape in shapes.values()]
            axes.bar(places, values, 0.38, label=side, color=_OURS if side.startswith("Runwire") else _THEIRS)
        axes.set_xticks([place + 0.2 for place in range(len(shapes))])
        axes.set_xticklabels([shape.removeprefix("live, ") for shape in shapes], rotation=20, ha="right", fontsize=8)
        axes.set_yscale("log")
        axes.set_title({"us server": "server CPU, us an event"}.get(name, name))
        axes.spines[["top", "right"]].set_visible(False)
    labelled = panels[0].get_legend_handles_labels()
    figure.legend(*labelled, loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=len(sides))
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    results, folder = Path(sys.argv[1]), Path(sys.argv[2])
    shapes = json.loads(results.read_text())["rounds"]
    live = {shape: sides for shape, sides in shapes.items() if shape.startswith("live")}
    if live:
        draw_live(live, folder / "live.png")
    for shape in ("replay", "burst"):
        if shape in shapes:
            draw_rates(shape, shapes[shape], folder / f"{shape}.png")


if __name__ == "__main__":
    main()
