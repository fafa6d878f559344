"""The activities by which runs call Temporal: waits, signals, invocations, and the end of a run."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.protocol import ErrorInfo, Memo
from inngest_temporal.errors import BodyInvalidError, ExpressionError
from inngest_temporal.logger import told_of
from inngest_temporal.routing import events, signals
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import Router, refuses
from inngest_temporal.routing.run_input import Invoker, RunInput
from inngest_temporal.routing.waits import Waits
from inngest_temporal.temporal import runs


@dataclass(frozen=True)
class RunActivities:
    """The calls that runs make to Temporal."""

    client: Client
    app_of: Callable[[str], str]
    """The app id of a function (full id)."""
    router: Router
    waits: Waits
    follower: Follower

    def all(self) -> list[Callable[..., Any]]:
        return [
            self.wait,
            self.unwait,
            self.cancel,
            self.claim_signal,
            self.release_signal,
            self.invoke,
            self.is_running,
            self.now,
            self.finish,
        ]

    @activity.defn(name="inngest.wait")
    async def wait(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Register a wait. Returns `{"mailboxes": [...]}`, one for each event name, or `{"error"}`
        if the condition does not compile."""
        run = activity.info().workflow_id
        assert run is not None
        try:
            mailboxes = await asyncio.gather(
                *(
                    self.waits.register(
                        run=run,
                        wait=arguments["step"],
                        event_name=name,
                        condition=arguments["if"],
                        event=arguments["event"],
                        own=arguments["own"],
                        expires_ms=arguments["expires_ms"],
                    )
                    for name in arguments["events"]
                )
            )
        except ExpressionError as error:
            return {"error": protocol.invalid_condition(error).message}
        return {"mailboxes": mailboxes}

    @activity.defn(name="inngest.unwait")
    async def unwait(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Deregister a wait."""
        run = activity.info().workflow_id
        assert run is not None
        await self._unwait(run, {arguments["step"]: arguments["mailboxes"]})
        return {}

    async def _unwait(self, run: str, waits: Mapping[str, list[str]]) -> None:
        await asyncio.gather(
            *(
                self.waits.deregister(mailbox, run, wait)
                for wait, mailboxes in waits.items()
                for mailbox in mailboxes
            )
        )

    @activity.defn(name="inngest.cancel")
    async def cancel(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Cancel the run itself: a workflow can end as cancelled only if somebody asks for it."""
        info = activity.info()
        assert info.workflow_id is not None
        await self.client.get_workflow_handle(
            info.workflow_id, run_id=info.workflow_run_id
        ).cancel()
        return {}

    @activity.defn(name="inngest.claim_signal")
    async def claim_signal(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Begin to wait for a signal. Returns `{}`, or `{"conflict": true}` if another run waits
        for it."""
        run = activity.info().workflow_id
        assert run is not None
        wait = signals.Claim(run, arguments["step"], arguments["expires_ms"], arguments["replace"])
        claimed = await signals.claim(self.client, arguments["signal"], wait)
        return {} if claimed else {"conflict": True}

    @activity.defn(name="inngest.release_signal")
    async def release_signal(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Stop waiting for a signal."""
        run = activity.info().workflow_id
        assert run is not None
        await signals.release(self.client, arguments["signal"], run, arguments["step"])
        return {}

    @activity.defn(name="inngest.invoke")
    async def invoke(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Start the run that a step invokes. Returns `{"run"?}`, or `{"error"}` if there is no such
        function or it refuses the event."""
        info = activity.info()
        assert info.workflow_id is not None
        assert info.workflow_type is not None
        function_id = arguments["function_id"]
        try:
            stamped = events.invoked(
                function_id,
                arguments["payload"]["data"],
                run_id=info.workflow_id,
                step=arguments["step"],
                source_function_id=info.workflow_type,
                source_app_id=self.app_of(info.workflow_type),
                ts=arguments["ts"],
                v=arguments["payload"].get("v"),
            )
        except BodyInvalidError as error:
            return {"error": error.message}
        routed = await self.router.invoke(stamped)
        if routed.missing is not None:
            await self.follower.refresh()  # it may have been published a moment ago
            routed = await self.router.invoke(stamped)
        if routed.missing is not None:
            return {"error": f"could not find function with ID: {function_id}"}
        if routed.refused is not None:
            return {"error": routed.refused}
        return {} if routed.invoked is None else {"run": routed.invoked}

    @activity.defn(name="inngest.executes")
    async def is_running(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Returns `{"executes": bool, "answer"?}`: whether another run is still running and, if it
        has ended, the answer that `inngest.finish` gives to its invoker."""
        run = arguments["run"]
        if await runs.is_running(self.client, run):
            return {"executes": True}
        found = await runs.load(self.client, run)
        if found is None or found.status not in ("Completed", "Failed", "Cancelled"):
            return {"executes": False}
        result: dict[str, Any] = {"value": found.output}
        if found.error is not None:
            if found.error.name == TerminatedError.__name__:
                return {"executes": False}
            result = {"error": protocol.memo_to_json(Memo(error=found.error))["error"]}
        return {"executes": False, "answer": _answer(found.status, result, found.function_id)}

    @activity.defn(name="inngest.now")
    async def now(self, _: dict[str, Any]) -> dict[str, Any]:
        """The current time: `{"ms"}`."""
        return {"ms": time.time_ns() // 1_000_000}

    @activity.defn(name="inngest.finish")
    async def finish(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Clean up after a run: take its waits back, answer its invokers, route its lifecycle
        events."""
        info = activity.info()
        assert info.workflow_id is not None
        assert info.workflow_type is not None
        input = RunInput.from_json(arguments["input"])
        result: dict[str, Any] = {
            key: arguments[key] for key in ("value", "error") if key in arguments
        }
        await self._unwait(info.workflow_id, arguments["waits"])
        for step, signal in arguments["signals"].items():
            await signals.release(self.client, signal, info.workflow_id, step)
        if arguments["status"] == "Skipped":
            return {}  # as in Inngest, nobody is told
        for invoker in [] if input.invoker is None else [input.invoker, *input.more_invokers]:
            answer = _answer(arguments["status"], result, info.workflow_type)
            await self._tell(invoker, answer, arguments["ts"])
        error = protocol.memo_from_json(result).error
        lifecycle = events.ended(
            info.workflow_type,
            info.workflow_id,
            input.events,
            arguments["status"],
            ts=arguments["ts"],
            result=result.get("value"),
            error=error,
        )
        try:
            await self.router.route(lifecycle)
        except RPCError as error:
            if not refuses(error):
                raise
            # Repeating it would keep the run from ending.
            activity.logger.error(
                "Temporal refuses what the end of run %s of %s starts: %s",
                info.workflow_id,
                info.workflow_type,
                error.message,
                extra=told_of(info.workflow_type, info.workflow_id),
            )
        return {}

    async def _tell(self, invoker: Invoker, answer: dict[str, Any], at_ms: int) -> None:
        try:
            await self.client.get_workflow_handle(invoker.workflow_id).signal(
                "invoked", args=[invoker.step, answer, at_ms]
            )
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return
            if error.status != RPCStatusCode.INVALID_ARGUMENT:
                raise
            # A run that has had 10,000 signals takes no more of them, and finds out by itself.
            activity.logger.error(
                "Temporal refuses the answer to step %s of run %s: %s",
                invoker.step,
                invoker.workflow_id,
                error.message,
                extra=told_of(None, invoker.workflow_id, invoker.step),
            )


def _answer(status: str, result: dict[str, Any], function_id: str) -> dict[str, Any]:
    """The answer to an invoker, as a memo."""
    if status == "Cancelled":
        error = ErrorInfo("Error", f"The invoked function {function_id} was cancelled.")
        return protocol.memo_to_json(Memo(error=error))
    return {"error": result["error"]} if "error" in result else {"data": result.get("value")}
