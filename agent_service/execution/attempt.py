"""One attempt at one run: from its claim to the commit that ends, suspends or hands back the run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar

from google.protobuf import struct_pb2

from agent_service.agents.context import RunContext, Suspended, received_key
from agent_service.agents.definition import Definition
from agent_service.agents.registry import Registry
from agent_service.config import Settings
from agent_service.execution import ending
from agent_service.execution.ending import Ending, Failure, Form, OutputInvalid, failure_of
from agent_service.log import record, telling, turns
from agent_service.log.history import Excerpt, Past
from agent_service.log.inbox import INBOX, Message, acceptance
from agent_service.log.journal import PREFIX as JOURNAL
from agent_service.log.journal import Journal
from agent_service.log.origin import ALL_EVENTS, Origin, events
from agent_service.log.remembered import Recollections
from agent_service.log.turns import TurnEnded
from agent_service.log.writer import Changes, CommitFailed, EventTooLarge, LogWriter, OwnershipLost
from agent_service.process import event_loop
from runwire import frames, tracing
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.caching_pubsub import CachingPubSub, History
from runwire.errors import CursorError, EventsLost, Fenced, FieldExists, NotFound, StoreUnavailable
from runwire.pubsub import Claim, Lease, LeaseState, Position, Schedule, Store
from runwire.scorer_requests import topic_of
from runwire.times import seconds_of, timestamp
from runwire.values import from_struct, from_value

_STUBBORN_SECONDS: Final = 10.0
"""How long a body that was cancelled may continue before it is left alone."""
_READ_RETRY_SECONDS: Final = (0.1, 0.2, 0.5, 1.0)
_MAX_ATTEMPTS_KEPT: Final = 50
_LATER_RELEASE_SECONDS: Final = 5.0
MAX_PENDING_BYTES: Final = 1024 * 1024
"""Of all requests that a run waits for at once, and of the answers that an event tells."""

Read = TypeVar("Read")

logger = logging.getLogger("agent_service.execution.attempt")


class Interrupt(Enum):
    """Why an attempt must stop before its body is done."""

    CANCEL = "cancelled"
    MESSAGE = "message"
    """A message of the conversation cancels the present turn."""
    DEADLINE = "deadline_exceeded"
    RELEASE = "released"
    LOST = "lost"
    BROKE_OUT = "broke_out"
    """Code of the agent, beside its body, raised what ends a process."""


class Execution:
    """One attempt. `run` does it; the other methods tell it of what happens meanwhile.

    Every attempt ends in one of the commits of `_finish`, `_finish_turn`, `_suspend`, `_hand_back` and `_wait_on`, or
    because the run is not this worker's any more, or because the store takes nothing. Whatever else goes wrong before
    the body is executed costs the attempt, and after `max_losses` of them the run; whatever goes wrong after it costs
    details of the end (see `ending`).
    """

    def __init__(
        self,
        claim: Claim,
        definition: Definition | None,
        *,
        store: Store,
        log: CachingPubSub,
        settings: Settings,
        worker: str,
        bodies: asyncio.TaskGroup,
        known: Recollections | None = None,
        resources: Any = None,
    ) -> None:
        """`definition` is None if the worker has no such agent: then the run ends. `known`: what the worker has in
        memory of conversations. `resources`: what the agent's lifespan has opened."""
        self._resources = resources
        self._claim = claim
        self._definition = definition
        self._store = store
        self._log = log
        self._settings = settings
        self._worker = worker
        self._bodies = bodies
        self._tenant, run_id = record.split_topic(claim.topic)
        self._claimed_at = time.monotonic()
        run = ending.read_run(claim)
        self._readable = run is not None
        self._run = run or run_pb2.Run(run_id=run_id)
        self._states = {self._run.state}
        """In whose lists the run may stand: as it was claimed, and what this attempt wrote or tried to write."""
        self._gone_through: Position | None = None
        """How much of the log of earlier attempts is in `_past` and `_excerpt`."""
        self._past = Past()
        self._excerpt = Excerpt(settings.max_sample_bytes)
        """Only of a run that has scorers."""
        self._writer = LogWriter(log, claim, self._now, self._excerpt.add if self._run.scorers else None)
        self._turns = turns.of_claim(claim, self._run, store, self._writer, known)
        """Of a conversation. Each attempt executes at most one."""
        self._interrupts: asyncio.Queue[Interrupt] = asyncio.Queue(maxsize=8)
        self._woken = asyncio.Event()
        self._journal = Journal(claim.fields, self._writer)
        self._why: Interrupt | None = None
        self._cut = False
        """The body was cancelled by us before it was done."""
        self._restarted = False
        self._broke_out: BaseException | None = None
        self._history_problem = ""
        self._span = tracing.Span()
        self._frames = ""
        """Where the agent raised what ends the run."""
        self._told_of_interrupt = False

    @classmethod
    def of(cls, claim: Claim, agents: Registry, **given: Any) -> Execution:
        """An execution by the agent that the run names; told in the log if there is none. `given` is for __init__."""
        run = ending.read_run(claim)
        definition = agents.get(run.agent_id) if run is not None and run.agent_id in agents else None
        if definition is None:
            logger.error("%s cannot be executed: what is stored of it is no run of an agent that is here", claim.topic)
        return cls(claim, definition, resources=agents.resources_of(definition), **given)

    @property
    def agent_id(self) -> str:
        return self._run.agent_id

    def __str__(self) -> str:
        return f"run {self._claim.topic}"

    @property
    def lease(self) -> Lease:
        return self._claim.lease

    def interrupt(self, why: Interrupt) -> None:
        """Stops the attempt, the sooner the more it matters."""
        with suppress(asyncio.QueueFull):
            self._interrupts.put_nowait(why)

    def broke_out(self, error: BaseException) -> None:
        """Told by the event loop, of which nothing of the run may be the end."""
        self._broke_out = error
        self.interrupt(Interrupt.BROKE_OUT)

    def lease_changed(self, state: LeaseState) -> None:
        """Told by Leases."""
        if state is LeaseState.LOST:
            self.interrupt(Interrupt.LOST)
        else:
            self._woken.set()

    async def run(self) -> None:
        """Executes the attempt. Returns when the run is ended, suspended, handed back, or owned by another worker."""
        with telling.about(self._claim, self._run, self._worker):
            telling.claimed(self._claim, self._run)
            with self._traced() as self._span:
                await self._run_attempt()

    def _traced(self) -> AbstractContextManager[tracing.Span]:
        """The span of this attempt: within StartRun's, and linked to that of the attempt before."""
        before = record.trace_of(self._claim.fields.get(record.TRACED, b""))
        return tracing.span(
            f"invoke_agent {self._run.agent_id}",
            parent=record.trace_of(self._claim.fields.get(record.TRACE, b"")),
            links=[before] if before else [],
            gen_ai__operation__name="invoke_agent",
            gen_ai__agent__id=self._run.agent_id,
            gen_ai__agent__name=self._run.agent_id,
            gen_ai__agent__version=self._run.agent_version or None,
            gen_ai__conversation__id=self._run.run_id if self._turns is not None else None,
            runwire__run__id=self._run.run_id,
            runwire__tenant=self._tenant,
            runwire__attempt=self._claim.head.attempt,
            runwire__worker=self._worker,
        )

    async def _run_attempt(self) -> None:
        if not self._is_given_up():
            await self._read_history()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._writer.run(), name=f"writer {self._claim.topic}"),
                group.create_task(self._watch_for_cancel(), name=f"wakes {self._claim.topic}"),
            ]
            try:
                await self._attempt()
            except OwnershipLost as error:
                logger.info("%s: attempt %d stopped: %s", self._claim.topic, self._claim.head.attempt, error)
            finally:
                for task in tasks:
                    task.cancel()

    async def _read_history(self) -> None:
        """Reads the log."""
        try:
            await self._patiently("its log", self._read_log)
        except MemoryError:
            raise
        except Exception as error:
            # It will not come back: a run that was left alone would be claimed again and again, and never end.
            words = str(error) if isinstance(error, EventsLost) else f"{type(error).__name__}: {error}"
            logger.error("%s: its log cannot be read: %s", self._claim.topic, words)
            self._history_problem = words

    async def _patiently(self, what: str, read: Callable[[], Awaitable[Read]]) -> Read:
        """Reads, for as long as the store needs to show it."""
        tries = 0
        while True:
            try:
                return await read()
            except StoreUnavailable as error:
                delay = _READ_RETRY_SECONDS[min(tries, len(_READ_RETRY_SECONDS) - 1)]
                logger.warning("%s: %s will be read again in %s s: %s", self._claim.topic, what, delay, error)
                tries += 1
                await asyncio.sleep(delay)

    def _now(self) -> float:
        return self._claim.time + time.monotonic() - self._claimed_at

    async def _read_log(self) -> None:
        """Goes through what earlier attempts wrote, a page at a time; after an error from where it was. Of a
        conversation, that is the present turn."""
        if self._turns is not None and self._gone_through is None:
            begun = self._run.turn.first_sequence if self._turns.is_open else self._claim.head.last + 1
            self._gone_through = Position(self._claim.head.epoch, begun - 1) if begun > 1 else None
        while (self._gone_through.sequence if self._gone_through else 0) < self._claim.head.last:
            history = await self._log.get_history(
                self._claim.topic, self._gone_through, max_events=2048, max_bytes=1024 * 1024
            )
            if history.batch is None:
                return
            self._gone_through = history.batch.position
            for data in frames.events(history.batch.body):
                event = run_event_pb2.RunEvent.FromString(data)
                self._past.add(event)
                if self._run.scorers:
                    self._excerpt.add(event)

    async def _attempt(self) -> None:
        if record.is_of_later_release(self._claim.fields):
            logger.warning("%s: a later release has written it; it is left to workers of that one", self._claim.topic)
            await self._wait_on(_LATER_RELEASE_SECONDS)
        # What ends the run before anything else is done with it comes before anything that its contents could disturb.
        elif record.CANCEL in self._claim.fields:
            await self._end_unexecuted(run_pb2.RUN_STATE_CANCELLED)
        elif self._turns is not None and self._turns.is_interrupted and not self._is_given_up():
            await self._end_unexecuted(run_pb2.RUN_STATE_CANCELLED, turn_only=True)
        elif (before := self._failure_before()) is not None:
            await self._end_unexecuted(run_pb2.RUN_STATE_FAILED, before)
        elif self._turns is not None and record.FORK in self._claim.fields:
            await self._begin_fork(self._turns)
        elif self._changed() and not self._is_orphan():
            await self._pass_on()
        elif self._still_waits():
            await self._wait_on(self._waits())
        elif self._turns is not None and not self._turns.is_open:
            await self._converse(self._turns)
        else:
            await self._begin(restart=self._changed())
            await self._execute()

    def _is_orphan(self) -> bool:
        return record.ORPHANED in self._claim.fields

    async def _pass_on(self) -> None:
        """Leaves the run to the workers that have its version."""
        queue = record.queue_of(self._run.agent_id, self._run.agent_version)
        await self._writer.write(Changes(schedule=Schedule.DUE, queue=queue))

    async def _wait_on(self, seconds: float | None, queue: str = "") -> None:
        """What the run waits for has not come: as before."""
        await self._writer.write(Changes(queue=queue, **_wait(seconds)))

    async def _converse(self, talk: turns.Turns) -> None:
        """Between two turns: begins the next, ends the conversation, or waits on."""
        message = talk.next()
        if message is None and not talk.inbox.is_over:
            idle = talk.idle_seconds(self._now())
            if idle is None or idle > 0 or not await self._accept_end(talk):
                waits = [seconds for seconds in (idle, self._remaining()) if seconds is not None]
                await self._wait_on(min(waits, default=None), record.any_queue_of(self._run.agent_id))
                return
            message = talk.next()
        if message is not None and not message.is_end:
            await self._begin(opening=message)
            if talk.is_interrupted:
                await self._finish_turn(talk, run_pb2.RUN_STATE_CANCELLED)
            else:
                await self._execute()
        else:
            await self._begin(ending=message)
            await self._end_conversation()

    async def _end_conversation(self) -> None:
        """No message will come. A workflow is told, and ends in its own way."""
        if self._definition is not None and self._definition.kind == run_pb2.AGENT_KIND_WORKFLOW:
            await self._execute()
        else:
            output = self._run.output if self._run.HasField("output") else None
            await self._finish(run_pb2.RUN_STATE_SUCCEEDED, output=output)

    async def _accept_end(self, talk: turns.Turns) -> bool:
        """Nobody has said anything for too long: accepts the end, as EndConversation does. False if a message was
        accepted first, which woke the run."""
        accepted = talk.inbox.accepted
        end = Message.end(accepted.count + 1)
        try:
            await self._log.publish(acceptance(self._claim.topic, self._claim.head.attempt, accepted, end))
        except (Fenced, FieldExists):
            return False
        talk.inbox.learn({INBOX: accepted.and_one(end).pack(), end.field: end.pack()})
        return True

    def _is_given_up(self) -> bool:
        """Whether the run is guilty of what its workers died of: it was executed alone each time."""
        return is_given_up(self._claim, self._settings)

    def _failure_before(self) -> Failure | None:
        """What ends the run before its body is executed again."""
        if self._is_given_up():
            return Failure("worker_lost", self._losses())
        if not self._readable:
            return Failure("run_unreadable", "the run cannot be executed, because what is stored of it cannot be read")
        if self._history_problem:
            return Failure(
                "events_lost", f"the run cannot continue, because its log is not whole: {self._history_problem}"
            )
        if self._definition is None:
            return Failure("run_unreadable", f"the run names the agent {self._run.agent_id!r}, which is not its own")
        if self._remaining() is not None and self._remaining() <= 0:  # type: ignore[operator]
            return Failure("deadline_exceeded", "the run's timeout has passed")
        if self._changed() and self._is_orphan() and self._definition.on_version_change != "restart":
            return Failure(
                "agent_changed",
                f"the run was begun by version {self._run.agent_version!r} of the agent, which nobody has any "
                f"more, and this is {self._version!r}: its journal may not fit",
            )
        return None

    def _losses(self) -> str:
        last = self._claim.fields.get(record.DEATH, b"").decode(errors="replace")
        return (
            f"the run was executed {self._claim.alone_losses} times in a row with nothing beside it, and each time its "
            f"worker died or gave it up{f'; the last time: {last}' if last else ''}"
        )

    @property
    def _version(self) -> str:
        """Of the agent that this worker has."""
        return self._run.agent_version if self._definition is None else self._definition.version

    async def _end_unexecuted(
        self, state: run_pb2.RunState, failure: Failure | None = None, *, turn_only: bool = False
    ) -> None:
        """Ends the run, or its present turn, without executing it. That the attempt was begun is told if it can be
        told."""
        self._writer.end()
        try:
            await self._begin()
        except (OwnershipLost, asyncio.CancelledError):
            raise
        except Exception:
            logger.exception(
                "%s: the attempt that ends it cannot be begun; it is ended all the same", self._claim.topic
            )
        if turn_only and self._turns is not None:
            await self._finish_turn(self._turns, state)
        else:
            await self._finish(state, error=failure)

    def _changed(self) -> bool:
        """Whether what was done was done by another version of the agent."""
        begun = self._claim.head.last > 0 if self._turns is None else self._turns.is_open
        return begun and self._run.agent_version != self._version

    def _remaining(self) -> float | None:
        """Seconds until the run's deadline; None without one."""
        if not self._run.HasField("timeout"):
            return None
        return self._claim.head.create_time + seconds_of(self._run.timeout) - self._now()

    def _still_waits(self) -> bool:
        """Whether a suspended run was claimed although what it waits for has not come."""
        if self._run.state != run_pb2.RUN_STATE_SUSPENDED or self._changed():
            return False
        answered = record.answers(self._claim.fields)
        lapsed = (self._waits() or 1.0) <= 0
        return not lapsed and any(request.request_id not in answered for request in self._run.pending)

    def _waits(self) -> float | None:
        """Seconds until a suspended run continues without an answer: a request lapses, or the run's deadline."""
        moments = [seconds_of(r.deadline) - self._now() for r in self._run.pending if r.HasField("deadline")]
        remaining = self._remaining()
        return min([*moments, *([remaining] if remaining is not None else [])], default=None)

    async def _begin(
        self, *, restart: bool = False, opening: Message | None = None, ending: Message | None = None
    ) -> None:
        """The first commit of the attempt: from here on the attempt before can write nothing. `restart`: what was done
        and said so far, in a conversation in the present turn, does not count. `opening`: a turn begins with this
        message. `ending`: the conversation is over."""
        run, first = self._run, self._claim.head.last == 0
        payload: dict[str, Any] = {}
        puts: dict[str, bytes] = {}
        deletes = self._turns.stale() if self._turns is not None else []
        deletes += [record.ORPHANED] if self._is_orphan() else []
        if self._span.carrier:
            puts[record.TRACED] = record.pack_trace(self._span.carrier)
        forked = record.FORK in self._claim.fields and not restart
        if (first and not forked) or restart:
            self._restarted, self._past = restart, Past()
            self._journal = Journal({}, self._writer)
            deletes += [name for name in self._claim.fields if name.startswith((JOURNAL, record.ANSWER, record.FORK))]
        if first or restart:
            run.agent_version = self._version
        if first or (restart and self._turns is None):
            payload["run_started"] = run_event_pb2.RunStarted(run_id=run.run_id, agent_id=run.agent_id, input=run.input)
        elif restart and self._turns is not None and (again := self._turns.message) is not None:
            payload["turn_started"] = self._turns.begin_again(again)
        elif run.state == run_pb2.RUN_STATE_SUSPENDED:
            payload["run_resumed"] = run_event_pb2.RunResumed(answers=self._answered())
        self._open_attempt()
        if ending is not None and self._turns is not None:
            puts |= self._turns.inbox.consume(ending)
        if opening is not None and self._turns is not None:
            if payload:
                await self._writer.write(self._record(deletes=deletes), **payload)
                payload, deletes = {}, []
            run.agent_version = self._version
            payload["turn_started"], of_turn = self._turns.begin(opening, self._now())
            puts |= {**of_turn, **self._received(opening)}
        await self._writer.write(self._record(also=puts, deletes=deletes), **payload)
        telling.began(self._claim, self._run, self._now())
        if forked and self._turns is None:
            async for event in self._tell_of_source():
                event.attempt = self._claim.head.attempt
                self._past.add(event)
            await self._writer.write(Changes(deletes=[record.FORK]))

    async def _begin_fork(self, talk: turns.Turns) -> None:
        """Begins the log of a conversation that was forked. Its first turn is another attempt's."""
        await self._begin()
        told: dict[int, run_pb2.Turn] = {}
        async for event in self._tell_of_source():
            turn = told.setdefault(event.turn, run_pb2.Turn(turn=event.turn))
            if event.HasField("turn_started"):
                turn.first_sequence = event.sequence
            elif event.HasField("turn_finished"):
                turn.last_sequence = event.sequence
                turns.add_usage(self._run.usage, event.turn_finished.usage)
        self._writer.turn = 0
        self._run.state = run_pb2.RUN_STATE_WAITING
        self._close_attempt("waiting")
        waits = [seconds for seconds in (talk.idle_seconds(self._now()), self._remaining()) if seconds is not None]
        wait = _wait(0.0 if talk.inbox.waiting else min(waits, default=None))
        wait["queue"] = record.any_queue_of(self._run.agent_id)
        puts = await self._turns_taken_over(told)
        await self._writer.write(self._record(also=puts, deletes=[record.FORK], **wait))

    async def _turns_taken_over(self, told: Mapping[int, run_pb2.Turn]) -> dict[str, bytes]:
        """The fields of the turns of another conversation, as this log tells of them."""
        source = self._source[1]
        puts: dict[str, bytes] = {}
        names = {record.turn_field(number): number for number in sorted(told)}
        found = await self._patiently("its source", partial(record.read, self._store, source, [*names]))
        for name, data in found.items():
            turn = run_pb2.Turn.FromString(data)
            turn.MergeFrom(told[names[name]])
            puts[name] = turn.SerializeToString()
            if turn.turn == self._run.turn.turn:
                self._run.turn.CopyFrom(turn)
        return puts

    @property
    def _source(self) -> tuple[Origin, str]:
        """Where a fork came from, and the topic of that run."""
        origin = Origin.unpack(self._claim.fields[record.FORK])
        return origin, topic_of(self._tenant, origin.run_id)

    async def _tell_of_source(self) -> AsyncIterator[run_event_pb2.RunEvent]:
        """Begins the log of a fork with what its source tells of what was taken over; all of these events, with their
        place in this log. What an attempt that died has told is not told again: it follows RunStarted."""
        origin, source = self._source
        sequence, told = 1, self._claim.head.last

        async def read(after: Position | None, **bounds: int) -> History:
            return await self._patiently("its source", partial(self._log.get_history, source, after, **bounds))

        try:
            async for event in events(read, origin.last if origin.turn else ALL_EVENTS):
                if not origin.takes(event):
                    continue
                sequence += 1
                payload = event.WhichOneof("payload") or ""
                if sequence > told:
                    self._writer.turn = event.turn
                    await self._writer.emit(event.step, **{payload: getattr(event, payload)})
                event.sequence = sequence
                yield event
        except (NotFound, EventsLost, CursorError) as error:  # the latter two while it was read
            # Its journal is what counts.
            logger.warning("%s: what its source told is gone: %s", self._claim.topic, error)

    def _open_attempt(self) -> None:
        """In the record."""
        run = self._run
        self._close_attempt("worker_lost")
        run.state, run.attempt = run_pb2.RUN_STATE_RUNNING, self._claim.head.attempt
        del run.pending[:]
        attempt = run.attempts.add(attempt=run.attempt, worker=self._worker, start_time=timestamp(self._now()))
        del run.attempts[:-_MAX_ATTEMPTS_KEPT]
        if not run.HasField("start_time"):
            run.start_time.CopyFrom(attempt.start_time)

    def _received(self, message: Message) -> dict[str, bytes]:
        """What a workflow's `receive` will find, where one begins a turn by it."""
        assert self._turns is not None
        assert message.value is not None
        if self._definition is None or self._definition.kind != run_pb2.AGENT_KIND_WORKFLOW or message.number == 1:
            return {}
        return self._journal.put(received_key(self._turns.number - 1), message.value.SerializeToString())

    def _answered(self) -> list[run_event_pb2.Answer]:
        """The answers to tell of: as far as an event can hold them, those that are too large without their data."""
        answers, room = record.answers(self._claim.fields), MAX_PENDING_BYTES
        told = []
        for answer in (answers[each.request_id] for each in self._run.pending if each.request_id in answers):
            room -= answer.ByteSize()
            told.append(answer if room >= 0 else run_event_pb2.Answer(request_id=answer.request_id))
        return told

    async def _execute(self) -> None:
        if self._turns is not None and self._turns.is_open:
            try:
                await self._patiently("what it remembers", self._turns.recollection.load)
            except EventsLost as error:
                await self._finish(run_pb2.RUN_STATE_FAILED, error=Failure("events_lost", str(error)))
                return
        context = self._context()
        # In the worker's group: a body that does not heed cancellation must not hold up the end of its run.
        body = self._bodies.create_task(
            self._body(context), name=f"body {self._claim.topic}", context=event_loop.context_of(self)
        )
        try:
            async with asyncio.TaskGroup() as group:
                interrupting = group.create_task(self._interrupt_body(context, body))
                await asyncio.wait({body, interrupting}, return_when=asyncio.FIRST_COMPLETED)
                interrupting.cancel()
            await self._conclude(context, body)
        finally:
            # Whatever ended the attempt: a body without one works for nobody.
            body.cancel()

    def _context(self) -> RunContext:
        return RunContext(
            run=self._run,
            tenant=self._tenant,
            past=self._past,
            writer=self._writer,
            journal=self._journal,
            answers={} if self._restarted else record.answers(self._claim.fields),
            now=self._now,
            turns=self._turns,
            context=from_struct(record.context(self._claim.fields)),
            resources=self._resources,
        )

    async def _body(self, context: RunContext) -> struct_pb2.Value | BaseException:
        """What the definition's body returned, or raised: a failed body must not fail the worker's group.

        A cancellation is no exception to that: the one that this attempt asked for is known to it (`_cut`), and any
        other is the agent's own.
        """
        try:
            assert self._definition is not None
            output = await self._definition.body(context, self._definition.parse_input(self._input()))
            value = self._definition.dump_output(output)
            if problem := self._definition.output_problem(output):
                raise OutputInvalid(problem, value)
            return value
        except BaseException as error:
            return error

    def _input(self) -> struct_pb2.Value:
        """What the body is given: the run's input, or for an agent in a conversation the message of its turn."""
        assert self._definition is not None
        if self._turns is None or self._definition.kind == run_pb2.AGENT_KIND_WORKFLOW:
            return self._run.input
        message = self._turns.message
        if message is None or message.value is None:
            raise EventsLost("the message of the turn is gone")
        return message.value

    async def _interrupt_body(self, context: RunContext, body: asyncio.Task[Any]) -> None:
        """Waits for a reason to stop the body, and stops it."""
        try:
            async with asyncio.timeout(self._remaining()):
                self._why = await self._interrupts.get()
        except TimeoutError:
            self._why = Interrupt.DEADLINE
        if self._why is Interrupt.CANCEL:
            context.cancel()
            if context.heeds_cancellation:
                await asyncio.wait({body}, timeout=self._settings.cancel_grace_seconds)
        if not body.done():
            self._cut = True
            body.cancel()
            await asyncio.wait({body}, timeout=_STUBBORN_SECONDS)

    async def _conclude(self, context: RunContext, body: asyncio.Task[struct_pb2.Value | BaseException]) -> None:
        """The last commit of the attempt."""
        self._writer.end()
        if not body.done():
            logger.error("%s: its body does not end although it was cancelled", self._claim.topic)
        result = body.result() if body.done() and not body.cancelled() else None
        try:
            self._run.usage.CopyFrom(context.usage)
            await self._conclude_with(result)
        except (OwnershipLost, asyncio.CancelledError):
            raise
        except BaseException as error:
            # Of ours, or of what the agent left in its context. It was executed, and is not again for that.
            logger.error("%s: its attempt cannot be concluded: %s", self._claim.topic, ending.trace(error))
            failure = Failure("internal_error", f"the end of the run failed: {ending.words(error)}")
            await self._finish(run_pb2.RUN_STATE_FAILED, error=failure)

    async def _conclude_with(self, result: struct_pb2.Value | BaseException | None) -> None:
        """`result` is what the body returned or raised; None if it has not ended."""
        if isinstance(result, OwnershipLost):
            raise result
        if self._why is Interrupt.LOST:
            raise OwnershipLost("the lease ended")
        if self._why is Interrupt.CANCEL:
            output = result if isinstance(result, struct_pb2.Value) else None
            await self._finish(run_pb2.RUN_STATE_CANCELLED, output=output)
        elif self._broke_out is not None:
            await self._fail(self._broke_out)
        elif isinstance(result, TurnEnded) and self._turns is not None and self._definition is not None:
            output = self._definition.dump_any(result.output) if result.output is not None else None
            await self._finish_turn(self._turns, run_pb2.RUN_STATE_SUCCEEDED, output=output)
        elif isinstance(result, Suspended):
            await self._suspend(result)
        elif result is None or (self._cut and isinstance(result, BaseException)):
            # What it raised because it was cancelled is no failure of its own.
            await self._conclude_cut()
        elif isinstance(result, BaseException):
            await self._fail(result)
        else:
            await self._finish(run_pb2.RUN_STATE_SUCCEEDED, output=result)

    async def _conclude_cut(self) -> None:
        if self._why is Interrupt.DEADLINE:
            failure = Failure("deadline_exceeded", "the run's timeout has passed")
            await self._finish(run_pb2.RUN_STATE_FAILED, error=failure)
        elif self._why is Interrupt.RELEASE:
            await self._hand_back()
        elif self._why is Interrupt.MESSAGE and self._turns is not None:
            await self._finish_turn(self._turns, run_pb2.RUN_STATE_CANCELLED, output=self._turns.output())
        else:
            raise asyncio.CancelledError

    async def _fail(self, error: BaseException) -> None:
        """Ends the run with what its agent raised."""
        self._frames = ending.frames_of(error)
        logger.debug("%s failed: %s", self._claim.topic, ending.trace(error))
        failure = failure_of(error)
        if isinstance(error, asyncio.CancelledError):
            failure = Failure(
                "agent_error",
                "the agent was cancelled by itself, or by something that it awaited, and by nobody else",
                failure.error_class,
            )
        output = error.output if isinstance(error, OutputInvalid) else None
        await self._finish(run_pb2.RUN_STATE_FAILED, output=output, error=failure)

    async def _suspend(self, suspended: Suspended) -> None:
        run = self._run
        suspension = run_event_pb2.RunSuspended(pending=suspended.pending)
        if (size := suspension.ByteSize()) > MAX_PENDING_BYTES:
            too_large = EventTooLarge(f"what the run waits for has {size} bytes, more than {MAX_PENDING_BYTES}")
            await self._finish(run_pb2.RUN_STATE_FAILED, error=failure_of(too_large))
            return
        run.state = run_pb2.RUN_STATE_SUSPENDED
        run.pending.extend(suspended.pending)
        self._close_attempt("suspended")
        waits = [seconds for seconds in (suspended.due_in, self._waits()) if seconds is not None]
        await self._writer.write(
            self._record(queue=self._bound_queue(), **_wait(min(waits, default=None))),
            run_suspended=suspension,
        )
        telling.suspended(run)

    async def _hand_back(self) -> None:
        """For any worker to continue with, at once. If its record cannot be written, without it."""
        self._close_attempt("released")
        try:
            await self._writer.write(self._record(schedule=Schedule.DUE, queue=self._bound_queue()))
        except CommitFailed as error:
            logger.error("%s: it is handed back without a word in its record: %s", self._claim.topic, error)
            await self._writer.write(Changes(schedule=Schedule.DUE, queue=self._bound_queue()))
        telling.handed_back()

    def _bound_queue(self) -> str:
        """Where a run that is under way is found. A conversation was found among those between two turns."""
        return "" if self._turns is None else record.queue_of(self._run.agent_id, self._run.agent_version)

    async def _finish(
        self, state: run_pb2.RunState, *, output: struct_pb2.Value | None = None, error: Failure | None = None
    ) -> None:
        """The terminal event, what it asks of scorers and the end of the schedule: one atomic write, in the richest
        form in which it can be made and the store takes it. Raises CommitFailed if it takes none.

        In a conversation it ends the present turn, and the run only with what no other turn would be spared."""
        self._writer.end()
        if self._turns is not None and self._turns.is_open:
            goes_on = not self._ends_conversation(state, error)
            await self._finish_turn(self._turns, state, output=output, error=error, goes_on=goes_on)
            if goes_on:
                return
            if state != run_pb2.RUN_STATE_SUCCEEDED:
                output = None
        self._close_attempt("finished")
        whole = not (self._history_problem or self._writer.unobserved or self._is_given_up())
        end = Ending(
            self._claim, self._run, self._excerpt, whole, state, output, error, self._now(), trace=self._span.carrier
        )
        problem: BaseException | None = None
        for form in Form:
            try:
                changes, finished = self._last_changes(end, form)
                await self._writer.write(changes, run_finished=finished)
            except (OwnershipLost, asyncio.CancelledError):
                raise
            except BaseException as refused:
                if problem is None:
                    topic, why = self._claim.topic, ending.trace(refused)
                    logger.error("%s: its end cannot be written whole, and is written with less: %s", topic, why)
                problem = refused
            else:
                lasted = self._now() - self._claim.head.create_time
                telling.ended(self._run, state, error.reason if error else "", lasted, self._frames)
                self._tell_span(state, error, output)
                return
        raise CommitFailed(f"the end of {self._claim.topic} cannot be written in any form") from problem

    def _tell_span(self, state: run_pb2.RunState, error: Failure | None, output: struct_pb2.Value | None) -> None:
        usage = self._run.usage
        self._span.set(
            runwire__run__state=run_pb2.RunState.Name(state).removeprefix("RUN_STATE_").lower(),
            gen_ai__usage__input_tokens=usage.input_tokens,
            gen_ai__usage__output_tokens=usage.output_tokens,
        )
        self._span.say("gen_ai.input.messages", lambda: from_value(self._run.input))
        self._span.say("gen_ai.output.messages", lambda: from_value(output) if output is not None else None)
        if error is not None:
            self._span.fail(error.reason)

    def _ends_conversation(self, state: run_pb2.RunState, error: Failure | None) -> bool:
        """Whether the run ends with its turn: it was cancelled, its time is over, its workflow has returned or raised,
        or it cannot be read."""
        workflow = self._definition is None or self._definition.kind == run_pb2.AGENT_KIND_WORKFLOW
        ending = ("deadline_exceeded", "run_unreadable", "events_lost")
        return workflow or state == run_pb2.RUN_STATE_CANCELLED or (error is not None and error.reason in ending)

    async def _finish_turn(
        self,
        talk: turns.Turns,
        state: run_pb2.RunState,
        *,
        output: struct_pb2.Value | None = None,
        error: Failure | None = None,
        goes_on: bool = True,
    ) -> None:
        """Ends the present turn: what tells of it, what is remembered of it, what it asks of scorers, and where the
        conversation continues, the end of the lease: one atomic write, with less where it cannot be made whole."""
        self._writer.end()
        problem: BaseException | None = None
        for form in Form:
            try:
                changes, finished = await self._turn_changes(talk, state, output, error, form, goes_on)
                await self._writer.write(changes, turn_finished=finished)
                self._writer.turn = 0
            except (OwnershipLost, asyncio.CancelledError):
                raise
            except BaseException as refused:
                if problem is None:
                    why = ending.trace(refused)
                    logger.error("%s: the end of its turn is written with less: %s", self._claim.topic, why)
                problem = refused
            else:
                talk.recollection.keep()
                telling.turn_ended(self._run.turn.turn, state, error.reason if error else "", self._frames)
                self._tell_span(state, error, output)
                self._frames = ""
                return
        raise CommitFailed(f"the end of a turn of {self._claim.topic} cannot be written in any form") from problem

    async def _turn_changes(
        self,
        talk: turns.Turns,
        state: run_pb2.RunState,
        output: struct_pb2.Value | None,
        error: Failure | None,
        form: Form,
        goes_on: bool,
    ) -> tuple[Changes, run_event_pb2.TurnFinished]:
        run = self._run
        whole = not (self._history_problem or self._writer.unobserved or self._is_given_up())
        end = Ending(
            self._claim, run, self._excerpt, whole, state, output, error, self._now(), talk.message, self._span.carrier
        )
        output = end.output_in(form)
        failure = error.to_proto() if error is not None else None
        for_forks = self._settings.fork_retention_seconds > 0
        remembered, spared = (
            await talk.remember(state, for_forks=for_forks) if form is Form.WHOLE else (talk.remember_this(b""), [])
        )
        steps = max([self._writer.highest_step, *self._past.steps])
        puts, deletes = talk.end(state, failure, steps, self._now())
        deletes += spared
        finished = run_event_pb2.TurnFinished(state=state, output=output, error=failure, usage=run.turn.usage)
        if goes_on:
            run.state = run_pb2.RUN_STATE_WAITING
            self._close_attempt("waiting")
            deletes += self._journal_of_turn()
            if output is not None and state == run_pb2.RUN_STATE_SUCCEEDED:
                run.output.CopyFrom(output)
        waits = [seconds for seconds in (talk.idle_seconds(self._now()), self._remaining()) if seconds is not None]
        schedule: dict[str, Any] = {}
        if goes_on:
            schedule = _wait(0.0 if talk.inbox.waiting else min(waits, default=None))
            schedule["queue"] = record.any_queue_of(run.agent_id)
        return self._record(
            also={**puts, **remembered},
            deletes=deletes,
            messages=end.messages(form, run, self._settings.max_sample_bytes),
            **schedule,
        ), finished

    def _is_kept_for_forks(self) -> bool:
        """Whether the journal is kept after the end. Of an agent in a conversation it is that of its last turn only."""
        agent = self._definition is not None and self._definition.kind == run_pb2.AGENT_KIND_AGENT
        return self._settings.fork_retention_seconds > 0 and not (agent and self._turns is not None)

    def _journal_of_turn(self) -> list[str]:
        """What is of no use any more after the turn: a workflow is executed from its beginning in every turn."""
        workflow = self._definition is not None and self._definition.kind == run_pb2.AGENT_KIND_WORKFLOW
        if workflow:
            return []
        return [*self._journal.fields(), *(name for name in self._claim.fields if name.startswith(record.ANSWER))]

    def _last_changes(self, end: Ending, form: Form) -> tuple[Changes, run_event_pb2.RunFinished]:
        run, finished = end.finished(form)
        return self._record(
            run,
            # It goes with the log, unless there are to be no forks.
            deletes=[] if self._is_kept_for_forks() else self._journal.fields(),
            messages=end.messages(form, run, self._settings.max_sample_bytes),
            schedule=Schedule.NEVER,
            final=end.state,
            retention=self._settings.retention_seconds,
            tombstone=self._settings.tombstone_seconds,
        ), finished

    def _record(
        self, run: run_pb2.Run | None = None, *, also: Mapping[str, bytes] | None = None, **changes: Any
    ) -> Changes:
        """Writes the run as it is now, or `run` in its place, and the fields of `also`, and moves it to the list of its
        state."""
        if self._turns is not None:
            self._turns.count()
        run = run or self._run
        state = run.state
        others = self._states - {state}
        self._states.add(state)
        return Changes(
            puts={**record.puts(run), **(also or {})},
            indexes=[record.state_list(self._tenant, state)] if others else [],
            leaves=[record.state_list(self._tenant, other) for other in others],
            **changes,
        )

    def _close_attempt(self, outcome: str) -> None:
        if self._run.attempts and not self._run.attempts[-1].outcome:
            attempt = self._run.attempts[-1]
            attempt.outcome = outcome
            if outcome != "worker_lost":
                attempt.end_time.CopyFrom(timestamp(self._now()))

    async def _watch_for_cancel(self) -> None:
        """Looks, whenever the lease says that somebody woke the run, whether it was cancelled, or interrupted by a
        message."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                wanted = [record.CANCEL] if self._turns is None else [record.CANCEL, INBOX]
                stored = await self._store.get(self._claim.topic, wanted)
            except StoreUnavailable as error:
                # The lease keeps saying that the run was woken.
                logger.warning("%s: cannot see why it was woken: %s", self._claim.topic, error)
                continue
            except Exception:
                logger.exception("%s: cannot see why it was woken", self._claim.topic)
                continue
            if stored is not None and record.CANCEL in stored.fields:
                self.interrupt(Interrupt.CANCEL)
                return
            if stored is not None and self._turns is not None:
                self._turns.inbox.learn(stored.fields)
                if self._turns.is_interrupted and not self._told_of_interrupt:
                    self._told_of_interrupt = True
                    self.interrupt(Interrupt.MESSAGE)


def is_given_up(claim: Claim, settings: Settings) -> bool:
    """Whether so many workers died of this run, or gave it up, that it is not executed again."""
    return claim.alone_losses >= settings.max_losses


def _wait(seconds: float | None) -> dict[str, Any]:
    """What ends the lease until so many seconds have passed; None: until somebody wakes the run."""
    if seconds is None:
        return {"schedule": Schedule.NEVER}
    return {"schedule": Schedule.DUE, "due_in": max(0.0, seconds)}
