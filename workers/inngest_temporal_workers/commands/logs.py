"""Logging of our processes: one format for us, for handlers, and for Temporal's core."""

import logging
import sys
from enum import StrEnum


class LogLevel(StrEnum):
    """Least severe level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a line is written."""

    TEXT = "text"
    JSON = "json"


def configure(level: LogLevel, form: LogFormat, *, events: bool = False) -> None:
    """Log to standard error from now on. Call it before any Temporal client is made. `events`: a
    line for each event, at level INFO; without it, one in an hour for a name that nothing listens
    for."""
    # Not before: the command line is read first, which needs no more than the names above.
    from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig

    from inngest_temporal.logger import JsonFormatter, TextFormatter
    from inngest_temporal.routing import reports
    from inngest_temporal_workers.noise import is_core_shown

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level is not LogLevel.DEBUG:
        for name in ("httpx", "httpcore", "temporalio.worker", "watchfiles"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if not events:
            reports.logger.setLevel(logging.WARNING)
            reports.unmatched.setLevel(level.upper())
    if not events:
        reports.unmatched.addFilter(reports.Seldom())
    core_logger = logging.getLogger("temporalio.core")
    core_logger.addFilter(is_core_shown)
    core = LogForwardingConfig(
        core_logger,
        append_target_to_name=False,
        prepend_target_on_message=False,
    )
    telemetry = TelemetryConfig(logging=LoggingConfig("ERROR,temporalio_sdk_core=WARN", core))
    Runtime.set_default(Runtime(telemetry=telemetry), error_if_already_set=False)
