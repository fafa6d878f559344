import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.config import FunctionConfig
from inngest_temporal.errors import RegistryNotReadyError
from inngest_temporal.models import RateLimit, Timeouts, TriggerEvent
from inngest_temporal.routing import events, router
from inngest_temporal.routing.events import Stamped
from inngest_temporal.routing.registry import AppConfig, RegisteredFunction, Snapshot
from inngest_temporal.routing.router import (
    Routed,
    Router,
    refuses,
    start_run,
)
from inngest_temporal.routing.run_input import Invoker, RunInput
from inngest_temporal.temporal import connection as settings
from inngest_temporal.temporal.runs import started_by


@dataclass
class Source:
    snapshot: Snapshot | None


def functions(app_id: str, **triggers: str) -> Source:
    """One app whose functions have one event trigger each."""
    configs = [
        FunctionConfig(id=f"{app_id}-{name}", name=name, triggers=[TriggerEvent(event=event)])
        for name, event in triggers.items()
    ]
    return Source(
        Snapshot([AppConfig(app_id=app_id, task_queue=f"queue-of-{app_id}", functions=configs)])
    )


def order(event_id: str = "", **data: object) -> Stamped:
    return events.stamp({"name": "shop/order", "id": event_id, "data": data})


def invocation(function_id: str, step: str = "step") -> Stamped:
    return events.invoked(
        function_id,
        {"x": 1},
        run_id="01K4WQ6R6SPXJ4G0WYDR7E5S0Z",
        step=step,
        source_function_id="shop-parent",
        source_app_id="shop",
        ts=time.time_ns() // 1_000_000,
    )


async def given(client: Client, run_id: str) -> RunInput:
    """What a run was started with."""
    async for event in client.get_workflow_handle(run_id).fetch_history_events():
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        decoded = await client.data_converter.decode(payloads, [RunInput])
        assert isinstance(decoded[0], RunInput)
        return decoded[0]
    raise AssertionError


async def missing(client: Client, run_id: str) -> bool:
    try:
        await client.get_workflow_handle(run_id).describe()
    except RPCError as error:
        return error.status == RPCStatusCode.NOT_FOUND
    return False


class Delivered:
    """Stands in for the waits."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def deliver(self, event: Mapping[str, Any], internal_id: str) -> None:
        self.ids.append(internal_id)


async def test_an_event_starts_each_function_that_it_triggers(client: Client) -> None:
    delivered = Delivered()
    router = Router(
        client, functions("shop", a="shop/order", b="shop/*", c="other"), delivered.deliver
    )
    event = order(amount=5)
    (routed,) = await router.route([event])
    assert routed == Routed((events.run_id("shop-a", event), events.run_id("shop-b", event)))
    assert delivered.ids == [event.internal_id]
    assert [(one.kind, one.function, one.run) for one in routed.outcomes] == [
        ("started", "shop-a", routed.runs[0]),
        ("started", "shop-b", routed.runs[1]),
    ]

    run = await client.get_workflow_handle(routed.runs[0]).describe()
    assert (run.workflow_type, run.task_queue) == ("shop-a", "queue-of-shop")
    assert await started_by(run) == [event.internal_id]
    expected = RunInput([event.event], [event.internal_id], retries=4)
    assert await given(client, routed.runs[0]) == expected


async def test_an_event_that_triggers_nothing_is_still_delivered(client: Client) -> None:
    delivered = Delivered()
    assert await Router(client, functions("shop"), delivered.deliver).route([order()]) == [
        Routed((), unmatched=True)
    ]
    assert len(delivered.ids) == 1


async def test_the_same_event_routed_again_starts_nothing(client: Client) -> None:
    router = Router(client, functions("shop", a="shop/order"))
    event = order()
    (first,) = await router.route([event])
    begun = (await client.get_workflow_handle(first.runs[0]).describe()).run_id
    assert await router.route([event]) == [first]
    assert [one.kind for one in (await router.route([event]))[0].outcomes] == ["existed"]
    assert (await client.get_workflow_handle(first.runs[0]).describe()).run_id == begun


async def test_an_event_id_runs_a_function_once_even_after_its_end(client: Client) -> None:
    router = Router(client, functions("shop", a="shop/order", b="shop/order"))
    (first,) = await router.route([order("order-1")])
    handle = client.get_workflow_handle(first.runs[0])
    await handle.terminate()
    (second,) = await router.route([order("order-1", changed=True)])
    assert second.runs == first.runs
    assert (await handle.describe()).status == WorkflowExecutionStatus.TERMINATED
    (other,) = await router.route([order("order-2")])
    assert not set(other.runs) & set(first.runs)


async def test_events_of_one_request_are_answered_in_order(client: Client) -> None:
    router = Router(client, functions("shop", a="shop/order"), concurrency=7)
    batch = [order(n=n) for n in range(60)] + [events.stamp({"name": "other"})]
    routed = await router.route(batch)
    assert [one.runs for one in routed[:-1]] == [
        (events.run_id("shop-a", event),) for event in batch[:-1]
    ]
    assert routed[-1] == Routed((), unmatched=True)


async def test_no_more_events_than_the_limit_are_routed_at_once(client: Client) -> None:
    now = peak = 0

    async def deliver(event: Mapping[str, Any], internal_id: str) -> None:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        await asyncio.sleep(0)
        now -= 1

    await Router(client, functions("shop"), deliver, concurrency=3).route(
        [order() for _ in range(20)]
    )
    assert peak == 3


async def test_an_error_is_raised_once_all_work_has_ended(client: Client) -> None:
    done: list[int] = []

    async def deliver(event: Mapping[str, Any], internal_id: str) -> None:
        number = event["data"]["n"]
        if number < 2:
            raise ValueError(number)
        await asyncio.sleep(0.05)
        done.append(number)

    router = Router(client, functions("shop", a="shop/order"), deliver)
    batch = [order(n=n) for n in (3, 0, 1, 4)]
    with pytest.raises(ValueError, match="0"):
        await router.route(batch)
    assert sorted(done) == [3, 4]
    assert not await missing(client, events.run_id("shop-a", batch[1]))


async def test_after_a_failure_the_rest_of_a_request_is_not_tried(client: Client) -> None:
    tried = 0

    async def deliver(event: Mapping[str, Any], internal_id: str) -> None:
        nonlocal tried
        tried += 1
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await Router(client, functions("shop"), deliver).route([order() for _ in range(1000)])
    assert tried <= 100


async def test_a_registry_that_was_not_read_is_an_error(client: Client) -> None:
    with pytest.raises(RegistryNotReadyError):
        await Router(client, Source(None)).route([order()])


async def test_an_event_of_the_future_starts_its_run_then(client: Client) -> None:
    router = Router(client, functions("shop", a="shop/order"))
    later = time.time_ns() // 1_000_000 + 3_600_000
    (routed,) = await router.route([events.stamp({"name": "shop/order", "ts": later})])
    handle = client.get_workflow_handle(routed.runs[0])
    description = (await handle.describe()).raw_description.workflow_execution_info
    wait = description.execution_time.ToDatetime() - description.start_time.ToDatetime()
    assert timedelta(minutes=59) < wait <= timedelta(hours=1)


async def test_the_largest_event_fits_together_with_its_failure(client: Client) -> None:
    router = Router(client, functions("shop", a="shop/order", b="inngest/function.failed"))
    event = order(text="x" * (events.MAX_EVENT_BYTES - 200))
    (routed,) = await router.route([event])
    _, failed = events.ended(
        "shop-a", routed.runs[0], [event.event], "Failed", ts=event.event["ts"]
    )
    (routed,) = await router.route([failed])
    assert not await missing(client, routed.runs[0])


async def test_gates_that_nobody_answers_hold_up_no_other_function(client: Client) -> None:
    """A rate limit waits for a worker of the system queue, and there is none here."""
    source = functions("shop", plain="shop/order")
    limited = FunctionConfig(
        id="shop-limited",
        name="limited",
        triggers=[TriggerEvent(event="shop/limited")],
        rate_limit=RateLimit(limit=5, period=60_000, key="event.data.n"),
    )
    assert source.snapshot is not None
    [app] = source.snapshot.apps
    apps = [AppConfig(app_id="shop", task_queue="q", functions=[*app.functions, limited])]
    router = Router(
        client, Source(Snapshot(apps)), concurrency=3, rpc_timeout=timedelta(seconds=60)
    )
    held = [
        asyncio.create_task(
            router.route([events.stamp({"name": "shop/limited", "data": {"n": n}})])
        )
        for n in range(20)
    ]
    await asyncio.sleep(0)  # they are at their gates
    async with asyncio.timeout(30):
        [routed] = await router.route([order()])
    assert routed.runs
    assert not any(task.done() for task in held)
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)


# Invoking


async def test_an_invocation_starts_the_named_function_for_its_invoker(client: Client) -> None:
    router = Router(client, functions("shop", child="none"))
    event = invocation("shop-child")
    run = events.run_id("shop-child", event)
    assert await router.invoke(event) == Routed((run,), invoked=run)
    run = await given(client, events.run_id("shop-child", event))
    assert run.invoker == Invoker("01K4WQ6R6SPXJ4G0WYDR7E5S0Z", "step")
    assert run.events == [event.event]


async def test_an_invocation_also_triggers_what_matches_its_name_without_an_invoker(
    client: Client,
) -> None:
    router = Router(client, functions("shop", child="inngest/*", watch="inngest/function.invoked"))
    event = invocation("shop-child")
    (routed,) = await router.route([event])
    assert routed.runs == (events.run_id("shop-child", event), events.run_id("shop-watch", event))
    assert (await given(client, routed.runs[0])).invoker is not None
    assert (await given(client, routed.runs[1])).invoker is None


async def test_an_invocation_of_a_function_that_is_not_there_says_so(client: Client) -> None:
    router = Router(client, functions("shop", watch="inngest/*"))
    event = invocation("shop-child")
    assert await router.route([event]) == [
        Routed((events.run_id("shop-watch", event),), missing="shop-child")
    ]
    assert (await router.invoke(event)).missing == "shop-child"


async def test_a_step_that_invokes_again_starts_nothing_more(client: Client) -> None:
    router = Router(client, functions("shop", child="none"))
    first, again, other = (
        invocation("shop-child"),
        invocation("shop-child"),
        invocation("shop-child", "other"),
    )
    routed, repeated = await router.route([first, again])
    run = events.run_id("shop-child", first)
    assert routed == repeated == Routed((run,), invoked=run)
    assert events.run_id("shop-child", other) != events.run_id("shop-child", first)


async def test_an_invocation_by_http_has_no_invoker(client: Client) -> None:
    router = Router(client, functions("shop", child="none"))
    event = events.stamp_invocation({"data": {"x": 1}}, "shop-child")
    (routed,) = await router.route([event])
    assert (await given(client, routed.runs[0])).invoker is None


@pytest.mark.parametrize("batched", [False, True])
async def test_a_batch_has_no_start_timeout(client: Client, batched: bool) -> None:
    config = FunctionConfig(
        id="shop-a",
        name="a",
        triggers=[TriggerEvent(event="shop/order")],
        timeouts=Timeouts(start=5_000, finish=9_000),
    )
    function = RegisteredFunction("shop", "queue", config)
    assert await start_run(client, function, [order()], "run", batched=batched)
    assert (await given(client, "run")).timeouts == {"finish": 9_000} | (
        {} if batched else {"start": 5_000}
    )


# Without Temporal


async def test_an_unreachable_temporal_is_an_error_soon(
    namespace: str, unused_tcp_port: int
) -> None:
    client = await Client.connect(
        f"127.0.0.1:{unused_tcp_port}", lazy=True, retry_config=settings.RETRIES
    )
    router = Router(client, functions("shop", a="shop/order"))
    with pytest.raises(RuntimeError, match="connect"):
        async with asyncio.timeout(30):
            await router.route([order()])


async def test_waits_that_cannot_be_reached_do_not_hold_a_sender(client: Client) -> None:
    async def deliver(event: Mapping[str, Any], internal_id: str) -> None:
        await asyncio.Event().wait()

    router = Router(client, functions("shop"), deliver, rpc_timeout=timedelta(milliseconds=100))
    with pytest.raises(TimeoutError):
        await router.route([order()])


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        ("Blob data size exceeds limit.", True),
        ("exceeded workflow execution limit for signal events", False),
    ],
)
def test_what_temporal_may_take_later_does_not_count_as_refused(
    message: str, refused: bool
) -> None:
    assert refuses(RPCError(message, RPCStatusCode.INVALID_ARGUMENT, b"")) is refused
    assert not refuses(RPCError(message, RPCStatusCode.UNAVAILABLE, b""))


async def test_a_passing_failure_is_raised_rather_than_a_refusal_beside_it() -> None:
    """A caller gives up after a refusal, and tries again after anything else."""

    async def fail(status: RPCStatusCode) -> None:
        raise RPCError(status.name, status, b"")

    refused, away = RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.UNAVAILABLE
    for order in ([refused, away], [away, refused]):
        with pytest.raises(RPCError) as raised:
            await router._all_or_error([fail(status) for status in order])
        assert raised.value.status == away
