"""Equality as JSON has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scorer_service.scorers.text import normal


def same(left: Any, right: Any, *, ignore_case: bool = False, ignore_space: bool = False) -> bool:
    """Whether two JSON values are the same: of one type, and

    - texts in the same Unicode form (NFC), on request without regard to case and to the amount of white space;
    - numbers by value: 1 is 1.0, but neither `true` nor `"1"`;
    - objects with the same keys and values in any order, lists in their order;
    - null only null, not an empty text.
    """
    shape = {"ignore_case": ignore_case, "ignore_space": ignore_space}
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, str) and isinstance(right, str):
        return left == right or normal(left, **shape) == normal(right, **shape)
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left == right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key], **shape) for key in left)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(same(*pair, **shape) for pair in zip(left, right, strict=True))
    return left is None and right is None
