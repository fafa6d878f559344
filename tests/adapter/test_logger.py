import logging

import pytest

from inngest_temporal.logger import FilteredLogger


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


def test_everything_else_is_the_wrapped_loggers() -> None:
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
