"""`python -m tests.e2e.mortal`: the agent service, killed by SIGKILL at its n-th commit to a log.

MORTAL_COMMIT is n (0: it lives, and notes each commit), MORTAL_WHEN `before` or `after` the commit takes effect. The
rest is the product as it is.
"""

from __future__ import annotations

import os
import signal

from agent_service.__main__ import main
from runwire.caching_pubsub import CachingPubSub
from runwire.pubsub import Commit, Committed
from tests.e2e.ledger import note


def arm(number: int, when: str) -> None:
    """From now on the process is as mortal as said above."""
    publish = CachingPubSub.publish
    commits = 0

    async def dying(self: CachingPubSub, commit: Commit) -> Committed:
        nonlocal commits
        if commit.attempt is None:
            return await publish(self, commit)
        commits += 1
        if commits == number and when == "before":
            die(number)
        committed = await publish(self, commit)
        if commits == number:
            die(number)
        if not number:
            note("a commit")
        return committed

    CachingPubSub.publish = dying  # type: ignore[method-assign]


def die(number: int) -> None:
    note(f"killed at commit {number}")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    arm(int(os.environ["MORTAL_COMMIT"]), os.environ["MORTAL_WHEN"])
    main(prog_name="python -m agent_service")
