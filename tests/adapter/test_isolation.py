"""An execution of a handler does not see what the one before changed; its hooks and its code see
the same context variables."""

import asyncio
import contextvars
from typing import Any

import pytest

import inngest_temporal as inngest
from inngest_temporal.testing import Status, trigger

CLIENT = inngest.Inngest(app_id="app", is_production=False)
LINES = [f"l{n}" for n in range(5)]
tenant = contextvars.ContextVar[str | None]("tenant", default=None)


def function(**options: Any) -> Any:
    return CLIENT.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="a"), **options)


def order() -> inngest.Event:
    return inngest.Event(name="a", data={"order": {"lines": list(LINES)}})


def test_an_async_handler_works_off_a_list_of_its_input() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> Any:
        todo: Any = ctx.event.data["order"]
        done = []
        while todo["lines"]:
            line = todo["lines"].pop(0)
            done.append(await ctx.step.run(f"line-{len(done)}", lambda line=line: line))
        return done

    event = order()
    result = trigger(fn, event)
    assert (result.status, result.output) == (Status.COMPLETED, LINES)
    assert event == order()


def test_a_sync_handler_works_off_the_lists_of_a_batch() -> None:
    @function()
    def fn(ctx: inngest.ContextSync) -> Any:
        done = []
        for event in ctx.events:
            todo: Any = event.data["order"]
            while todo["lines"]:
                line = todo["lines"].pop(0)
                done.append(ctx.step.run(f"line-{len(done)}", lambda line=line: line))
        return done

    result = trigger(fn, [order(), order()])
    assert (result.status, result.output) == (Status.COMPLETED, LINES * 2)


def test_a_retry_begins_with_the_input_that_was_sent() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> Any:
        basket: Any = ctx.event.data["order"]
        basket["lines"].append("gift")
        if ctx.attempt == 0:
            raise ValueError("first time")
        return basket["lines"]

    assert trigger(fn, order()).output == [*LINES, "gift"]


def test_transform_input_is_applied_to_what_was_sent() -> None:
    class Adding(inngest.MiddlewareSync):
        def transform_input(self, ctx: Any, function: Any, steps: Any) -> None:
            ctx.event.data["order"]["lines"].append("added")

    @function(middleware=[Adding])
    async def fn(ctx: inngest.Context) -> Any:
        await ctx.step.run("a", lambda: None)
        await ctx.step.sleep("b", 1000)
        return ctx.event.data["order"]

    assert trigger(fn, order()).output == {"lines": [*LINES, "added"]}


class Async(inngest.Middleware):
    async def before_execution(self) -> None:
        self.token = tenant.set("t1")

    async def after_execution(self) -> None:
        tenant.reset(self.token)


class Sync(inngest.MiddlewareSync):
    def before_execution(self) -> None:
        self.token = tenant.set("t1")

    def after_execution(self) -> None:
        tenant.reset(self.token)


@pytest.mark.parametrize("middleware", [Async, Sync])
def test_hooks_of_an_async_function_share_its_context_variables(middleware: Any) -> None:
    seen = []

    @function(middleware=[middleware])
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.run("a", lambda: seen.append(tenant.get()))
        await ctx.step.sleep("b", 1000)
        await ctx.step.run("c", lambda: seen.append(tenant.get()))

    result = trigger(fn, order())
    assert result.status is Status.COMPLETED, result.error
    assert seen == ["t1", "t1"]


@pytest.mark.parametrize("middleware", [Async, Sync])
def test_hooks_share_their_context_variables_with_each_other_in_all_branches_of_a_handler(
    middleware: Any,
) -> None:
    """A branch is executed in a task of its own, which has a copy of the variables."""

    @function(middleware=[middleware])
    async def fn(ctx: inngest.Context) -> Any:
        def fail() -> None:
            raise inngest.NonRetriableError("no")

        steps = ctx.step.run("a", lambda: "a"), ctx.step.run("b", fail)
        return [str(each) for each in await asyncio.gather(*steps, return_exceptions=True)]

    result = trigger(fn, order())
    assert (result.status, result.output) == (Status.COMPLETED, ["a", "no"]), result.error


def test_hooks_of_a_sync_function_share_its_context_variables() -> None:
    seen = []

    @function(middleware=[Sync])
    def fn(ctx: inngest.ContextSync) -> None:
        ctx.step.run("a", lambda: seen.append(tenant.get()))
        ctx.step.sleep("b", 1000)

    result = trigger(fn, order())
    assert result.status is Status.COMPLETED, result.error
    assert seen == ["t1"]
