"""The event loop of the process, and what the code of a run may do to it."""

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agent_service.process import event_loop
from tests.servers import missing

LIMIT_SECONDS = 10.0


@pytest.fixture(autouse=True, params=["asyncio", "uvloop"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test, on both loops."""
    if request.param == "uvloop" and event_loop.uvloop_loop is None:
        missing("uvloop", "not installed")
    monkeypatch.setenv("RUNWIRE_EVENT_LOOP", request.param)
    return str(request.param)


class Recorder:
    """An owner that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[BaseException] = []
        self.changed = asyncio.Event()

    def broke_out(self, error: BaseException) -> None:
        self.told.append(error)
        self.changed.set()


async def _leave() -> None:
    raise SystemExit(7)


async def _interrupt() -> None:
    raise KeyboardInterrupt


def _leave_now(*_: Any) -> None:
    raise SystemExit(7)


async def in_a_task() -> None:
    task = asyncio.create_task(_leave())
    await asyncio.wait({task})


async def in_a_task_of_a_task() -> None:
    await asyncio.wait({asyncio.create_task(in_a_task())})


async def in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(_leave_now)


async def in_a_timer() -> None:
    asyncio.get_running_loop().call_later(0.001, _leave_now)


async def in_a_done_callback() -> None:
    asyncio.create_task(asyncio.sleep(0)).add_done_callback(_leave_now)
    await asyncio.sleep(0.01)


async def from_a_thread() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(loop.call_soon_threadsafe, _leave_now)


async def by_interrupting() -> None:
    await asyncio.wait({asyncio.create_task(_interrupt())})


async def in_an_asynchronous_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise SystemExit(7)

    async def use() -> None:
        async for _ in numbers():
            break

    await asyncio.wait({asyncio.create_task(use())})


BREAKING_OUT: list[Callable[[], Awaitable[None]]] = [
    in_a_task,
    in_a_task_of_a_task,
    in_a_callback,
    in_a_timer,
    in_a_done_callback,
    from_a_thread,
    by_interrupting,
    in_an_asynchronous_generator,
]


@pytest.mark.parametrize("code", BREAKING_OUT, ids=lambda code: code.__name__)
def test_what_breaks_out_is_told_to_whose_it_is(code: Callable[[], Awaitable[None]]) -> None:
    """SystemExit and KeyboardInterrupt, wherever on the loop the code of a run raises them: the loop continues, and the
    run's owner is told, and nobody else."""

    async def service() -> list[BaseException]:
        mine, other = Recorder(), Recorder()
        async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
            waiting = group.create_task(asyncio.sleep(0.05), context=event_loop.context_of(other))
            await group.create_task(_as_body(code), context=event_loop.context_of(mine))
            await mine.changed.wait()
            await waiting
        assert not other.told
        return mine.told

    told = in_main(service)
    assert {type(error) for error in told} <= {SystemExit, KeyboardInterrupt}


async def _as_body(code: Callable[[], Awaitable[None]]) -> None:
    try:
        await code()
    except BaseException:
        pass


def in_main(service: Callable[[], Any]) -> Any:
    """Runs it with the handler of SIGINT that a service has."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return event_loop.run(service())
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_loop_goes_on_when_something_stops_it(caplog: pytest.LogCaptureFixture) -> None:
    """loop.stop() and an exit that is nobody's are told in the log and end nothing."""

    async def service() -> str:
        loop = asyncio.get_running_loop()
        loop.stop()
        await asyncio.sleep(0.01)
        loop.call_soon(_leave_now)
        await asyncio.sleep(0.01)
        return "ended"

    with caplog.at_level(logging.ERROR):
        assert in_main(service) == "ended"
    assert "stopped the event loop" in caplog.text
    assert "is nobody's" in caplog.text


def test_a_run_cancels_neither_the_service_nor_another_run() -> None:
    """Code of a run that cancels every task it can see stops itself, and no task of the service or body of a run."""

    async def cancel_all() -> None:
        child = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.wait({child})

    async def service() -> tuple[bool, str, str]:
        async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
            waiting = group.create_task(asyncio.sleep(0.05, "done"))
            other = group.create_task(asyncio.sleep(0.05, "done"), context=event_loop.context_of(Recorder()))
            body = group.create_task(cancel_all(), context=event_loop.context_of(Recorder()))
            await asyncio.wait({body})
            return body.cancelled(), await waiting, await other

    assert in_main(service) == (True, "done", "done")


def test_the_service_itself_may_exit() -> None:
    """SystemExit of the main coroutine, and an exception of it, come out as they do of asyncio.run."""

    async def fail() -> None:
        raise ValueError("wrong")

    with pytest.raises(SystemExit) as exit:
        event_loop.run(_leave())
    assert exit.value.code == 7
    with pytest.raises(ValueError, match="wrong"):
        event_loop.run(fail())


def test_what_is_left_is_ended_with_the_loop() -> None:
    """Tasks that the service leaves are cancelled; one that does not heed it, or a thread, does not hold up the end."""
    cancelled: list[str] = []
    free = threading.Event()

    async def heed() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append("heeded")

    async def service() -> None:
        loop = asyncio.get_running_loop()
        left.append(loop.create_task(heed()))
        left.append(loop.run_in_executor(None, free.wait, LIMIT_SECONDS))
        await asyncio.sleep(0)

    left: list[asyncio.Future[Any]] = []
    event_loop.run(service())
    assert cancelled == ["heeded"]
    free.set()


def test_ctrl_c_before_the_service_heeds_it() -> None:
    """It ends the main coroutine, which may clean up, and comes out as it does of asyncio.run."""
    cleaned: list[bool] = []

    async def start() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            event_loop.run(start())
    finally:
        signal.signal(signal.SIGINT, before)
    assert cleaned == [True]


def test_which_loop_it_is(kind: str) -> None:
    """uvloop's where it is installed and not declined."""

    async def module() -> str:
        return type(asyncio.get_running_loop()).__mro__[1].__module__

    assert event_loop.run(module()).partition(".")[0] == kind
