"""An execution inside a workflow task: the first one of a run, and the first one after each wait.
Nothing of it is durable before that task ends.

It executes no more steps than a loss may repeat (the function's `buffered_steps`), and only steps
that this process knows to be quick. So a short run takes one workflow task and no activity.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from inngest_temporal.drivers.protocol import Done, Op, json_size
from inngest_temporal.errors import Interrupt
from inngest_temporal.models import Checkpointing

from .checkpoints import MAX_CHAIN_BYTES

LOCAL_SECONDS = 0.5
"""Seconds that a handler may take inside a workflow task; then it continues in a regular activity.
"""
QUICK_MS = 50
"""A step is quick if its last execution took no longer than this."""
STILL_QUICK_MS = 250
"""A step that was quick stays so up to this time, because the process may have been busy."""
LONG_SECONDS = 60.0
"""How long a process remembers that a handler took longer than `LOCAL_SECONDS`."""
MAX_KNOWN = 10_000
"""Maximum number of steps that are remembered, of each kind."""


class Paces:
    """Knows which steps were quick when this process last executed them, and after which steps the
    handler took long."""

    def __init__(self) -> None:
        self._quick: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._long: OrderedDict[tuple[str, str], float] = OrderedDict()

    def learn(self, function_id: str, done: Sequence[Done]) -> None:
        for each in done:
            key = function_id, each.op.id
            limit = STILL_QUICK_MS if self._quick.get(key) else QUICK_MS
            self._quick[key] = each.error is None and each.ended_ms - each.began_ms <= limit
            self._quick.move_to_end(key)
        while len(self._quick) > MAX_KNOWN:
            self._quick.popitem(last=False)

    def learn_long(self, function_id: str, after: str) -> None:
        """A handler took long. `after`: hashed id of the last step that had ended, or empty."""
        self._long.pop((function_id, after), None)
        self._long[function_id, after] = time.monotonic()
        if len(self._long) > MAX_KNOWN:
            self._long.popitem(last=False)

    def is_long(self, function_id: str, after: str) -> bool:
        return time.monotonic() - self._long.get((function_id, after), -math.inf) < LONG_SECONDS

    def is_quick(self, function_id: str, op: Op) -> bool:
        return self._quick.get((function_id, op.id), False)


@dataclass
class TaskSteps:
    """Implements the driver's `Ledger` for an execution inside a workflow task."""

    function_id: str
    paces: Paces
    policy: Checkpointing | None
    """None: each step is an activity of its own."""

    closed: bool = False
    """Whether no further step may begin: the execution goes on in a regular activity."""
    begun: Op | None = None
    """The step whose body is under way."""
    parallel: bool = False
    """Whether the handler waits for several steps that are all quick."""
    _done: int = 0
    _bytes: int = 0
    _ends_at: float = field(default_factory=lambda: time.monotonic() + LOCAL_SECONDS / 2)

    async def choose(self, ops: Sequence[Op]) -> Sequence[Op]:
        """One step at a time. Several are left to a regular activity, which makes the result of
        each durable."""
        if self.policy is None or not all(self.paces.is_quick(self.function_id, op) for op in ops):
            return []
        self.parallel = len(ops) > 1
        may_execute = (
            not self.closed
            and not self.parallel
            and self._done < self.policy.buffered_steps
            and self._bytes < MAX_CHAIN_BYTES
            and time.monotonic() < self._ends_at
        )
        return ops if may_execute else []

    async def begin(self, op: Op) -> None:
        """Note that a body begins, unless the execution goes on elsewhere."""
        if self.closed:
            raise Interrupt
        self.begun = op

    async def record(self, done: Done) -> None:
        """Note that a body has ended. Its result becomes durable with the workflow task."""
        self.begun = None
        self._done += 1
        if self.policy is not None and self._done < self.policy.buffered_steps:
            self._bytes += json_size(done.data)  # another one may follow
