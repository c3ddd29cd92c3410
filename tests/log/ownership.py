"""Who owns a topic, as a hypothesis state machine beside a specification of its own.

Workers claim, extend, write, give back and give up in any order, also with claims of long ago; time passes; the store
fails over to a replica that lagged behind, and forgets claims whose numbers it then gives out again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from runwire.errors import Fenced
from runwire.memory import MemoryStore
from runwire.pubsub import Claim, Commit, LeaseState, Schedule, grace_seconds
from tests.log.faulty_store import Snapshot, roll_back, snapshot
from tests.log.stepped_loop import at_once

TOPIC = "default/run"
LEASE_SECONDS = 12.0

claims = st.integers(0, 30)
"""One of the claims that were ever made, counted back from the newest."""


@dataclass(frozen=True)
class Ownership:
    """What must hold of the topic."""

    owner: Claim | None = None
    holder: str = ""
    leased: bool = False
    due: float | None = 0.0
    seen: bool = False
    """A claim has found that the lease ran out."""
    losses: int = 0
    alone_losses: int = 0
    alone: bool = False
    suspect: bool = False
    woken: bool = False
    fields: frozenset[str] = field(default_factory=frozenset)

    def lost(self) -> Ownership:
        return replace(self, losses=self.losses + 1, alone_losses=self.alone_losses + self.alone)

    def held(self, now: float) -> Ownership:
        return replace(self, leased=True, seen=False, due=now + LEASE_SECONDS, suspect=self.losses >= 1)

    def absolved(self) -> Ownership:
        return replace(self, losses=0, alone_losses=0, suspect=False)


class OwnershipMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 1000.0
        self.store = MemoryStore(lambda: self.clock)
        at_once(self.store.commit(Commit(TOPIC, create=True, queue="runs", schedule=Schedule.DUE)))
        self.now = Ownership(due=self.clock)
        self.claims: list[Claim] = []
        self.snapshots: list[tuple[Snapshot, Ownership]] = []
        self.writes = 0

    def _claim(self, number: int) -> Claim:
        return self.claims[-1 - number % len(self.claims)]

    @rule(seconds=st.sampled_from([1.0, LEASE_SECONDS / 3, LEASE_SECONDS, 5 * LEASE_SECONDS]))
    def pass_time(self, seconds: float) -> None:
        self.clock += seconds

    @rule(holder=st.sampled_from(["one", "two"]), alone=st.booleans())
    def claim(self, holder: str, alone: bool) -> None:
        """It is given out in its lane, when its time has come; a lease that ran out only after its grace."""
        found = at_once(self.store.claim(["runs"], holder=holder, limit=1, lease_seconds=LEASE_SECONDS, alone=alone))
        state = self.now
        if alone != state.suspect or state.due is None or state.due > self.clock:
            assert found == [], "given out before its time, or in the other lane"
            return
        if state.leased and not state.seen:
            assert found == [], "taken from an owner who had no time to come back"
            self.now = replace(state, seen=True, due=self.clock + grace_seconds(LEASE_SECONDS, state.losses + 1))
            return
        assert len(found) == 1, "it was due, and nobody got it"
        state = state.lost() if state.leased and holder != state.holder else state
        assert (found[0].losses, found[0].alone_losses) == (state.losses, state.alone_losses)
        assert found[0].token not in {claim.token for claim in self.claims}
        self.claims.append(found[0])
        self.now = replace(state, owner=found[0], holder=holder, alone=alone, woken=False).held(self.clock)

    @precondition(lambda self: self.claims)
    @rule(number=claims)
    def extend(self, number: int) -> None:
        """The owner keeps it for as long as nobody else has it; others change nothing."""
        claim = self._claim(number)
        (answer,) = at_once(self.store.extend([claim.lease], lease_seconds=LEASE_SECONDS))
        if claim is not self.now.owner or not self.now.leased:
            assert answer is LeaseState.LOST, "somebody keeps what is not his"
            return
        assert answer is (LeaseState.WOKEN if self.now.woken else LeaseState.HELD)
        self.now = self.now.held(self.clock)

    @precondition(lambda self: self.claims)
    @rule(number=claims, progress=st.booleans())
    def write(self, number: int, progress: bool) -> None:
        self.writes += 1
        name = f"field {self.writes}"
        if self._commits(self._claim(number), puts={name: b""}, progress=progress):
            self.now = replace(self.now, fields=self.now.fields | {name})
            self.now = self.now.absolved() if progress else self.now
        stored = at_once(self.store.get(TOPIC))
        assert stored is not None
        assert stored.fields.keys() == self.now.fields

    @precondition(lambda self: self.claims)
    @rule(number=claims, schedule=st.sampled_from([Schedule.DUE, Schedule.NEVER, Schedule.LOST]))
    def give_back(self, number: int, schedule: Schedule) -> None:
        if not self._commits(self._claim(number), schedule=schedule):
            return
        state = self.now
        if schedule is Schedule.LOST:
            if state.leased:
                state = state.lost()
                grace = 0.0 if state.woken else grace_seconds(LEASE_SECONDS, state.losses)
                state = replace(state, leased=False, seen=False, suspect=state.losses >= 2, due=self.clock + grace)
        else:
            never = schedule is Schedule.NEVER and not state.woken
            state = replace(state.absolved(), leased=False, seen=False, due=None if never else self.clock)
        self.now = state

    def _commits(self, claim: Claim, **changes: object) -> bool:
        """Whether the commit was taken, as it must be of the owner and of nobody else."""
        commit = Commit(TOPIC, claim.head.attempt, token=claim.token, **changes)  # type: ignore[arg-type]
        try:
            at_once(self.store.commit(commit))
        except Fenced:
            assert claim is not self.now.owner, "the owner was refused"
            return False
        assert claim is self.now.owner, "somebody wrote who does not own the topic"
        return True

    @rule()
    def wake(self) -> None:
        at_once(self.store.commit(Commit(TOPIC, schedule=Schedule.WAKE)))
        state = replace(self.now, woken=True)
        late = state.due is None or state.due > self.clock
        self.now = replace(state, due=self.clock) if not state.leased and late else state

    @rule()
    def replicate(self) -> None:
        self.snapshots.append((snapshot(self.store), copy.copy(self.now)))
        del self.snapshots[:-4]

    @precondition(lambda self: self.snapshots)
    @rule(back=st.integers(1, 4))
    def fail_over(self, back: int) -> None:
        """The store continues from what a replica has: claims of since then are forgotten, their numbers come again."""
        del self.snapshots[max(1, len(self.snapshots) - back) :]
        kept, self.now = self.snapshots[-1]
        roll_back(self.store, kept)
        self.store._plan(TOPIC, self.store._topics[TOPIC].topic)
