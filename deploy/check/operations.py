"""The tables of settings in docs/operations.md: made from the code, so that they cannot be of another release."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from deploy.check.services import IMAGES


def check(root: Path) -> Iterator[str]:
    """Yields a problem where a table is not what the code says."""
    page = root / "docs/operations.md"
    text = page.read_text()
    for service in IMAGES.values():
        if f"<!-- settings: {service.name} -->" not in text:
            yield f"operations.md: there is no table of settings of the {service.name}"
    if with_tables(text) != text:
        yield "operations.md: a table of settings is stale: run `python -m deploy.check --write`"


def write(root: Path) -> None:
    """Puts the tables of today into the page."""
    page = root / "docs/operations.md"
    page.write_text(with_tables(page.read_text()))


def with_tables(text: str) -> str:
    """The page with the tables of today between their marks."""
    for service in IMAGES.values():
        begin, end = f"<!-- settings: {service.name} -->", "<!-- end -->"
        new = f"{begin}\n{service.table()}\n{end}"
        text = re.sub(f"{begin}.*?{end}", lambda _, new=new: new, text, count=1, flags=re.DOTALL)
    return text
