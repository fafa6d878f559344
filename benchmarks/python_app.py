"""The functions of `python -m benchmarks http` on the official SDK for Python:
`python -m benchmarks.python_app PORT INGRESS`. It stops when its input ends."""

import asyncio
import logging
import sys
from typing import Any

import fastapi
import inngest as official
import inngest.fast_api

from inngest_temporal_workers.commands.processes import listen, serving

SIZES = (0, 1, 5, 20)


def make_app(ingress: str) -> fastapi.FastAPI:
    client = official.Inngest(
        app_id="bench-py",
        is_production=False,
        api_base_url=ingress,
        event_api_base_url=ingress,
        logger=logging.getLogger("bench"),
    )

    def function_of(size: int) -> official.Function[Any]:
        @client.create_function(
            fn_id=f"steps-{size}",
            retries=3,
            trigger=official.TriggerEvent(event=f"bench-py/steps-{size}"),
        )
        async def steps(ctx: official.Context) -> int:
            async def work(number: int) -> dict[str, int]:
                return {"number": number}

            total = 0
            for number in range(size):
                result = await ctx.step.run(f"step-{number}", work, number)
                total += result["number"]
            return total

        return steps

    app = fastapi.FastAPI()
    inngest.fast_api.serve(app, client, [function_of(size) for size in SIZES])
    return app


async def main(port: int, ingress: str) -> None:
    async with serving(make_app(ingress), listen("127.0.0.1", port, "PORT")):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
