"""One page out of several: of the shards of a store, or of several lists."""

from __future__ import annotations

from collections.abc import Sequence

from runwire.pubsub import Scan, Stored

Place = tuple[float, str]
"""Where a topic stands in every list, by its time and its name: what `scan` takes as `before`."""


def merged(pages: Sequence[Scan], limit: int) -> Scan:
    """The page of at most `limit` topics that these make together, each of them from the same place on."""
    # A topic that went from one list to another meanwhile is in both.
    known = {place_of(stored): stored for page in pages for stored in page.found}
    places, following = newest([([place_of(stored) for stored in page.found], page.next) for page in pages], limit)
    return Scan([known[place] for place in places], following)


def newest(parts: Sequence[tuple[Sequence[Place], Place | None]], limit: int) -> tuple[list[Place], Place | None]:
    """The newest places of all parts, at most `limit`, and below which there may be more. Each part goes down to its
    second, or to the end.

    Below the place where one of them broke off nothing is known, so that is where all of them end.
    """
    floor = max((end for _, end in parts if end is not None), default=None)
    found = sorted({place for places, _ in parts for place in places if floor is None or place >= floor}, reverse=True)
    return (found[:limit], found[limit - 1]) if len(found) > limit else (found, floor)


def place_of(stored: Stored) -> Place:
    return stored.head.create_time, stored.topic
