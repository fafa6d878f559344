"""What a type checker makes of functions and steps. `test_typing` runs mypy over this file."""

import datetime
import functools
from typing import Any, assert_type

import inngest_temporal as inngest

client = inngest.Inngest(app_id="app")
TRIGGER = inngest.TriggerEvent(event="a")


async def fetch(user: str, limit: int) -> list[str]:
    """A step's body."""
    return [user] * limit


def count(names: list[str]) -> int:
    """A step's body."""
    return len(names)


@client.create_function(fn_id="asynchronous", trigger=TRIGGER)
async def asynchronous(ctx: inngest.Context) -> dict[str, int]:
    """All steps of an async handler."""
    assert_type(ctx.event.data["n"], inngest.JSON)
    assert_type(await ctx.step.run("a", fetch, "u", 2), list[str])
    assert_type(await ctx.step.run("b", functools.partial(fetch, "u", limit=2)), list[str])
    assert_type(await ctx.step.send_event("c", inngest.Event(name="a")), list[str])
    await ctx.step.sleep("d", datetime.timedelta(hours=1))
    await ctx.step.sleep_until("e", datetime.datetime.now())
    assert_type(await ctx.step.wait_for_event("f", event="a", timeout=1000), inngest.Event | None)
    assert_type(await ctx.step.wait_for_signal("g", signal="s"), inngest.Signal | None)
    assert_type(await ctx.step.send_signal("h", signal="s", data={"n": [1]}), str | None)
    assert_type(await ctx.step.invoke("i", function=synchronous, data={"n": 1}), str)
    assert_type(await ctx.step.invoke_by_id("j", function_id="other"), object)

    async def one() -> int:
        return 1

    assert_type(await ctx.group.parallel((one, one)), tuple[int, ...])
    return {"n": 1}


@client.create_function(fn_id="synchronous", trigger=[TRIGGER])
def synchronous(ctx: inngest.ContextSync) -> str:
    """All steps of a handler that is not async."""
    assert_type(ctx.step.run("a", count, ["x"]), int)
    assert_type(ctx.step.send_event("b", [inngest.Event(name="a")]), list[str])
    ctx.step.sleep("c", 1000)
    ctx.step.sleep_until("d", datetime.datetime.now())
    assert_type(ctx.step.wait_for_event("e", event=["a"], timeout=1000), inngest.Event | None)
    assert_type(ctx.step.wait_for_signal("f", signal="s"), inngest.Signal | None)
    assert_type(ctx.step.send_signal("g", signal="s"), str | None)
    assert_type(ctx.step.invoke("h", function=asynchronous), dict[str, int])
    assert_type(ctx.step.invoke_by_id("i", function_id="other"), object)
    assert_type(ctx.group.parallel((lambda: 1, lambda: 2)), tuple[int, ...])
    return "done"


assert_type(asynchronous, inngest.Function[dict[str, int]])
assert_type(synchronous, inngest.Function[str])


class Tracing(inngest.Middleware):
    """Middleware as it is written for the official SDK."""

    def __init__(self, client: inngest.Inngest, raw_request: object) -> None:
        super().__init__(client, raw_request)

    async def transform_input(
        self,
        ctx: inngest.Context | inngest.ContextSync,
        function: inngest.Function[Any],
        steps: inngest.StepMemos,
    ) -> None:
        """A hook."""
        await self.client.send(inngest.Event(name=function.id))


client.add_middleware(Tracing)
