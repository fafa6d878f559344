"""The limits that one run waited for, as they are found while its history is read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from inngest_temporal.routing.locks import GRANTED
from inngest_temporal.routing.run_input import LockNeed

from .models import AdmissionKind, Lock


@dataclass
class _LockRecord:
    need: LockNeed
    asked_ms: int | None = None
    admitted_ms: int | None = None
    since_ms: int | None = None
    """Since when the run is waiting for it; None if it is not."""
    waited_ms: int = 0


class AdmissionRecord:
    """All of a run's locks."""

    def __init__(self, needs: Iterable[LockNeed] = ()) -> None:
        self._locks = {need.lock: _LockRecord(need) for need in needs}
        self.over = False
        """Whether the run has ended and only gives tickets back."""

    def asked(self, locks: Iterable[str], at_ms: int) -> None:
        """Note that locks were asked, some of them perhaps again."""
        for lock in locks:
            record = self._locks.get(lock)
            if record is None or self.over:
                continue
            whole_is_admitted = record.need.kind != "step" and record.admitted_ms is not None
            if record.since_ms is None and not whole_is_admitted:
                record.since_ms = at_ms
            if record.asked_ms is None:
                record.asked_ms = at_ms

    def told(self, lock: str, verdicts: Mapping[str, Any], at_ms: int) -> None:
        """Note the answer of a lock."""
        record = self._locks.get(lock)
        if record is None or GRANTED not in verdicts:
            return
        if record.admitted_ms is None:
            record.admitted_ms = at_ms
        # History may have the answer before it has the request.
        since_ms, record.since_ms = record.since_ms, None
        if record.asked_ms is None or record.asked_ms > record.admitted_ms:
            record.asked_ms = record.admitted_ms
        if since_ms is not None:
            record.waited_ms += max(0, at_ms - since_ms)

    def shown(self, now_ms: int | None) -> tuple[Lock, ...]:
        """`now_ms`: when the run ended, or the time of the last event in history."""
        return tuple(
            Lock(
                kind=cast(AdmissionKind, each.need.kind),
                lock=each.need.lock,
                key=each.need.key,
                value=each.need.value,
                asked_ms=each.asked_ms,
                admitted_ms=each.admitted_ms,
                waited_ms=each.waited_ms + _still(each, now_ms),
            )
            for each in self._locks.values()
        )


def _still(record: _LockRecord, now_ms: int | None) -> int:
    if now_ms is None or record.since_ms is None:
        return 0
    return max(0, now_ms - record.since_ms)
