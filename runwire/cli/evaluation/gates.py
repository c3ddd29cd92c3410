"""Gates: what the mean of a scorer must be, such as `faithfulness>=0.8` or `brevity>=baseline-0.05`."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import Any, Final

import click

_FORM: Final = re.compile(
    r"(?P<scorer>.+?)\s*(?P<sign>>=|<=|>|<)\s*(?P<baseline>baseline)?\s*(?P<number>[-+]?[\d.eE+-]*)"
)
_SIGNS: Final = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_ALMOST: Final = 1e-9
"""Means are sums of fractions: what is equal on paper is equal here."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound of a mean, of its own or beside the baseline's."""

    text: str
    scorer_id: str
    sign: str
    of_baseline: bool
    number: float

    def bound(self, baseline: float | None) -> float | None:
        """None where it needs a baseline, and there is none."""
        if not self.of_baseline:
            return self.number
        return None if baseline is None else baseline + self.number

    def holds(self, mean: float, bound: float) -> bool:
        """Whether a mean is on the right side."""
        slack = -_ALMOST if self.sign in (">=", "<") else _ALMOST
        return bool(_SIGNS[self.sign](mean, bound + slack))


class GateType(click.ParamType):  # type: ignore[type-arg] # generic only in newer click
    """SCORER>=NUMBER, or beside the baseline: SCORER>=baseline-0.05."""

    name = "SCORER>=NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Gate:
        if isinstance(value, Gate):
            return value
        match = _FORM.fullmatch(value)
        number = math.nan
        if match and (match["baseline"] or match["number"]):
            try:
                number = float(match["number"] or 0)
            except ValueError:
                pass
        if match is None or not math.isfinite(number):
            self.fail(f"{value!r} is no gate; write SCORER>=0.8, or SCORER>=baseline-0.05", param, ctx)
        return Gate(value, match["scorer"], match["sign"], bool(match["baseline"]), number)
