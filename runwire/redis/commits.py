"""What lua/commit.lua is given, and what it says."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from runwire.errors import FieldExists, LogClosed, RunExpired, RunNotFound, SequenceHole, TopicExists
from runwire.pubsub import Commit
from runwire.redis.link import Reply, Word
from runwire.redis.records import microseconds, pack
from runwire.topic import fenced


def repeatable(commit: Commit) -> bool:
    """Whether it may be sent again where nobody knows if it was carried out.

    A commit with events knows its own repetition, and one that only puts may be repeated. Of others, the second time
    would be refused or count twice: what became of the first is for the caller to find out.
    """
    return bool(commit.events) or not (commit.create or commit.puts_once or commit.messages)


HAND_BACK: Final = "back"
"""Schedule of a topic whose claim nobody got: due as it was before, in its lane, and its losses stay."""


def words_of(prefix: str, commit: Commit, schedule: str = "") -> Sequence[Word]:
    """ARGV of lua/commit.lua. The usual commit is short: events, and nothing else. `schedule`: not the commit's."""
    attempt: Word = "" if commit.attempt is None else commit.attempt
    words: list[Word] = [prefix, commit.topic, attempt, commit.token, schedule or commit.schedule.value, pack(commit)]
    groups = (
        tuple(dict.fromkeys(commit.indexes)),
        tuple(word for pair in commit.puts.items() for word in pair),
        tuple(word for pair in commit.puts_once.items() for word in pair),
        tuple(commit.deletes),
        tuple(word for message in commit.messages for word in (message.queue, message.body)),
        tuple(dict.fromkeys(name for name in commit.leaves if name not in commit.indexes)),
    )
    if not (commit.create or commit.progress or commit.final or commit.due_in or commit.queue or any(groups)):
        return words
    words += (microseconds(commit.due_in), int(commit.progress))
    words += (microseconds(commit.retention), microseconds(commit.tombstone))
    words += (secrets.token_hex(8) if commit.create else "", commit.queue)
    words += (len(group) // width for group, width in zip(groups, (1, 2, 2, 1, 2, 1), strict=True))
    words += (word for group in groups for word in group)
    return words


def refusal_of(commit: Commit, reply: Reply) -> Exception:
    """The error for what lua/commit.lua returned."""
    code, *details = reply
    match code:
        case b"exists":
            return TopicExists(f"there is a log {commit.topic!r} already")
        case b"not_found":
            return not_found(commit.topic)
        case b"expired":
            return RunExpired("the events of the run are purged", final_state=int(details[0]))
        case b"fenced":
            return fenced(commit, int(details[0]))
        case b"unclaimed":
            return ValueError(f"attempt {commit.attempt} was never claimed; the latest is {int(details[0])}")
        case b"closed":
            return LogClosed("the log has its last event", final_state=int(details[0]))
        case b"hole":
            last = int(details[0])
            return SequenceHole(
                f"events {commit.first}..{commit.last} do not continue event {last}", last_sequence=last
            )
        case b"field":
            return FieldExists(details[0].decode(), details[1])
    raise AssertionError(f"lua/commit.lua returned {code!r}")


def not_found(topic: str) -> RunNotFound:
    return RunNotFound(f"there is no log {topic!r}")
