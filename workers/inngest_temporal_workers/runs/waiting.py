"""The run's side of steps that wait: sleeps, events, signals, and runs of other functions."""

import builtins
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import workflow

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.failures import RunFailure
from inngest_temporal.drivers.protocol import ErrorInfo, Memo, Op
from inngest_temporal.routing.run_input import RunInput
from inngest_temporal.routing.waits import Delivery
from inngest_temporal.temporal import names
from inngest_temporal_workers.calls import Calls

from .times import due_ms, duration_of, expires_ms, now_ms, timeout_of

FIRST_CHECK, LONGEST_CHECK = timedelta(minutes=1), timedelta(days=1)
"""Delay before the first check that an invoked run is still there, and longest interval between
checks: each adds six events to history."""
LAST_ANSWER = timedelta(seconds=10)
"""How long to wait for the answer of a run that has ended."""


class StepWaits:
    """The waits of one run. Workflow code."""

    def __init__(
        self,
        input: RunInput,
        calls: Calls,
        expects: Callable[[str], bool],
        woke: Callable[[int], None],
    ) -> None:
        """`expects`: whether a step (hashed id) still needs an answer. `woke` is called when a
        timer has fired, with the time at which it was due."""
        self._input = input
        self._calls = calls
        self._expects = expects
        self._woke = woke
        self.registering: set[str] = set()
        """Ids of waits that were asked for and have not begun."""
        self.mailboxes: dict[str, list[str]] = {}
        """Id of a wait -> the mailboxes that keep it."""
        self.signals: dict[str, str] = {}
        """Id of a wait -> the signal that it has claimed."""
        self._wait_order: dict[str, int] = {}
        self._consumed: dict[str, int] = {}
        self._arrived: dict[str, dict[str, Any]] = {}
        self._invoked: dict[str, Memo] = {}
        self._signalled: dict[str, dict[str, Any]] = {}

    async def perform(self, op: Op, after: set[str]) -> Memo:
        """The result of a step, once the waits of `after` have begun."""
        if after:
            await workflow.wait_condition(lambda: self.registering.isdisjoint(after))
        if op.kind == protocol.SLEEP:
            return await self._sleep(op)
        if op.kind == protocol.WAIT_FOR_EVENT:
            return await self._wait_for_event(op)
        if op.kind == protocol.WAIT_FOR_SIGNAL:
            return await self._wait_for_signal(op)
        return await self._invoke(op)

    async def _sleep(self, op: Op) -> Memo:
        until_ms = op.options.get("until_ms")
        if until_ms is None:
            duration = duration_of(op, op.options["duration_ms"])
        else:
            # At least 1 ms: whether there is a timer must not depend on the task's clock.
            duration = duration_of(op, max(1, until_ms - now_ms()))
        if duration > timedelta(0):
            due = due_ms(duration)
            await workflow.sleep(duration, summary=names.summary_of(op.name))
            self._woke(due)
        return Memo()

    async def _wait_for_event(self, op: Op) -> Memo:
        timeout = duration_of(op, op.options["timeout_ms"])
        self._wait_order[op.id] = len(self._consumed)
        registered = await self._call(
            "inngest.wait",
            {
                "step": op.id,
                "events": op.options["events"],
                "own": self._input.event_ids,
                "if": op.options.get("if"),
                "event": self._input.events[0],
                "expires_ms": expires_ms(timeout),
            },
        )
        if "error" in registered:
            raise RunFailure(
                ErrorInfo(protocol.INVALID_EXPRESSION, registered["error"], retriable=False)
            )
        mailboxes = self.mailboxes[op.id] = registered["mailboxes"]
        self.registering.discard(op.id)
        early = op.id in self._arrived
        due = due_ms(timeout)
        try:
            await workflow.wait_condition(
                lambda: op.id in self._arrived,
                timeout=timeout,
                timeout_summary=names.summary_of(op.name),
            )
        except builtins.TimeoutError:
            self._woke(due)
        # A mailbox forgets a wait that it has resumed. If the event came early, before the answer
        # of the registration, the wait may have been registered once more after that.
        if early or op.id not in self._arrived or len(mailboxes) > 1:
            await self._call("inngest.unwait", {"mailboxes": mailboxes, "step": op.id})
        del self.mailboxes[op.id]
        return Memo(data=self._arrived.pop(op.id, None))

    def event(self, delivery: Delivery) -> None:
        """Take an event that matches waits of this run. An event resumes a wait once, and never a
        wait that began later."""
        order = self._consumed.setdefault(delivery.id, len(self._consumed) + 1)
        for step in delivery.waits:
            if (
                step not in self._arrived
                and self._wait_order.get(step, 0) < order
                and self._expects(step)
            ):
                self._arrived[step] = delivery.event

    async def _wait_for_signal(self, op: Op) -> Memo:
        timeout = timeout_of(op)
        signal = op.options["signal"]
        wait = {"step": op.id, "signal": signal, "replace": op.options["replace"]}
        if "conflict" in await self._call(
            "inngest.claim_signal", wait | {"expires_ms": expires_ms(timeout)}
        ):
            message = "Signal conflict; signal wait already exists for another run"
            raise RunFailure(ErrorInfo("Error", message, retriable=False))
        self.signals[op.id] = signal
        self.registering.discard(op.id)
        due = due_ms(timeout)
        try:
            await workflow.wait_condition(
                lambda: op.id in self._signalled,
                timeout=timeout,
                timeout_summary=names.summary_of(op.name),
            )
        except builtins.TimeoutError:
            self._woke(due)
            await self._call("inngest.release_signal", wait)
        del self.signals[op.id]
        return Memo(data=self._signalled.pop(op.id, None))

    def signal(self, step: str, signal: str, data: Any) -> None:
        """Take the signal that a step waits for."""
        if step not in self._signalled and self._expects(step):
            self._signalled[step] = {"signal": signal, "data": data}

    async def _invoke(self, op: Op) -> Memo:
        timeout = timeout_of(op)
        started = await self._call("inngest.invoke", {"step": op.id, "ts": now_ms(), **op.options})
        if "error" in started:
            return Memo(error=ErrorInfo("Error", started["error"]))
        error = await self._invoked_or_error(op, timeout, started.get("run"))
        if error is not None:
            return Memo(error=error)
        memo = self._invoked.pop(op.id)
        if memo.error is not None:
            # Whether the other run was retriable does not matter: the handler gets a `StepError`,
            # as in Inngest.
            memo = Memo(error=replace(memo.error, retriable=True))
        return memo

    async def _invoked_or_error(
        self, op: Op, timeout: timedelta, run: str | None
    ) -> ErrorInfo | None:
        """Wait for the answer of the run that a step invoked; returns an error if there is none.

        A run that was terminated in Temporal gives no answer, and this run gets none if it has had
        10,000 signals. So the invoked run is checked, less and less often.
        """
        remaining, check, gone = timeout, FIRST_CHECK, False
        while True:
            patience = remaining if run is None else min(remaining, LAST_ANSWER if gone else check)
            try:
                await workflow.wait_condition(
                    lambda: op.id in self._invoked,
                    timeout=max(patience, timedelta(milliseconds=1)),
                    timeout_summary=names.summary_of(op.name),
                )
                return None
            except builtins.TimeoutError:
                self._calls.new_task()
            remaining -= patience
            if remaining <= timedelta(0):
                return ErrorInfo(protocol.INVOKE_TIMEOUT_NAME, protocol.INVOKE_TIMEOUT_MESSAGE)
            if gone:
                message = (
                    f"The invoked run {run} ended without an answer: it was skipped, or terminated"
                    " in Temporal."
                )
                return ErrorInfo("Error", message)
            found = await self._call("inngest.executes", {"run": run})
            if "answer" in found:
                self.invoked(op.id, found["answer"])
                return None
            gone = not found["executes"]
            check = min(check * 2, LONGEST_CHECK)

    def invoked(self, step: str, result: dict[str, Any]) -> None:
        """Take the answer of a run that a step of this run invoked."""
        if self._expects(step):
            self._invoked[step] = protocol.memo_from_json(result)

    async def _call(self, activity: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return await self._calls.call(activity, [arguments], dict)
