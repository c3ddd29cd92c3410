"""What a right client never does. Each validator returns one line for each fault that it finds in a transcript."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from runwire.conformance.transcript import Died, Ended, Event, Failed, Handled, Saved, Session, Stuck, Transcript

Log = Sequence[Event]
Validator = Callable[[Transcript, Log], Iterator[str]]


def ordered(transcript: Transcript, log: Log) -> Iterator[str]:
    """Sequences ascend."""
    for session in transcript.sessions:
        last = session.start
        for event in _events(session):
            if event.sequence < last:
                yield f"event {event.sequence} came after event {last}"
            last = max(last, event.sequence)


def unique(transcript: Transcript, log: Log) -> Iterator[str]:
    """No event comes twice to a client that keeps cursors and effects together."""
    for session in transcript.sessions:
        seen: set[int] = set()
        for event in _events(session):
            if event.sequence in seen:
                yield f"event {event.sequence} came twice"
            elif event.sequence <= session.start:
                yield f"event {event.sequence} came although the cursor stood behind event {session.start}"
            seen.add(event.sequence)


def dense(transcript: Transcript, log: Log) -> Iterator[str]:
    """No event is missing."""
    for session in transcript.sessions:
        last = session.start
        for event in _events(session):
            if event.sequence > last + 1:
                yield f"event {event.sequence} came after event {last}: {event.sequence - last - 1} are missing"
            last = max(last, event.sequence)


def atomic(transcript: Transcript, log: Log) -> Iterator[str]:
    """A cursor that is stored covers handled events only: a frame counts as a whole, once all of it was handled."""
    for session in transcript.sessions:
        handled = session.start
        for line in session.lines:
            if isinstance(line, Handled):
                handled = max(handled, line.sequence)
            elif isinstance(line, Saved) and line.sequence > handled:
                yield f"the cursor behind event {line.sequence} was stored when only {handled} were handled"


def resumable(transcript: Transcript, log: Log) -> Iterator[str]:
    """A stored cursor is one of this run, and a client started from it continues with the very next event. Where it
    cannot continue, the client says so."""
    for session in transcript.sessions:
        yield from (
            f"{line.cursor!r} was stored, which is no cursor of this run"
            for line in session.lines
            if isinstance(line, Saved) and line.sequence < 0
        )
        first = next(_events(session), None)
        if first is not None and first.sequence != session.start + 1:
            yield f"started behind event {session.start}, the client began with event {first.sequence}"
        if not transcript.expects_error:
            yield from (f"gave up with {line.reason}" for line in session.lines if isinstance(line, Failed))
        yield from (f"the client ended by itself: {line.why}" for line in session.lines if isinstance(line, Died))


def bookmarkable(transcript: Transcript, log: Log) -> Iterator[str]:
    """Behind a cursor, whatever frame it came with, nothing follows that it covers."""
    for session in transcript.sessions:
        covered = 0
        for line in session.lines:
            if isinstance(line, Saved):
                covered = max(covered, line.sequence)
            elif isinstance(line, Event) and line.sequence <= covered:
                yield f"event {line.sequence} came although a cursor behind event {covered} had come"


def ends_once(transcript: Transcript, log: Log) -> Iterator[str]:
    """The end is reported once, by the session that handled the last event, and not without it."""
    if transcript.expects_error:
        return
    ends = [(session, line) for session in transcript.sessions for line in session.lines if isinstance(line, Ended)]
    if len(ends) > 1:
        yield f"the end was reported {len(ends)} times"
    for session, end in ends:
        last = max((event.sequence for event in _events(session)), default=session.start)
        if last < log[-1].sequence:
            yield f"the end was reported after event {last} of {log[-1].sequence}"
        if session.lines[-1] is not end:
            yield "something was reported after the end"
    for session in transcript.sessions:
        yield from (f"nothing came for {line.seconds:g} s" for line in session.lines if isinstance(line, Stuck))


def same_for_all(transcript: Transcript, log: Log) -> Iterator[str]:
    """Every reader gets what the log holds, live and replayed."""
    expected = {event.sequence: event for event in log}
    for session in transcript.sessions:
        for event in _events(session):
            if expected.get(event.sequence) != event:
                yield f"got {event}, and the log holds {expected.get(event.sequence)}"


def read_your_writes(transcript: Transcript, log: Log) -> Iterator[str]:
    """A run can be watched as soon as StartRun has returned."""
    if transcript.expects_error:
        return
    for session in transcript.sessions:
        for line in session.lines:
            if isinstance(line, Failed) and line.reason == "RUN_NOT_FOUND":
                yield "RUN_NOT_FOUND for a run that was started"


def same_log(transcript: Transcript, log: Log) -> Iterator[str]:
    """A cursor that the service refuses, and a log that is another one than before, are reported and never papered
    over: no retry without end, no quiet beginning from the start, no joining of two logs."""
    if not transcript.expects_error:
        return
    lines = [line for session in transcript.sessions for line in session.lines]
    reported = [line.reason for line in lines if isinstance(line, Failed)]
    if reported != [transcript.expects_error]:
        what = f"reported {reported[0]}" if reported else "continued" if _went_on(lines) else "said nothing"
        yield f"expected {transcript.expects_error}, the client {what}"


VALIDATORS: Final[Mapping[str, Validator]] = {
    "Ordered": ordered,
    "Unique": unique,
    "Dense": dense,
    "Atomic": atomic,
    "Resumable": resumable,
    "Bookmarkable": bookmarkable,
    "EndsOnce": ends_once,
    "SameForAll": same_for_all,
    "ReadYourWrites": read_your_writes,
    "SameLog": same_log,
}


def _events(session: Session) -> Iterator[Event]:
    return (line for line in session.lines if isinstance(line, Event))


def _went_on(lines: Sequence[object]) -> bool:
    return any(isinstance(line, Event | Ended) for line in lines)
