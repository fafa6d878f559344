"""The ingress as its command runs it, in a process of its own: `python -m benchmarks.serve
ADDRESS`. It stops when its input ends."""

import asyncio
import sys

import uvloop

from inngest_temporal.http.app import create_ingress
from inngest_temporal.temporal.connection import Settings, connect
from inngest_temporal_workers.commands.processes import listen, serving


async def main(address: str) -> None:
    listener = listen("127.0.0.1", 0, "--port")
    app = create_ingress(await connect(target_host=address), Settings(dev=True))
    async with serving(app, listener):
        print("ready", listener.getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
