"""A pytest plugin: fixtures for tests of agents, asynchronous or not. Loaded wherever runwire is installed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from agent_service import Definition
    from runwire.fold import RunView, Turn
    from runwire.scorer.v1.scorer_run_pb2 import ScorerRun
    from runwire.testing.services import Services

T = TypeVar("T")


@pytest.fixture
def runwire_serve() -> Callable[..., AbstractAsyncContextManager[Services]]:
    """`runwire.testing.serve`, for asynchronous tests: `async with runwire_serve([agent]) as services`."""
    from runwire.testing.services import serve

    return serve


@pytest.fixture
def runwire_services() -> Iterator[Callable[..., BlockingServices]]:
    """Services for tests that are not asynchronous: `services = runwire_services([agent], scorers=[...])`. They end
    with the test."""
    with ExitStack() as stack:

        def start(agents: Iterable[Definition], **given: Any) -> BlockingServices:
            return stack.enter_context(_in_a_thread(agents, given))

        yield start


class BlockingServices:
    """As `runwire.testing.Services`, without asyncio. `client` is for what is not here: a `runwire.client.sync` client
    of `address`."""

    def __init__(self, services: Services, loop: asyncio.AbstractEventLoop) -> None:
        self._services = services
        self._loop = loop
        self.address = services.client.target

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def run(self, agent_id: str, input: Any = None, **given: Any) -> RunView:
        return self._do(self._services.run(agent_id, input, **given))

    def resume(self, run_id: str, *answers: Any) -> RunView:
        return self._do(self._services.resume(run_id, *answers))

    def converse(self, agent_id: str, *messages: Any) -> list[Turn]:
        """Says these messages one after the other; the turns that answered them."""

        async def say() -> list[Turn]:
            async with self._services.conversation(agent_id) as chat:
                return [await chat.ask(message) for message in messages]

        return self._do(say())

    def scores(self, run_id: str, *, turn: int = 0) -> dict[str, ScorerRun]:
        return self._do(self._services.scores(run_id, turn=turn))


@contextmanager
def _in_a_thread(agents: Iterable[Definition], given: dict[str, Any]) -> Iterator[BlockingServices]:
    """The services on a loop of their own."""
    from runwire.testing.services import serve

    loop, leave, began = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    found: list[Services] = []
    problems: list[BaseException] = []

    async def stay() -> None:
        try:
            async with serve(agents, **given) as services:
                found.append(services)
                began.set()
                await leave.wait()
        except BaseException as error:
            problems.append(error)
        finally:
            began.set()

    thread = threading.Thread(target=loop.run_until_complete, args=(stay(),), name="runwire-testing", daemon=True)
    thread.start()
    began.wait()
    try:
        if problems:
            raise problems[0]
        yield BlockingServices(found[0], loop)
    finally:
        loop.call_soon_threadsafe(leave.set)
        thread.join()
        loop.close()
    if problems:
        raise problems[0]
