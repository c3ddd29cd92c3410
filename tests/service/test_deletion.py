"""DeleteRuns on every engine: what is deleted is gone everywhere, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from agent_service import RunContext, workflow
from agent_service.log import record
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_pb2
from tests.service.replica import TENANT, Replica, eventually, refused, replica, topic_of


@workflow(id="keeps")
async def keeps(ctx: RunContext, input: Any) -> Any:
    """Leaves a journal; waits for an answer where it is told to."""
    await ctx.step("one", one)
    return await ctx.suspend("name", {}, answer_type=str) if input == "wait" else input


async def one() -> int:
    return 1


async def listed(it: Replica, **fields: Any) -> set[str]:
    found = await it.stub.ListRuns(pb.ListRunsRequest(**fields))
    return {run.run_id for run in found.runs}


async def delete(it: Replica, **fields: Any) -> pb.DeleteRunsResponse:
    return await it.stub.DeleteRuns(pb.DeleteRunsRequest(**fields))  # type: ignore[no-any-return]


async def test_what_is_deleted_is_gone(url: str) -> None:
    """Log, fields, tombstone and every list are without it; others, with the same label too, are as they were; a second
    time there is nothing to delete, and the request id makes a new run."""
    async with replica(url, keeps) as it:
        gone = await it.do("keeps", 1, labels={"who": "ada"}, request_id="first")
        kept = await it.do("keeps", 2, labels={"who": "bob"})
        answer = await delete(it, filter={"labels": {"who": "ada"}})
        assert (answer.count, list(answer.run_ids), answer.skipped) == (1, [gone.run_id], 0)
        refusal = await refused(it.get(gone.run_id))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
        assert await it.store.get(topic_of(gone.run_id)) is None
        for one_list in record.lists_of(TENANT, gone):
            scan = await it.store.scan(one_list, fields=[])
            assert topic_of(gone.run_id) not in {stored.topic for stored in scan.found}
        assert await listed(it) == {kept.run_id}
        assert (await it.get(kept.run_id)).output.number_value == 2
        assert len(await it.log(kept.run_id)) == kept.last_sequence
        assert (await delete(it, filter={"labels": {"who": "ada"}})).count == 0
        assert (await delete(it, run_ids=[gone.run_id, gone.run_id])).count == 0
        again = await it.do("keeps", 3, request_id="first")
        assert again.run_id == gone.run_id
        assert again.output.number_value == 3


async def test_a_dry_run_changes_nothing(url: str) -> None:
    """It counts and names what would be deleted and cancelled, and all of it is still there."""
    async with replica(url, keeps) as it:
        done = await it.do("keeps", 1)
        waits = await it.suspended((await it.start("keeps", "wait")).run_id)
        answer = await delete(it, filter={}, dry_run=True, cancel=True)
        assert (answer.count, list(answer.run_ids), answer.cancelled) == (1, [done.run_id], 1)
        assert await listed(it) == {done.run_id, waits.run_id}
        assert not (await it.get(waits.run_id)).cancel_requested


async def test_runs_that_have_not_ended_are_cancelled_first(url: str) -> None:
    """Without `cancel` they are left alone and counted; with it they end CANCELLED, and the next call deletes them."""
    async with replica(url, keeps) as it:
        waits = await it.suspended((await it.start("keeps", "wait")).run_id)
        answer = await delete(it, run_ids=[waits.run_id])
        assert (answer.count, answer.skipped, answer.cancelled) == (0, 1, 0)
        answer = await delete(it, run_ids=[waits.run_id], cancel=True)
        assert (answer.count, answer.skipped, answer.cancelled) == (0, 0, 1)
        assert (await it.ended(waits.run_id)).state == run_pb2.RUN_STATE_CANCELLED
        assert (await delete(it, run_ids=[waits.run_id], cancel=True)).count == 1
        assert await listed(it) == set()


async def test_pages_reach_everything(url: str) -> None:
    """With small pages every run is deleted once, whatever the deletion of those before does to the list."""
    async with replica(url, keeps) as it:
        runs = {(await it.do("keeps", number)).run_id for number in range(7)}
        deleted: list[str] = []
        request: dict[str, Any] = {"filter": {"agent_id": "keeps"}, "page_size": 2}
        while True:
            answer = await delete(it, **request)
            deleted += answer.run_ids
            if not answer.next_page_token:
                break
            request["page_token"] = answer.next_page_token
        assert sorted(deleted) == sorted(runs)

        async def is_swept() -> bool:
            return await it.store.sweep() == 0

        await eventually(is_swept)
        assert await listed(it) == set()


@pytest.mark.parametrize("fields", [{}, {"run_ids": ["a"], "filter": {}}, {"run_ids": ["not an id"]}])
async def test_what_is_asked_for_must_be_said(sqlite_url: str, fields: dict[str, Any]) -> None:
    """A request without a selection deletes nothing: it is refused, and says how every run would be selected."""
    async with replica(sqlite_url, keeps) as it:
        refusal = await refused(it.stub.DeleteRuns(pb.DeleteRunsRequest(**fields)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
