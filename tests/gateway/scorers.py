"""A scorer for the tests of the gateway: it fails until it is told that it may work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scorer_service import NonRetriableError, Sample, Score, scorer


@scorer(id="moody", version="1")
def moody(sample: Sample, options: dict[str, Any]) -> Score:
    """Works once the file is there that its options name."""
    if not Path(options["file"]).exists():
        raise NonRetriableError("<b>not today</b>")
    return Score(0.75, reason="well then")
