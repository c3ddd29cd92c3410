"""What judges may spend: looked at by every claim, and counted by every end of an attempt, in their own transactions.

A claim of a scorer whose budget is used up ends the rows, DECLINED, instead of leasing them. What was leased before is
finished: so a budget is exceeded by what was in flight, and by no more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.engine import Connection

from runwire.errors import InvalidRequest
from scorer_service.results.batches import among, insert_into
from scorer_service.results.database import Database, database_time
from scorer_service.results.records import Finished, State
from scorer_service.results.schema import budgets, scorer_runs

REASON: Final = "budget"
MAX_BUDGETS: Final = 1000
"""Of a tenant."""
_MOST_TOKENS: Final = 2**62
_MOST_COST_USD: Final = 1e300
"""Workers say what was spent, and may say anything: a database holds no sum beyond this, and no end waits for that."""

c, b = scorer_runs.c, budgets.c

_OF_SCORERS: Final = select(budgets).where(among(b.scorer_id, "scorer_ids"), among(b.tenant, "tenants"))
_DECLINE: Final = (
    update(scorer_runs)
    .where(among(c.scorer_run_id, "ids"))
    .values(
        state=int(State.DECLINED),
        due_time=None,
        end_time=bindparam("now"),
        error_reason=REASON,
        error_class="",
        error_message=bindparam("message"),
        revision=bindparam("rev"),
    )
)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one scorer of a tenant, or all of them (''), may spend in a window, and what was."""

    tenant: str
    scorer_id: str
    window_seconds: float
    max_tokens: int | None
    max_cost_usd: float | None
    spent_tokens: int = 0
    spent_cost_usd: float = 0.0

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more may be begun."""
        tokens = self.max_tokens is not None and self.spent_tokens >= self.max_tokens
        return tokens or (self.max_cost_usd is not None and self.spent_cost_usd >= self.max_cost_usd)


class Budgets:
    """Of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set(self, budget: Budget) -> None:
        """Puts a budget in force; one without a limit is removed. What was spent in the present window stays, unless
        the window is another one. Raises InvalidRequest where the tenant has as many as it may."""

        def work(connection: Connection) -> None:
            mine = (b.tenant == budget.tenant, b.scorer_id == budget.scorer_id)
            if budget.max_tokens is None and budget.max_cost_usd is None:
                connection.execute(delete(budgets).where(*mine))
                return
            now = database_time(connection)
            found = connection.execute(select(budgets).where(*mine).with_for_update()).first()
            present = select(func.count()).select_from(budgets).where(b.tenant == budget.tenant)
            if found is None and connection.execute(present).scalar_one() >= MAX_BUDGETS:
                raise InvalidRequest({"budget.scorer_id": f"the tenant has {MAX_BUDGETS} budgets already"})
            if found is not None and found.window_seconds != budget.window_seconds:
                found = None  # what was spent in another window says nothing of this one
            values = {
                "tenant": budget.tenant,
                "scorer_id": budget.scorer_id,
                "window_seconds": budget.window_seconds,
                "max_tokens": budget.max_tokens,
                "max_cost_usd": budget.max_cost_usd,
                "window_start": found.window_start if found else _start(now, budget.window_seconds),
                "spent_tokens": found.spent_tokens if found else 0,
                "spent_cost_usd": found.spent_cost_usd if found else 0.0,
            }
            row = insert_into(connection, budgets)
            connection.execute(row.on_conflict_do_update(index_elements=["tenant", "scorer_id"], set_=values), values)

        await self._database.write(work)

    async def all(self, tenant: str) -> list[Budget]:
        """Those of a tenant, with what is spent now."""
        query = select(budgets).where(b.tenant == tenant).order_by(b.scorer_id).limit(MAX_BUDGETS)

        def work(connection: Connection) -> list[Budget]:
            now = database_time(connection)
            return [_budget(row, now) for row in connection.execute(query).all()]

        return await self._database.read(work)


def decline(connection: Connection, candidates: Sequence[Any], now: float, revision: int) -> list[Any]:
    """Ends candidates that there is no budget for, DECLINED; returns the others."""
    found = _of(connection, candidates, now)
    used_up = {key: budget for key, budget in found.items() if budget.is_used_up}
    if not used_up:
        return list(candidates)
    kept, declined = [], dict[str, list[str]]()
    for row in candidates:
        budget = used_up.get((row.tenant, row.scorer_id)) or used_up.get((row.tenant, ""))
        # What a worker died on has had its attempt: it is not for a budget to say that it was none.
        if budget is None or row.state == State.RUNNING:
            kept.append(row)
        else:
            declined.setdefault(_words(budget), []).append(row.scorer_run_id)
    for message, ids in declined.items():
        connection.execute(_DECLINE, {"ids": sorted(ids), "now": now, "message": message, "rev": revision})
    return kept


def spend(connection: Connection, finished: Sequence[Finished]) -> None:
    """Counts what attempts took."""
    paid = [done for done in finished if done.spent]
    if not paid:
        return
    now = database_time(connection)
    found = _of(connection, [done.job for done in paid], now, lock=True)
    for (tenant, scorer_id), budget in found.items():
        mine = [d for d in paid if d.job.tenant == tenant and scorer_id in ("", d.job.scorer_id)]
        taken = [json.loads(done.spent or "{}") for done in mine]
        tokens = sum(int(each["input_tokens"]) + int(each["output_tokens"]) for each in taken)
        cost = sum(float(each["cost_usd"] or 0.0) for each in taken)
        connection.execute(
            update(budgets)
            .where(b.tenant == tenant, b.scorer_id == scorer_id)
            .values(
                window_start=_start(now, budget.window_seconds),
                spent_tokens=min(_MOST_TOKENS, budget.spent_tokens + tokens),
                spent_cost_usd=min(_MOST_COST_USD, budget.spent_cost_usd + cost),
            )
        )


def _of(
    connection: Connection, rows: Iterable[Any], now: float, *, lock: bool = False
) -> Mapping[tuple[str, str], Budget]:
    """The budgets that say something of these rows, by tenant and scorer."""
    pairs = {(row.tenant, row.scorer_id) for row in rows}
    if not pairs:
        return {}
    values = {"scorer_ids": ["", *sorted({name for _, name in pairs})], "tenants": sorted({one for one, _ in pairs})}
    query = _OF_SCORERS.order_by(b.tenant, b.scorer_id).with_for_update() if lock else _OF_SCORERS
    return {(row.tenant, row.scorer_id): _budget(row, now) for row in connection.execute(query, values).all()}


def _budget(row: Any, now: float) -> Budget:
    present = row.window_start >= _start(now, row.window_seconds)
    return Budget(
        row.tenant,
        row.scorer_id,
        row.window_seconds,
        row.max_tokens,
        row.max_cost_usd,
        row.spent_tokens if present else 0,
        row.spent_cost_usd if present else 0.0,
    )


def _start(now: float, window_seconds: float) -> float:
    """When the present window began."""
    return math.floor(now / window_seconds) * window_seconds


def _words(budget: Budget) -> str:
    whose = f"of scorer {budget.scorer_id!r}" if budget.scorer_id else "of all scorers"
    return f"the budget {whose} is used up; redrive it once there is one again"
