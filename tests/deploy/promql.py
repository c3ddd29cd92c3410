"""As much of PromQL as our alerts are written in, over two scrapes: what a counter rose by lies between them.

Not Prometheus: no staleness, no extrapolation, no `for`. A window is the time between the scrapes, whatever it says.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

Labels = frozenset[tuple[str, str]]
Vector = Mapping[Labels, float]
Scrape = Mapping[str, Mapping[tuple[tuple[str, str], ...], float]]

_TOKEN: Final = re.compile(r'\s*([a-zA-Z_][\w]*|\d+(?:\.\d+)?|"[^"]*"|>=|<=|==|!=|[\[\](){}=,><*+-])')
_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq,
}  # fmt: skip
_AGGREGATE: Final[Mapping[str, Callable[[list[float]], float]]] = {"sum": sum, "max": max, "min": min}


@dataclass
class Evaluation:
    """Of one expression. `result` is what it selects: an alert is raised for each."""

    text: str
    before: Scrape
    after: Scrape

    def result(self) -> Vector:
        """Raises ValueError for what is no expression of ours."""
        self._tokens = [match[1] for match in _TOKEN.finditer(self.text)]
        if "".join(self._tokens) != re.sub(r"\s", "", self.text):
            raise ValueError(f"{self.text!r} is not all understood")
        found = self._comparison()
        if self._tokens:
            raise ValueError(f"{self._tokens} is left of {self.text!r}")
        assert not isinstance(found, float)
        return found

    def _take(self, expected: str = "") -> str:
        token = self._tokens.pop(0)
        if expected and token != expected:
            raise ValueError(f"{token!r} in the place of {expected!r} in {self.text!r}")
        return token

    def _comparison(self) -> Vector | float:
        left = self._product()
        while self._tokens and self._tokens[0] in _COMPARE:
            holds, right = _COMPARE[self._take()], self._product()
            assert not isinstance(left, float)
            limits = right if not isinstance(right, float) else dict.fromkeys(left, right)
            left = {key: value for key, value in left.items() if key in limits and holds(value, limits[key])}
        return left

    def _product(self) -> Vector | float:
        left = self._one()
        while self._tokens and self._tokens[0] == "*":
            self._take()
            right = self._one()
            if isinstance(left, float) and not isinstance(right, float):
                left = {key: left * value for key, value in right.items()}
            else:
                raise ValueError(f"only a number times a vector: {self.text!r}")
        return left

    def _one(self) -> Vector | float:
        token = self._take()
        if token[0].isdigit():
            return float(token)
        if token in _AGGREGATE:
            return self._aggregation(_AGGREGATE[token])
        if token in ("rate", "increase"):
            self._take("(")
            name, wanted = self._selector(self._take())
            self._take("[")
            while self._take() != "]":
                pass
            self._take(")")
            old = _select(self.before, name, wanted)
            return {key: value - old.get(key, 0.0) for key, value in _select(self.after, name, wanted).items()}
        if token == "histogram_quantile":
            self._take("(")
            share = float(self._take())
            self._take(",")
            buckets = self._comparison()
            self._take(")")
            assert not isinstance(buckets, float)
            return _quantile(share, buckets)
        return _select(self.after, *self._selector(token))

    def _aggregation(self, together: Callable[[list[float]], float]) -> Vector:
        by: list[str] = []
        if self._tokens[0] == "by":
            self._take()
            self._take("(")
            while (token := self._take()) != ")":
                by += [token] if token != "," else []
        self._take("(")
        inner = self._comparison()
        self._take(")")
        assert not isinstance(inner, float)
        groups: dict[Labels, list[float]] = {}
        for labels, value in inner.items():
            groups.setdefault(frozenset(pair for pair in labels if pair[0] in by), []).append(value)
        return {labels: float(together(values)) for labels, values in groups.items()}

    def _selector(self, name: str) -> tuple[str, Labels]:
        wanted: set[tuple[str, str]] = set()
        if self._tokens and self._tokens[0] == "{":
            self._take()
            while self._tokens[0] != "}":
                label = self._take()
                self._take("=")
                wanted.add((label, self._take().strip('"')))
                if self._tokens[0] == ",":
                    self._take()
            self._take("}")
        return name, frozenset(wanted)


def _select(scrape: Scrape, name: str, wanted: Labels) -> dict[Labels, float]:
    found = {frozenset(labels): value for labels, value in scrape.get(name, {}).items()}
    return {labels: value for labels, value in found.items() if wanted <= labels}


def _quantile(share: float, buckets: Vector) -> Vector:
    """The upper bound of the bucket in which it lies."""
    series: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in buckets.items():
        bound = float(dict(labels)["le"])
        series.setdefault(frozenset(pair for pair in labels if pair[0] != "le"), []).append((bound, count))
    found = {}
    for labels, counts in series.items():
        ordered = sorted(counts)
        if total := ordered[-1][1]:
            found[labels] = next(bound for bound, count in ordered if count >= share * total)
    return found
