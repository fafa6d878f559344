"""The entity of one signal: it knows which run waits for it, and ends when nobody does. It looks
now and then whether that run is still there, as mailboxes do."""

import asyncio
from typing import Any, ClassVar

import pydantic
from temporalio import workflow

from inngest_temporal.routing.signals import Claim, ReleaseClaim
from inngest_temporal.temporal import names

from .entity import LINGER_MS, Entity, entity
from .looks import Looks

_CLAIM = pydantic.TypeAdapter(Claim)
_HOLDER = pydantic.TypeAdapter(Claim | None)


@entity(names.SIGNAL_TYPE)
class SignalWorkflow(Entity):
    believes_stamps = False  # a sender whose clock is wrong must not make the wait expire
    messages: ClassVar = {"release": pydantic.TypeAdapter(ReleaseClaim)}

    def load(self, state: dict[str, Any]) -> None:
        self._holder: Claim | None = None
        self._looks = Looks()
        self._hold(_HOLDER.validate_python(state.get("holder")))
        self._turn = asyncio.Lock()

    def dump(self) -> dict[str, Any]:
        return {"holder": _HOLDER.dump_python(self._holder)}

    def due_ms(self) -> int | None:
        look_ms = self._looks.due_ms()
        if self._holder is None or look_ms is None:
            return None
        return min(look_ms, self._holder.expires_ms + LINGER_MS)

    async def act(self) -> None:
        async with self._turn:
            if self._holder is not None and self.now_ms >= self._holder.expires_ms:
                self._hold(None)
            for run, _ in self._looks.take(self.now_ms):
                if await self.call("inngest.gone", [[run]], list[str]):
                    self._hold(None)

    def _hold(self, holder: Claim | None) -> None:
        if self._holder is not None:
            self._looks.discard((self._holder.run, self._holder.step))
        self._holder = holder
        if holder is not None:
            self._looks.add((holder.run, holder.step), max(self.now_ms, self.sent_ms))

    async def take(self, name: str, message: ReleaseClaim) -> None:
        async with self._turn:
            holder = self._holder
            if holder is not None and (holder.run, holder.step) == (message.run, message.step):
                self._hold(None)

    @workflow.update
    async def claim(self, wait: dict[str, Any], sent_ms: int) -> Claim:
        """Claim the signal for a run (`wait` is a `Claim`). Returns the claim that holds now: this
        one, unless another run waits and is not to be replaced."""
        self.asked(sent_ms)
        claim = _CLAIM.validate_python(wait)
        await self.take_all()  # a release may have come before
        async with self._turn:
            holder = self._holder
            if holder is None or holder.expires_ms <= sent_ms or claim.replace:
                holder = claim
                self._hold(claim)
            self.stir()
            return holder

    @workflow.update
    async def send(self, data: Any, sent_ms: int) -> str | None:
        """Pass the signal on to the run that waits; returns its id, or None if no run waits."""
        self.asked(sent_ms)
        await self.take_all()
        async with self._turn:
            holder = self._holder
            if holder is None or holder.expires_ms <= sent_ms:
                return None
            signal = workflow.info().workflow_id.removeprefix(names.signal_id(""))
            found = await self.call(
                "inngest.send_signal", [holder, signal, data, self.task_ms], bool
            )
            self._hold(None)
            self.stir()
            return holder.run if found else None
