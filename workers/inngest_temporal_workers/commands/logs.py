"""Logging of our processes: one format for us, for handlers, and for Temporal's core; and the
metrics of Temporal's core."""

import logging
import sys
from enum import StrEnum

from .processes import complain, listen, parse_address


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


_is_json = False


def report(text: str) -> None:
    """Say what a command waits for, or why it ends: as a line of the log if that is JSON, as it is
    otherwise."""
    if _is_json:
        logging.getLogger("inngest_temporal").error(text)
    else:
        complain(text)


def configure(
    level: LogLevel, form: LogFormat, *, events: bool = False, metrics: str | None = None
) -> None:
    """Log to standard error from now on. Call it before any Temporal client is made.

    `events`: a line for each event, at level INFO; without it, one in an hour for a name that
    nothing listens for. `metrics`: the `HOST:PORT` where the metrics of Temporal's SDK are served
    for Prometheus, at `/metrics`. Raises `ProcessError` if that can't be had.
    """
    # Not before: the command line is read first, which needs no more than the names above.
    from inngest_temporal.logger import JsonFormatter, TextFormatter
    from inngest_temporal.routing import reports

    global _is_json
    _is_json = form is LogFormat.JSON
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
    _set_runtime(metrics)


def _set_runtime(metrics: str | None) -> None:
    """Make the runtime that all clients of Temporal share."""
    from temporalio.runtime import (
        LogForwardingConfig,
        LoggingConfig,
        PrometheusConfig,
        Runtime,
        TelemetryConfig,
    )

    from inngest_temporal_workers.noise import is_core_shown

    core_logger = logging.getLogger("temporalio.core")
    core_logger.addFilter(is_core_shown)
    core = LogForwardingConfig(
        core_logger,
        append_target_to_name=False,
        prepend_target_on_message=False,
    )
    logs = LoggingConfig("ERROR,temporalio_sdk_core=WARN", core)
    telemetry = TelemetryConfig(logging=logs)
    if metrics is not None:
        prometheus = PrometheusConfig(
            _free_address(metrics),
            counters_total_suffix=True,
            unit_suffix=True,
            durations_as_seconds=True,
        )
        telemetry = TelemetryConfig(logging=logs, metrics=prometheus)
    Runtime.set_default(Runtime(telemetry=telemetry), error_if_already_set=False)


def _free_address(place: str) -> str:
    """`HOST:PORT` in numbers, as Temporal's core wants it. Raises `ProcessError` if something
    listens there."""
    with listen(*parse_address("--metrics", place), "--metrics") as listener:
        host, port, *_ = listener.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
