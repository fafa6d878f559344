import json
import logging
import re
import sys

import pytest

from inngest_temporal.logger import FilteredLogger, JsonFormatter, Logger, TextFormatter, told_of


def test_lines_are_dropped_until_enabled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logger = FilteredLogger(logging.getLogger("app"))
    for _ in range(2):
        logger.debug("a")
        logger.info("b")
        logger.warning("c")
        logger.error("d")
        logger.critical("e")
        logger.exception("f")
        logger.log(logging.INFO, "g")
        logger.fatal("h")
    assert caplog.messages == []
    logger.enable()
    logger.info("once %s", 1)
    assert caplog.messages == ["once 1"]


def test_a_line_names_its_caller_and_keeps_its_extras(caplog: pytest.LogCaptureFixture) -> None:
    logger = FilteredLogger(logging.getLogger("app"))
    logger.enable()
    logger.warning("here", extra={"order": 7})
    (record,) = caplog.records
    assert record.filename == "test_logger.py"
    assert record.__dict__["order"] == 7


def test_everything_else_is_left_to_the_wrapped_logger() -> None:
    wrapped = logging.getLogger("app.filtered")
    logger = FilteredLogger(wrapped)
    logger.setLevel(logging.ERROR)
    assert wrapped.level == logging.ERROR
    assert logger.isEnabledFor(logging.ERROR)
    assert not logger.isEnabledFor(logging.INFO)


def test_an_adapter_can_be_wrapped(caplog: pytest.LogCaptureFixture) -> None:
    logger = FilteredLogger(logging.LoggerAdapter(logging.getLogger("app"), {"tenant": "x"}))
    logger.enable()
    logger.warning("adapted")
    assert caplog.records[0].__dict__["tenant"] == "x"


def test_loggers_do_not_enable_each_other(caplog: pytest.LogCaptureFixture) -> None:
    first, second = (FilteredLogger(logging.getLogger("app")) for _ in range(2))
    first.enable()
    second.warning("quiet")
    assert caplog.messages == []


def lines(formatter: logging.Formatter, **extra: object) -> str:
    """A record as the formatter writes it."""
    record = logging.makeLogRecord(
        {"name": "shop", "levelname": "INFO", "msg": "paid %d", "args": (3,), "created": 0.5}
        | {"msecs": 500.0}
        | extra
    )
    return formatter.format(record)


RUN = {"functionId": "shop-fulfil", "runId": "01KB", "stepId": "ship", "attempt": 0}


def test_a_line_of_text_has_its_date_and_where_it_comes_from() -> None:
    line = lines(TextFormatter(), inngest=RUN)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.500 INFO shop \[shop-fulfil 01KB ship\]: paid 3", line
    )
    assert lines(TextFormatter()).endswith(" INFO shop: paid 3")
    told = told_of("shop-fulfil", "01KB", "ship", 0)
    assert lines(TextFormatter(), **told).endswith(" INFO shop: paid 3")
    assert lines(TextFormatter(), inngest="something else").endswith(" INFO shop: paid 3")


def test_a_line_of_json_is_one_object() -> None:
    expected = {
        "time": "1970-01-01T00:00:00.500Z",
        "level": "INFO",
        "logger": "shop",
        "message": "paid 3",
    }
    assert json.loads(lines(JsonFormatter())) == expected
    assert json.loads(lines(JsonFormatter(), inngest=RUN)) == expected | RUN
    assert json.loads(lines(JsonFormatter(), **told_of("f", "01KB"))) == expected | {
        "functionId": "f",
        "runId": "01KB",
    }
    try:
        raise ValueError("no\nluck")
    except ValueError:
        failed = lines(JsonFormatter(), exc_info=sys.exc_info())
    assert "\n" not in failed
    assert json.loads(failed)["exception"].endswith("ValueError: no\nluck")


@pytest.mark.parametrize(
    "wrapped", [logging.getLogger("app"), logging.LoggerAdapter(logging.getLogger("app"), {"t": 1})]
)
def test_a_line_carries_the_context_beside_its_extras(
    wrapped: Logger, caplog: pytest.LogCaptureFixture
) -> None:
    logger = FilteredLogger(wrapped, lambda: {"runId": "01KB"})
    logger.enable()
    logger.warning("here", extra={"order": 7})
    logger.fatal("there")
    for record in caplog.records:
        assert (record.filename, record.__dict__["inngest"]) == (
            "test_logger.py",
            {"runId": "01KB"},
        )
    if isinstance(wrapped, logging.LoggerAdapter):
        assert caplog.records[0].__dict__["t"] == 1
    else:
        assert caplog.records[0].__dict__["order"] == 7


def test_control_characters_are_escaped_and_a_message_is_one_line() -> None:
    text = "a\nb\rc\x1b[31md\x00\x85\u2028\té"
    record = logging.LogRecord("app", logging.INFO, "f.py", 1, "got %s", (text,), None)
    line = TextFormatter().format(record)
    assert line.endswith("got a\\nb\\rc\\x1b[31md\\x00\\x85\\u2028\té")
    assert len(line.splitlines()) == 1


def test_a_users_traceback_stands_below_its_line() -> None:
    record = logging.LogRecord("app", logging.ERROR, "", 1, "Step %s failed", ("a",), None)
    record.user_stack = "Traceback\n  File x\x1b[31m\nValueError: no\n"
    head, *stack = TextFormatter().format(record).splitlines()
    assert head.endswith("ERROR app: Step a failed")
    assert stack == ["  Traceback", "    File x\\x1b[31m", "  ValueError: no"]
    assert json.loads(JsonFormatter().format(record))["exception"] == record.user_stack
