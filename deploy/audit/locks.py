"""The locks: what is in the images, and what is for development alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SHIPPED: Final = ("agent", "scorer", "gateway")
DEVELOPMENT: Final = "dev"
_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==")


def names(root: Path, locks: Iterable[str]) -> set[str]:
    """The packages that these locks name."""
    lines = [line for lock in locks for line in (root / f"requirements/{lock}.txt").read_text().splitlines()]
    return {found[1] for line in lines if (found := _PINNED.match(line))}


def shipped(root: Path) -> set[str]:
    """What the images have."""
    return names(root, SHIPPED)


def all_of(root: Path) -> set[str]:
    """What the images and development have."""
    return names(root, (*SHIPPED, DEVELOPMENT))
