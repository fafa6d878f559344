"""Errors as data: conversions between exceptions, `ErrorInfo`, Temporal's failures and Inngest's
JSON."""

import datetime
import os
import traceback
from collections.abc import Mapping
from typing import Any

from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    FailureError,
    TimeoutError,
)

from inngest_temporal import errors
from inngest_temporal.errors import Error, NonRetriableError, StepError, is_official

from .protocol import ErrorInfo

RETRY_AFTER_MS = (1_000, 86_400_000)
"""Inngest clamps a retry-after to this range."""

MAX_TEXT = 50_000
"""Maximum number of characters of an error's message, and of its stack: both are in one Temporal
payload, perhaps with other errors."""

_OURS = tuple(
    f"{os.sep}{name}{os.sep}" for name in ("inngest_temporal", "inngest_temporal_workers")
)
"""Parts of the paths of our own source files."""


def error_info(error: BaseException) -> ErrorInfo:
    """An exception in the form in which it is stored. Its stack shows only frames of user code and
    libraries, not ours."""
    retry_after_ms = None
    after = getattr(error, "retry_after", None) if _is_one_of_ours(error) else None
    if isinstance(after, datetime.datetime):
        delay = (
            after.astimezone(datetime.UTC) - datetime.datetime.now(datetime.UTC)
        ).total_seconds() * 1000
        low, high = RETRY_AFTER_MS
        retry_after_ms = round(min(max(delay, low), high))
    return ErrorInfo(
        name=error.name if isinstance(error, Error) else type(error).__name__,
        message=bounded(error.message if isinstance(error, Error) else str(error)),
        stack=None if (stack := _stack(error)) is None else bounded(stack),
        retriable=_is_retriable(error),
        retry_after_ms=retry_after_ms,
        quiet=bool(getattr(error, "quiet", False)),
    )


def _is_retriable(error: BaseException) -> bool:
    """Whether another attempt may help. A group of errors (of a `TaskGroup`) is retriable if all of
    its errors are."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_retriable(each) for each in error.exceptions)
    return bool(getattr(error, "is_retriable", True)) if _is_one_of_ours(error) else True


def _is_one_of_ours(error: BaseException) -> bool:
    """Whether it is an error of this package, or of the official SDK, whose import a module of the
    user may still have: what it forbids must not happen."""
    return isinstance(error, Error) or any(map(is_official, type(error).__mro__))


def bounded(text: str) -> str:
    """A text that is short enough and can be encoded. Messages may quote a server's whole answer,
    or have halves of characters, for example in the names of odd files."""
    if len(text) > MAX_TEXT:
        text = (
            f"{text[: MAX_TEXT // 2]}\n... {len(text) - MAX_TEXT} characters left out"
            f" ...\n{text[-MAX_TEXT // 2 :]}"
        )
    return text.encode(errors="replace").decode()


def _stack(error: BaseException) -> str | None:
    if isinstance(error, Error) and not error.include_stack:
        return None
    if isinstance(error, StepError):
        return error.stack
    if isinstance(error, NonRetriableError) and error._recorded_stack is not None:
        return error._recorded_stack
    rendered = traceback.TracebackException.from_exception(error)
    chain: list[traceback.TracebackException] = [rendered]
    while chain:
        part = chain.pop()
        users = [frame for frame in part.stack if not any(ours in frame.filename for ours in _OURS)]
        part.stack = traceback.StackSummary.from_list(users)
        chain.extend(linked for linked in (part.__cause__, part.__context__) if linked is not None)
    return "".join(rendered.format()).rstrip()


def as_exception(error: BaseException | None) -> Exception | None:
    """The error for middleware, whose hooks take only `Exception`. Others, such as `SystemExit` in
    a handler, must not stop the worker."""
    if error is None or isinstance(error, Exception):
        return error
    return Error(f"{type(error).__name__}: {error}")


def as_raised(error: ErrorInfo) -> Exception:
    """The exception that the handler gets from a step that failed."""
    if not error.retriable and (
        error.name == NonRetriableError.__name__ or not hasattr(errors, error.name)
    ):
        raised = NonRetriableError(error.message)  # it may have been a user's subclass
        raised._recorded_stack = error.stack
        return raised
    return StepError(error.message, error.name, error.stack)


def error_of(error: BaseException) -> ErrorInfo:
    """The error of user code in the failure of a run or activity, or what Temporal says instead."""
    if isinstance(error, ActivityError):
        if isinstance(error.cause, TimeoutError):
            message = "The worker that executed it was lost, or it took longer than the limit."
            return ErrorInfo("StepTimeout", f"{message} ({error.cause.message})")
        if not isinstance(error.cause, ApplicationError):
            return ErrorInfo("Error", str(error.cause or error))
        error = error.cause
    if not isinstance(error, ApplicationError):
        message = error.message if isinstance(error, FailureError) else str(error)
        return ErrorInfo(type(error).__name__, message)
    failure = error.failure
    # For an empty message, the exception has another text than the failure.
    message, stack = (
        (error.message, None) if failure is None else (failure.message, failure.stack_trace)
    )
    return ErrorInfo(
        error.type or "Error", message, stack or None, retriable=not error.non_retryable
    )


class RunFailure(ApplicationError):
    """Ends a run with an error of user code: its name, its message and its own stack. A run is
    never retried as a whole: `non_retryable` says whether user code forbade another attempt."""

    def __init__(self, error: ErrorInfo, *, told: bool = False) -> None:
        """`told`: whether it was logged already."""
        category = (
            ApplicationErrorCategory.BENIGN if error.quiet else ApplicationErrorCategory.UNSPECIFIED
        )
        super().__init__(
            error.message,
            type=error.name,
            non_retryable=not error.retriable,
            category=category,
        )
        self.error = error
        self.told = told

    @property
    def failure(self) -> Failure:
        failure = Failure(message=self.message, stack_trace=self.error.stack or "")
        failure.application_failure_info.type = self.error.name
        failure.application_failure_info.non_retryable = self.non_retryable
        return failure


def standard_error(error: ErrorInfo) -> dict[str, Any]:
    """An error in lifecycle events and the REST API: `{error, name, message, stack?}`."""
    shown = {
        "error": "invalid status code: 500" if error.retriable else "NonRetriableError",
        "name": error.name,
        "message": error.message,
    }
    if error.stack is not None:
        shown["stack"] = error.stack
    return shown


def error_from_json(error: Mapping[str, Any]) -> ErrorInfo:
    """An error in the form of Inngest's SDKs: `{name, message, stack?}`."""
    return ErrorInfo(str(error["name"]), str(error["message"]), error.get("stack"))
