"""Logging: a logger that is silent while a handler is only replayed, and how lines are written.

A record that belongs to a run has an attribute `inngest`, a mapping with some of the keys
`functionId` (full id), `runId`, `stepId` (as the step was named) and `attempt` (as `ctx.attempt`:
the first is 0). Formatters of your own can use it, too.
"""

import json
import logging
import re
import textwrap
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Any logger-like object can be wrapped; to its users it is what `ctx.logger` is declared as.
    _Base = logging.LoggerAdapter[logging.Logger]
else:
    _Base = object

Logger = logging.Logger | logging.LoggerAdapter[Any]

CONTEXT = "inngest"
"""Name of the records' attribute."""
STACK = "user_stack"
"""Name of the attribute of records about a failure of user code: its traceback, as text, with which
the message ends; or None."""

_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters except the tabulator, and other characters that end a line."""

_FIELDS = ("functionId", "runId", "stepId")
_IN_MESSAGE = "inMessage"
"""Key of a context that the message tells already, so that text does not repeat it."""
_METHODS = frozenset(
    {"critical", "debug", "error", "exception", "fatal", "info", "log", "warn", "warning"}
)


class FilteredLogger(_Base):
    """Drops log lines until `enable()`: a handler is executed many times, and its lines should
    appear once.

    Lines carry what `context` returns as they are logged. Everything else is the wrapped logger's.
    """

    def __init__(self, logger: Logger, context: Callable[[], Mapping[str, Any]] = dict) -> None:
        self._logger = logger
        self._context = context
        self._enabled = False

    def enable(self) -> None:
        """Let lines through from now on: the handler has reached code that was not executed
        before."""
        self._enabled = True

    def __getattr__(self, name: str) -> Any:
        if name not in _METHODS:
            return getattr(self._logger, name)
        if not self._enabled:
            return _drop
        context = self._context()
        return getattr(with_context(self._logger, context) if context else self._logger, name)


def told_of(
    function_id: str | None,
    run_id: str | None,
    step_id: str | None = None,
    attempt: int | None = None,
) -> dict[str, Any]:
    """`extra` for a line whose message names the run itself. `attempt`: the first is 0."""
    context = {"functionId": function_id, "runId": run_id, "stepId": step_id, "attempt": attempt}
    return {CONTEXT: context | {_IN_MESSAGE: True}}


def with_context(logger: Logger, context: Mapping[str, Any]) -> Logger:
    """A logger whose records have this `inngest` attribute. One that is not the standard library's
    is returned as it is."""
    if not isinstance(logger, logging.Logger | logging.LoggerAdapter):
        return logger
    return _WithContext(logger, {CONTEXT: dict(context)})


class _WithContext(logging.LoggerAdapter[Any]):
    """Adds to the caller's `extra`, where the standard adapter replaces it; also through adapters
    that it wraps."""

    fatal = logging.LoggerAdapter.critical

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        adapter = self.logger
        while isinstance(adapter, logging.LoggerAdapter):
            msg, kwargs = adapter.process(msg, kwargs)
            adapter = adapter.logger
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            text, kwargs = self.process(msg, kwargs)
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the caller, not this line
            logger = self.logger
            while isinstance(logger, logging.LoggerAdapter):
                logger = logger.logger
            logger.log(level, text, *args, **kwargs)


class TextFormatter(logging.Formatter):
    """`2026-11-26 19:20:01.123 INFO shop.orders [shop-fulfil 01KB... ship]: message`."""

    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s%(where)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback if there is one."""
        context = getattr(record, CONTEXT, None)
        is_told = isinstance(context, Mapping) and context.get(_IN_MESSAGE)
        fields = {} if is_told else _context(record)
        words = " ".join(fields[key] for key in _FIELDS if key in fields)
        record.where = f" [{words}]" if words else ""
        stack = getattr(record, STACK, None)
        line = super().format(record)
        # Lines of a traceback are indented, so that they can't look like lines of the log.
        return line if not stack else line + "\n" + textwrap.indent(_printable(stack), "  ")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without control characters, by which a stranger could forge lines or colours."""
        record.message = _without_stack(record)
        return _escaped(super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`;
    `functionId`, `runId`, `stepId` and `attempt` where they are known; `exception` with the
    traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _without_stack(record),
            **_context(record),
        }
        if getattr(record, STACK, None):
            entry["exception"] = getattr(record, STACK)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _without_stack(record: logging.LogRecord) -> str:
    """The message, without the traceback at its end, which other formatters show as it is."""
    return record.getMessage().removesuffix(f"\n{getattr(record, STACK, None)}")


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _printable(stack: str) -> str:
    """A traceback without control characters, besides the ends of its lines."""
    return "\n".join(_escaped(line) for line in stack.rstrip("\n").split("\n"))


def _context(record: logging.LogRecord) -> dict[str, Any]:
    given = getattr(record, CONTEXT, None)
    if not isinstance(given, Mapping):
        return {}
    fields: dict[str, Any] = {key: str(given[key]) for key in _FIELDS if given.get(key)}
    attempt = given.get("attempt")
    return fields if attempt is None else fields | {"attempt": attempt}


def _drop(*_args: object, **_kwargs: object) -> None:
    """Log nothing."""
