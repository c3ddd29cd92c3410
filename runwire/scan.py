"""One page out of several: of the shards of a store, or of several lists."""

from __future__ import annotations

from collections.abc import Sequence

from runwire.pubsub import Scan, Stored


def merged(pages: Sequence[Scan], limit: int) -> Scan:
    """The page of at most `limit` topics that these make together, each of them from the same place on.

    Below the place where one of them broke off nothing is known, so that is where it ends.
    """
    ends = [page.next for page in pages if page.next is not None]
    floor = max(ends, default=None)
    # A topic that went from one list to another meanwhile is in both.
    everything = {stored.topic: stored for page in pages for stored in page.found}
    found = sorted(everything.values(), key=place_of, reverse=True)
    found = [stored for stored in found if floor is None or place_of(stored) >= floor]
    if len(found) > limit:
        return Scan(found[:limit], place_of(found[limit - 1]))
    return Scan(found, floor)


def place_of(stored: Stored) -> tuple[float, str]:
    """Where it stands in every list: what `scan` takes as `before`."""
    return stored.head.create_time, stored.topic
