"""What the tests of locks' machines share."""

import json

from inngest_temporal.routing.locks import LockRequest
from inngest_temporal_workers.entities.queue import Machine

T0 = 1_790_000_000_000


def verdicts(lock: Machine, *requests: LockRequest, now: int = T0) -> list[tuple[str, int, str]]:
    for request in requests:
        lock.take(request, now)
    return lock.decisions().verdicts


def reloaded(lock: Machine) -> Machine:
    """The lock after it continued as new."""
    return type(lock).load(json.loads(json.dumps(lock.dump())))
