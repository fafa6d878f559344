"""A logger that is silent while a handler is only replayed."""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Any logger-like object can be wrapped; to its users it is what `ctx.logger` is declared as.
    _Base = logging.LoggerAdapter[logging.Logger]
else:
    _Base = object

Logger = logging.Logger | logging.LoggerAdapter[Any]

_METHODS = frozenset(
    {"critical", "debug", "error", "exception", "fatal", "info", "log", "warn", "warning"}
)


class FilteredLogger(_Base):
    """Drops what is logged until `enable()`: a handler is executed many times, its lines should
    appear once.

    Everything else is the wrapped logger's.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._enabled = False

    def enable(self) -> None:
        """Let lines through from now on: the handler has reached code that was not executed
        before."""
        self._enabled = True

    def __getattr__(self, name: str) -> Any:
        if name in _METHODS and not self._enabled:
            return _drop
        return getattr(self._logger, name)


def _drop(*_args: object, **_kwargs: object) -> None:
    """Log nothing."""
