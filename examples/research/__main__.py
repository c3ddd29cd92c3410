"""`python -m examples.research`: one question to the research agent, both services in this process, without a key."""

from __future__ import annotations

import asyncio
import json

from examples.research.agent import research, sources_opened
from runwire.testing import serve


async def main() -> None:
    async with serve([research], scorers=[sources_opened]) as services:
        view = await services.run("research", "Who built the first lighthouse of Eddystone, and when?")
        for call in view.tool_calls:
            print(f"{call.tool_name} {json.dumps(call.arguments)}")
        print(json.dumps(view.output, indent=2))
        for name, scored in (await services.scores(view.run_id)).items():
            print(f"{name}: {scored.score.value:g}")


asyncio.run(main())
