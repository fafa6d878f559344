"""The base of entities, tried with an entity of one rule."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import pydantic
import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.worker import Worker

import inngest_temporal_workers.healing
from inngest_temporal.routing.registry import Follower
from inngest_temporal.temporal import names
from inngest_temporal.temporal.entity import EntityHandle as Handle
from inngest_temporal.temporal.healing import heal
from inngest_temporal_workers.entities import entity as base
from inngest_temporal_workers.entities.activities import SystemActivities
from inngest_temporal_workers.entities.entity import Entity, entity
from inngest_temporal_workers.healing import healing
from tests.harness import until


@dataclass(frozen=True)
class Number:
    value: int
    due_ms: int | None = None


@entity("Adder")
class Adder(Entity):
    """Adds the numbers that it is told, and forgets the sum at the time that a number may set."""

    messages: ClassVar = {"add": pydantic.TypeAdapter(Number)}
    extra_timer = False

    def load(self, state: dict[str, Any]) -> None:
        self._sum = state.get("sum", 0)
        self._due_ms: int | None = state.get("due_ms")
        self._times: list[int] = []

    def dump(self) -> dict[str, Any]:
        return {"sum": self._sum, "due_ms": self._due_ms}

    def memo(self) -> dict[str, Any]:
        return {"sum": self._sum}

    async def take(self, name: str, message: Number) -> None:
        if self.extra_timer:
            await asyncio.sleep(0.01)
        if message.value in (7, 9):
            await self.call("inngest.echo", [message.value], int)
        self._sum += message.value
        self._due_ms = message.due_ms or self._due_ms
        workflow.upsert_memo(self.memo())

    async def act(self) -> None:
        if self._due_ms is not None and self.now_ms >= self._due_ms:
            self._times.append(self.now_ms)
            self._sum, self._due_ms = 0, None
            workflow.upsert_memo(self.memo())

    def due_ms(self) -> int | None:
        return base.NEVER_MS if self._sum and self._due_ms is None else self._due_ms

    @workflow.update
    def total(self, message: None, sent_ms: int) -> int:
        self.asked(sent_ms)
        return self._sum


@activity.defn(name="inngest.echo")
async def echo(value: int) -> int:
    if activity.info().is_local and value == 9:
        raise RuntimeError("it fails once")
    return value


@contextlib.asynccontextmanager
async def working(client: Client, **options: Any) -> AsyncIterator[Handle]:
    async with Worker(
        client,
        task_queue=names.SYSTEM_TASK_QUEUE,
        workflows=[Adder],
        activities=[*SystemActivities(client, Follower(client)).all(), echo],
        **options,
    ):
        yield Handle(client, "Adder", "adder")


async def total(adder: Handle, seconds: float = 30) -> int:
    return await adder.update_with_start("total", None, int, timeout=timedelta(seconds=seconds))


async def test_calls_of_an_entity_that_does_not_exist_have_an_answer(client: Client) -> None:
    adder = Handle(client, "Adder", "adder")
    assert await adder.signal("add", Number(1)) is False
    assert await adder.update("total", None, int) is None
    assert await adder.memo() == {}
    assert await adder.describe() is None
    assert await adder.query("total", int) is None


async def test_an_entity_carries_over_what_it_holds_and_ends_when_it_holds_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MAX_COST", 20)
    monkeypatch.setattr(base, "LINGER_MS", 200)
    async with working(client) as adder:
        for number in range(40):
            await adder.signal_with_start("add", Number(number))
        await until(lambda: _is(adder, sum(range(40))))
        found = await adder.describe()
        assert found is not None
        assert found.raw_description.workflow_execution_info.first_run_id != found.run_id
        assert await adder.memo() == {"sum": sum(range(40))}
        due_ms = time.time_ns() // 1_000_000 + 300
        await adder.signal("add", Number(1, due_ms))
        await until(lambda: _ended(adder))
        assert time.time_ns() // 1_000_000 >= due_ms


async def _ended(adder: Handle) -> bool:
    found = await adder.describe()
    return found is not None and found.status == WorkflowExecutionStatus.COMPLETED


async def test_a_message_that_cannot_be_read_is_dropped_and_unknown_fields_are_ignored(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(client) as adder:
        await adder.signal_with_start("add", {"value": "a", "due_ms": None})
        await adder.signal("nonsense", {"value": 1})
        await adder.signal("add", {"value": 3, "of_a_later_version": [1]})
        await until(lambda: _is(adder, 3))
    assert sum("is dropped" in record.getMessage() for record in caplog.records) == 2


async def test_a_call_that_fails_locally_is_made_again(client: Client) -> None:
    async with working(client) as adder:
        await adder.signal_with_start("add", Number(9))
        await until(lambda: _is(adder, 9))


async def test_an_entity_that_cannot_be_replayed_begins_again_with_all_that_it_was_told(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(client) as adder:
        for number in (1, 7, 2, 7):
            await adder.signal_with_start("add", Number(number))
            await total(adder)
        assert await heal(client, adder.id) is False
    monkeypatch.setattr(Adder, "extra_timer", True)
    async with working(client, max_cached_workflows=0) as adder:
        await adder.signal("add", Number(20))
        caplog.set_level(logging.ERROR)
        # A caller that waits for an answer heals it, once its workflow task has failed a few times.
        await until(lambda: _is(adder, 37, 3), 120)
        assert await heal(client, adder.id) is False
    healed = [record for record in caplog.records if "could not be replayed" in record.message]
    assert len(healed) == 1


async def test_a_worker_heals_what_cannot_be_replayed_though_nobody_waits_for_an_answer(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inngest_temporal_workers.healing, "LOOK_SECONDS", 1.0)
    async with working(client) as adder:
        for number in (1, 2):
            await adder.signal_with_start("add", Number(number))
            await total(adder)
    monkeypatch.setattr(Adder, "extra_timer", True)
    async with working(client, max_cached_workflows=0) as adder, healing(client):
        await adder.signal("add", Number(20))
        await until(lambda: _shows(adder, 23), 120)


async def _shows(adder: Handle, value: int) -> bool:
    return (await adder.memo()).get("sum") == value


async def _is(adder: Handle, value: int, seconds: float = 30) -> bool:
    """Whether its sum is `value`. An update may overtake messages that it has yet to read."""
    with contextlib.suppress(TimeoutError):
        return await total(adder, seconds) == value
    return False
