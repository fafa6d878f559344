"""How our workflows call activities without ever having a workflow task heartbeated.

While a local activity is under way, its workflow task stays open, and after about 8 seconds the
worker heartbeats that task. On replay Temporal's core merges a heartbeated task with the next one:
`workflow.time()` and the length of history then differ from what they were, and whatever was
decided by them is decided differently, for ever. So:

- a local activity has `LOCAL_TIMEOUT` and one attempt; if that fails, a regular activity takes its
  place, which Temporal repeats until it succeeds;
- at most `MAX_ROUNDS` rounds of local activities follow each other within one workflow task.
  Activities that begin together are one round; those that begin after one of them has ended are the
  next round.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError, is_cancelled_exception

LOCAL_TIMEOUT = timedelta(seconds=3)
MAX_ROUNDS = 2
REGULAR_TIMEOUT = timedelta(seconds=60)
"""Limit of one attempt of the regular activity."""
RETRIES = RetryPolicy(maximum_interval=timedelta(seconds=10))

T = TypeVar("T")


class Calls:
    """The calls of one workflow. Activities called by `call` must be harmless to repeat."""

    def __init__(self) -> None:
        self._rounds = 0
        self._under_way = 0
        self._ended = True
        """Whether a local activity of this round has ended, or none has begun."""

    def new_task(self) -> None:
        """Note that a workflow task has begun, with a signal, a timer or an activity's result.

        If this call is forgotten, a regular activity is used instead of a local one; nothing else.
        """
        if not self._under_way:
            self._rounds = 0
            self._ended = True

    @property
    def is_new_task(self) -> bool:
        """Whether no local activity has begun in this workflow task."""
        return not self._rounds

    @property
    def may_be_local(self) -> bool:
        """Whether there is time for a local activity in this workflow task."""
        return self._rounds + self._ended <= MAX_ROUNDS

    async def call(self, activity: str, args: Sequence[Any], result_type: type[T]) -> T:
        """The activity's result, however long that takes. Raises only when it is cancelled."""
        if self.may_be_local:
            try:
                return await self.call_locally(activity, args, result_type)
            except FailureError as error:
                if is_cancelled_exception(error):
                    raise
                workflow.logger.debug("%s failed locally, called again: %s", activity, error)
        return await self.call_regularly(activity, args, result_type)

    async def call_locally(self, activity: str, args: Sequence[Any], result_type: type[T]) -> T:
        """One attempt by a local activity, if it `may_be_local`. Raises the activity's own error
        (which replay does not wrap) or a timeout."""
        self._rounds += self._ended
        self._ended = False
        self._under_way += 1
        try:
            result: T = await workflow.execute_local_activity(
                activity,
                args=args,
                schedule_to_close_timeout=LOCAL_TIMEOUT,
                retry_policy=RetryPolicy(maximum_attempts=1),
                result_type=result_type,
            )
            return result
        finally:
            self._under_way -= 1
            self._ended = True

    async def call_regularly(self, activity: str, args: Sequence[Any], result_type: type[T]) -> T:
        """The same by a regular activity, which begins when the workflow task is in history."""
        result: T = await workflow.execute_activity(
            activity,
            args=args,
            start_to_close_timeout=REGULAR_TIMEOUT,
            retry_policy=RETRIES,
            result_type=result_type,
        )
        self.new_task()
        return result
