"""Every exception of this package.

    Error
    ├── NonRetriableError            raised by user code: do not try again
    ├── RetryAfterError              raised by user code: try again at that time
    ├── StepError                    raised at a step whose attempts are used up
    ├── CodedError                   an error whose code is known only where it is raised
    ├── FunctionConfigInvalidError   a function's configuration
    ├── ExpressionError              an expression that can't be compiled, or isn't allowed there
    ├── EvaluationError              an expression that has no value for these events
    │   └── LimitError               ... because it took too much work
    ├── AsyncUnsupportedError        async code met a function, or a send, that is not async
    ├── EventKeyUnspecifiedError     production mode without an event key
    ├── URLInvalidError              a setting that is not a valid URL
    ├── SendEventsError              the ingress did not accept all events
    ├── BodyInvalidError             JSON from outside, or an event that can't be JSON
    ├── FunctionNotFoundError        no function with that id
    ├── RegistryNotReadyError        the registry was not read from Temporal yet
    ├── SdkDeniedError               an app has a version of its SDK that is refused
    ├── RunNotFoundError             no run with that id
    ├── RerunRefusedError            a run that can't be rerun in that way
    ├── VisibilityBusyError          too many lists of runs were asked for at once
    ├── CursorInvalidError           a cursor that does not belong to this list
    ├── WorkerMissingError           no worker does what the ingress asks for
    ├── SettingsInvalidError         an environment variable has an invalid value
    ├── SyncError                    an app that is served over HTTP can't be registered
    ├── OutputUnserializableError    a step or handler returned a value that can't be JSON
    ├── OutputTooLargeError          a step or handler returned more than a Temporal payload holds
    ├── StepInvalidError             a handler called a step in a way that can't work
    │   └── StepNestedError          ... inside the body of another step
    ├── StepUnexpectedError          a handler asked for a step that it can't have now
    └── UnstubbedStepError           in a test: a step without a stub

    Interrupt (BaseException)        stops a handler at a step; not an error

The codes are Inngest's, so clients and people know them.
"""

import datetime
import enum
import traceback
from typing import Any


class ErrorCode(enum.Enum):
    """Inngest's machine-readable name of a kind of error."""

    ASYNC_UNSUPPORTED = "async_unsupported"
    BODY_INVALID = "body_invalid"
    EVENT_KEY_UNSPECIFIED = "event_key_unspecified"
    FUNCTION_CONFIG_INVALID = "function_config_invalid"
    FUNCTION_NOT_FOUND = "function_not_found"
    NON_RETRIABLE_ERROR = "non_retriable_error"
    OUTPUT_UNSERIALIZABLE = "output_unserializable"
    RETRY_AFTER_ERROR = "retry_after_error"
    SEND_EVENT_FAILED = "send_event_failed"
    SIGNING_KEY_UNSPECIFIED = "signing_key_unspecified"
    STEP_ERRORED = "step_errored"
    STEP_NESTED = "step_nested"
    STEP_UNEXPECTED = "step_unexpected"
    UNKNOWN = "unknown"
    URL_INVALID = "url_invalid"


class Error(Exception):
    """Base of every error of this package."""

    code: ErrorCode = ErrorCode.UNKNOWN
    include_stack: bool = True
    """Whether the stack helps a reader; false if it would show only our own frames."""
    is_retriable: bool = True

    @property
    def message(self) -> str:
        """What happened, without the kind of error."""
        return str(self)

    @property
    def name(self) -> str:
        """The kind of error, as shown with a failed run."""
        return type(self).__name__

    @property
    def stack(self) -> str | None:
        """The traceback as text."""
        return "".join(traceback.format_exception(self))


class NonRetriableError(Error):
    """Raise it in a step or a handler to fail without another attempt."""

    code = ErrorCode.NON_RETRIABLE_ERROR
    is_retriable = False
    _recorded_stack: str | None = None
    """The stack of a step that raised it, if it is raised again at that step."""

    def __init__(self, message: str | None = None, quiet: bool = False) -> None:
        """`quiet`: don't log it."""
        super().__init__(message or "")
        self.quiet = quiet


class RetryAfterError(Error):
    """Raise it in a step or a handler to choose when the next attempt is; it counts as an attempt.

    The server keeps the delay between 1 second and 24 hours, as Inngest does.
    """

    code = ErrorCode.RETRY_AFTER_ERROR

    def __init__(
        self,
        message: str | None,
        retry_after: int | datetime.timedelta | datetime.datetime,
        quiet: bool = False,
    ) -> None:
        """`retry_after`: milliseconds, a timedelta, or a moment (a naive one is local time).
        `quiet`: don't log it."""
        super().__init__(message or "")
        self.retry_after: datetime.datetime = _moment(retry_after)
        """The moment of the next attempt, aware, in UTC."""
        self.quiet = quiet


class StepError(Error):
    """A step failed for good. Raised where the handler called it; uncaught, it fails the run."""

    code = ErrorCode.STEP_ERRORED
    is_retriable = False

    def __init__(self, message: str, name: str, stack: str | None) -> None:
        """Message, class name and traceback of the step's own error."""
        super().__init__(message)
        self._name = name
        self._stack = stack

    @property
    def name(self) -> str:
        """Class name of the step's own error."""
        return self._name

    @property
    def stack(self) -> str | None:
        """Traceback of the step's own error."""
        return self._stack


class CodedError(Error):
    """An error whose code and retriability are known only where it is raised."""

    def __init__(self, code: ErrorCode, message: str, *, is_retriable: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.is_retriable = is_retriable


class FunctionConfigInvalidError(Error):
    """A function can't be registered as configured; the message names function, field and
    remedy."""

    code = ErrorCode.FUNCTION_CONFIG_INVALID


class ExpressionError(Error, ValueError):
    """An expression that can't be compiled, or isn't allowed in its place.

    `position` is the offset in `source`, in characters; `message` says what is wrong and what to
    do.
    """

    is_retriable = False

    def __init__(self, message: str, position: int = 0, source: str = "") -> None:
        self._message = message
        self.position = position
        self.source = source
        before = source[:position]
        line, column = before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1
        where = f"column {column}" if "\n" not in source else f"line {line}, column {column}"
        super().__init__(
            f"{message} (at {where} of expression {_shortened(source)})" if source else message
        )

    @property
    def message(self) -> str:
        """What is wrong and what to do, without the place."""
        return self._message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._message, self.position, self.source)


class EvaluationError(Error, ValueError):
    """An expression that has no value for these events."""

    is_retriable = False

    def __init__(self, message: str, source: str = "") -> None:
        self._message = message
        self.source = source
        super().__init__(f"{message} (in expression {_shortened(source)})" if source else message)

    @property
    def message(self) -> str:
        """What is wrong, without the expression."""
        return self._message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._message, self.source)


class LimitError(EvaluationError):
    """Too much work: unlike other errors, not falsy in `||`."""


class AsyncUnsupportedError(Error):
    """An async `Middleware`, or an async body of a step, met a function, or a `send_sync`, that is
    not async."""

    code = ErrorCode.ASYNC_UNSUPPORTED


class EventKeyUnspecifiedError(Error):
    """An event was sent in production mode without an event key."""

    code = ErrorCode.EVENT_KEY_UNSPECIFIED


class URLInvalidError(Error):
    """A setting is not a valid URL."""

    code = ErrorCode.URL_INVALID


class SendEventsError(Error):
    """Not all events were accepted."""

    code = ErrorCode.SEND_EVENT_FAILED

    def __init__(self, message: str, ids: list[str]) -> None:
        """`ids`: those of the events that were accepted, in order."""
        super().__init__(message)
        self.ids = ids


class BodyInvalidError(Error):
    """A body is invalid; the message says why."""

    code = ErrorCode.BODY_INVALID


class FunctionNotFoundError(Error):
    """There is no function with that id."""

    code = ErrorCode.FUNCTION_NOT_FOUND


class RegistryNotReadyError(Error):
    """The registry was not read yet, so nobody knows what an event triggers."""

    def __init__(self) -> None:
        super().__init__("The function registry was not read from Temporal yet; try again.")


class RunNotFoundError(Error):
    """There is no run with that id, or Temporal does not keep it any more."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"There is no run {run_id}: its id is another one, or it ended so long ago that"
            " Temporal keeps it no longer."
        )


class RerunRefusedError(Error):
    """A run can't be rerun in that way; the message says why, and what can be done."""

    code = ErrorCode.BODY_INVALID


class SdkDeniedError(Error):
    """An app has a version of its SDK that is refused."""


class VisibilityBusyError(Error):
    """Too many lists of runs were asked for at once: Temporal's visibility takes few calls."""

    def __init__(self) -> None:
        super().__init__("Too many lists of runs are asked for at once; try again in a moment.")


class CursorInvalidError(Error):
    """A cursor does not belong to the list that it is used for."""

    code = ErrorCode.BODY_INVALID

    def __init__(self) -> None:
        super().__init__(
            "The cursor is none of this list: use the one that its last page gave, with the same"
            " filter, or begin without one."
        )


class WorkerMissingError(Error):
    """No worker does what the ingress asks for; the message says which one to start."""


class SettingsInvalidError(Error):
    """An environment variable has an invalid value; the message says which one."""


class SyncError(Error):
    """An app that is served over HTTP can't be registered; the message names its URL and says what
    to do."""


class OutputUnserializableError(Error):
    """A step or a handler returned a value that can't be JSON. Another attempt would, too."""

    code = ErrorCode.OUTPUT_UNSERIALIZABLE
    is_retriable = False


class OutputTooLargeError(Error):
    """A step or a handler returned more than a Temporal payload holds. Another attempt would,
    too."""

    is_retriable = False

    def __init__(self, output: str, size: int, limit: int) -> None:
        """`output` names it, for the message; `size` and `limit` are bytes of compact JSON."""
        super().__init__(
            f"{output} is over the limit: {size} bytes, at most {limit}. Return a reference to it"
            " instead."
        )


class StepInvalidError(Error):
    """A handler called a step in a way that can't work, so another attempt would fail, too."""

    code = ErrorCode.STEP_UNEXPECTED
    is_retriable = False

    def __init__(self, function_id: str, step_id: object, problem: str) -> None:
        """`problem`: a sentence that says what is wrong, and one that says what to do."""
        super().__init__(f'Function {function_id}, step "{step_id}": {problem}')


class StepNestedError(StepInvalidError):
    """A step was called inside the body of another step."""

    code = ErrorCode.STEP_NESTED
    include_stack = False

    def __init__(self, function_id: str, step_id: str, inner: object) -> None:
        """`step_id` is the outer step's, `inner` that of the step in its body."""
        problem = (
            f'its body calls step "{inner}", and a step can\'t be inside another one. Call it in'
            f' the handler, before or after "{step_id}".'
        )
        super().__init__(function_id, step_id, problem)


class StepUnexpectedError(Error):
    """A handler asked for a step that it can't have at this point."""

    code = ErrorCode.STEP_UNEXPECTED
    include_stack = False


class UnstubbedStepError(Error):
    """In a test: the handler reached a step that can't run in-process and has no stub."""

    is_retriable = False


class Interrupt(BaseException):
    """Stops a handler at a step that can't continue now.

    Not an `Exception`, so `except Exception` in user code lets it through.
    """


def text_of(error: BaseException) -> str:
    """The text of an error, or its type if it has none."""
    return str(error) or type(error).__name__


def _shortened(source: str, limit: int = 200) -> str:
    return repr(source if len(source) <= limit else source[: limit - 3] + "...")


def _moment(when: int | datetime.timedelta | datetime.datetime) -> datetime.datetime:
    now = datetime.datetime.now(datetime.UTC)
    try:
        if isinstance(when, datetime.datetime):
            return when.astimezone(datetime.UTC)
        if isinstance(when, int) and not isinstance(when, bool):
            when = datetime.timedelta(milliseconds=when)
        if isinstance(when, datetime.timedelta):
            return now + when
    except (OverflowError, ValueError, OSError):
        # It is later than dates can be; the delay is clamped to a day anyway.
        if isinstance(when, datetime.datetime):
            is_past = when.year < now.year
        elif isinstance(when, datetime.timedelta):
            is_past = when < datetime.timedelta()
        else:
            is_past = when < 0
        furthest = datetime.datetime.min if is_past else datetime.datetime.max
        return furthest.replace(tzinfo=datetime.UTC)
    raise TypeError(f"retry_after is milliseconds (int), a timedelta or a datetime, not {when!r}.")


def is_official(kind: type) -> bool:
    """Whether a class is one of the official SDK, whose import a module of the user may still
    have."""
    return kind.__module__.partition(".")[0] == "inngest"
