import datetime
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from inngest_temporal.client import Inngest
from inngest_temporal.config import FunctionConfig
from inngest_temporal.context import Context, ContextSync
from inngest_temporal.errors import Error, FunctionConfigInvalidError
from inngest_temporal.functions import Function
from inngest_temporal.models import (
    Batch,
    Cancel,
    Concurrency,
    Debounce,
    Priority,
    RateLimit,
    Singleton,
    Throttle,
    Timeouts,
    TriggerCron,
    TriggerEvent,
)
from inngest_temporal.serialization import EmptySentinel

EVENT = TriggerEvent(event="shop/order.created")
DAY = datetime.timedelta(days=1)


async def handle(ctx: Context) -> str:
    return "done"


def handle_sync(ctx: ContextSync) -> str:
    return "done"


def function(handler: Any = handle, *, app_id: str = "app", **options: Any) -> Function[str]:
    client = Inngest(app_id=app_id, is_production=False)
    defaults: dict[str, Any] = {"fn_id": "fn", "trigger": EVENT}
    made: Function[str] = client.create_function(**defaults | options)(handler)
    return made


def config(**options: Any) -> FunctionConfig:
    return function(**options).get_config("").main


def problem(**options: Any) -> str:
    with pytest.raises(FunctionConfigInvalidError) as caught:
        config(**options)
    return caught.value.message


# What a Function is.


def test_a_function_knows_its_ids_name_and_kind() -> None:
    made = function(name="Orders")
    assert (made.id, made.get_id(), made.local_id, made.name) == (
        "app-fn",
        "app-fn",
        "fn",
        "Orders",
    )
    assert (made.is_handler_async, made.is_on_failure_handler_async, made.on_failure_fn_id) == (
        True,
        None,
        None,
    )
    assert function().name == "fn"


def test_a_function_with_on_failure_knows_it() -> None:
    made = function(handle_sync, on_failure=handle_sync)
    assert (made.is_handler_async, made.is_on_failure_handler_async) == (False, False)
    assert made.on_failure_fn_id == "app-fn-failure"


def test_the_plainest_function_has_plain_configuration() -> None:
    assert config().to_wire() == {
        "id": "app-fn",
        "name": "fn",
        "triggers": [{"event": "shop/order.created", "expression": None}],
        "retries": 4,
    }


FULL: dict[str, Any] = {
    "cancel": [
        Cancel(event="shop/order.cancelled", if_exp="event.data.id == async.data.id", timeout=DAY)
    ],
    "concurrency": [
        Concurrency(limit=5),
        Concurrency(limit=1, key="event.data.user", scope="account"),
    ],
    "debounce": Debounce(period=1000, key="event.data.user", timeout=60_000),
    "idempotency": "event.data.id",
    "name": "Orders",
    "priority": Priority(run="event.data.plan == 'pro' ? 120 : 0"),
    "rate_limit": RateLimit(limit=10, period=DAY, key="event.data.user"),
    "retries": 20,
    "singleton": Singleton(mode="cancel", key="event.data.user"),
    "throttle": Throttle(limit=10, period=60_000, key="event.data.user", burst=None),
    "timeouts": Timeouts(start=10_000, finish=3_600_000),
    "trigger": [EVENT, TriggerCron(cron="TZ=Europe/Paris 0 9 * * 1-5", jitter="30s")],
}


def test_every_field_is_written_under_inngests_name() -> None:
    assert config(**FULL).to_wire() == {
        "id": "app-fn",
        "name": "Orders",
        "triggers": [
            {"event": "shop/order.created", "expression": None},
            {"cron": "TZ=Europe/Paris 0 9 * * 1-5", "jitter": "30s"},
        ],
        "cancel": [
            {
                "event": "shop/order.cancelled",
                "if": "event.data.id == async.data.id",
                "timeout": "1d",
            }
        ],
        "concurrency": [
            {"key": None, "limit": 5, "scope": None},
            {"key": "event.data.user", "limit": 1, "scope": "account"},
        ],
        "debounce": {"key": "event.data.user", "period": "1s", "timeout": "1m"},
        "idempotency": "event.data.id",
        "priority": {"run": "event.data.plan == 'pro' ? 120 : 0"},
        "rateLimit": {"key": "event.data.user", "limit": 10, "period": "1d"},
        "retries": 20,
        "singleton": {"key": "event.data.user", "mode": "cancel"},
        "throttle": {"key": "event.data.user", "limit": 10, "period": "1m", "burst": None},
        "timeouts": {"start": "10s", "finish": "1h"},
    }
    batch = config(
        batch_events=Batch(
            max_size=10, timeout=1000, key="event.data.x", if_exp="event.data.y == 1"
        )
    )
    assert batch.to_wire()["batchEvents"] == {
        "maxSize": 10,
        "timeout": "1s",
        "key": "event.data.x",
        "if": "event.data.y == 1",
    }


@pytest.mark.parametrize("options", [{}, FULL, {"batch_events": Batch(max_size=2, timeout=5000)}])
def test_a_configuration_survives_the_way_through_json(options: dict[str, Any]) -> None:
    before = config(**options)
    after = FunctionConfig.from_wire(json.loads(json.dumps(before.to_wire())))
    assert after.to_wire() == before.to_wire()
    assert [type(trigger) for trigger in after.triggers] == [
        type(trigger) for trigger in before.triggers
    ]


def test_an_invalid_configuration_names_the_function_and_the_field() -> None:
    wire = config(**FULL).to_wire()
    with pytest.raises(
        FunctionConfigInvalidError, match=r"^Function 'app-fn', debounce.period: Field required$"
    ):
        FunctionConfig.from_wire(wire | {"debounce": {"key": "x"}})
    with pytest.raises(
        FunctionConfigInvalidError,
        match=r"^Function 'app-fn', timeouts.start: .*'soon' is not a dur",
    ):
        FunctionConfig.from_wire(wire | {"timeouts": {"start": "soon"}})


def test_a_configuration_of_a_later_version_can_be_read() -> None:
    wire = config().to_wire()
    assert FunctionConfig.from_wire(wire | {"checkpoint": {"bufferedSteps": 1}}) == config()


# on_failure and parts.


def test_on_failure_is_a_function_of_its_own() -> None:
    made = function(
        on_failure=handle,
        name="Orders",
        **{k: v for k, v in FULL.items() if k not in ("name", "retries")},
    )
    failure = made.get_config("").on_failure
    assert failure is not None
    assert failure.to_wire() == {
        "id": "app-fn-failure",
        "name": "Orders (failure)",
        "triggers": [
            {"event": "inngest/function.failed", "expression": "event.data.function_id == 'app-fn'"}
        ],
        "retries": 0,
    }


def test_an_id_with_a_quote_stays_one_text_in_the_failure_trigger() -> None:
    failure = function(on_failure=handle, fn_id="it's").get_config("").on_failure
    assert failure is not None
    (trigger,) = failure.triggers
    assert isinstance(trigger, TriggerEvent)
    assert trigger.expression == r"event.data.function_id == 'app-it\'s'"


def test_parts_are_all_that_a_worker_runs() -> None:
    async def clean_up(ctx: Context) -> None:
        pass

    made = function(on_failure=clean_up, output_type=str, retries=2)
    main, failure = made.parts()
    assert (main.id, main.handler, main.is_async, main.retries, main.output_type) == (
        "app-fn",
        handle,
        True,
        2,
        str,
    )
    assert (failure.id, failure.handler, failure.is_async) == ("app-fn-failure", clean_up, True)
    assert (failure.retries, failure.output_type) == (0, object)
    assert main.config == made.get_config("").main
    assert all(part.client is made.client and part.function is made for part in (main, failure))
    assert [part.output_type for part in function().parts()] == [EmptySentinel]


# Refused when decorating.


@pytest.mark.parametrize("handler", [5, None, "handle", int, [handle]])
def test_only_a_function_can_be_a_handler(handler: object) -> None:
    with pytest.raises(
        FunctionConfigInvalidError, match=r"handler of function 'fn': .* is not a function"
    ):
        function(handler)
    if handler is not None:
        with pytest.raises(
            FunctionConfigInvalidError, match=r"on_failure of function 'fn': .* is not a function"
        ):
            function(on_failure=handler)


def test_a_function_is_not_decorated_twice() -> None:
    with pytest.raises(FunctionConfigInvalidError, match="'app-fn' is a Function already"):
        function(function())


def test_generators_are_refused_as_handlers() -> None:
    def generate(ctx: object) -> Any:
        yield

    async def generate_async(ctx: object) -> Any:
        yield

    for handler in (generate, generate_async):
        with pytest.raises(FunctionConfigInvalidError, match="it yields"):
            function(handler)


@pytest.mark.parametrize("fn_id", [5, None, ""])
def test_an_id_must_be_a_string_that_is_not_empty(fn_id: Any) -> None:
    with pytest.raises(FunctionConfigInvalidError, match="fn_id must be a non-empty string"):
        function(fn_id=fn_id)


def test_on_failure_is_async_if_and_only_if_the_handler_is() -> None:
    with pytest.raises(
        Error, match=r"an async function cannot have a non-async on_failure handler \(function fn\)"
    ):
        function(handle, on_failure=handle_sync)
    with pytest.raises(
        Error, match=r"a non-async function cannot have an async on_failure handler \(function fn\)"
    ):
        function(handle_sync, on_failure=handle)


class Sync:
    def __call__(self, ctx: object) -> None: ...
    def method(self, ctx: object) -> None: ...


class Async:
    async def __call__(self, ctx: object) -> None: ...
    async def method(self, ctx: object) -> None: ...


@pytest.mark.parametrize(
    ("handler", "is_async"),
    [
        (handle, True),
        (handle_sync, False),
        (functools.partial(handle), True),
        (functools.partial(handle_sync), False),
        (Async(), True),
        (Sync(), False),
        (Async().method, True),
        (Sync().method, False),
        (lambda ctx: None, False),
    ],
)
def test_async_handlers_are_told_from_others(handler: Callable[..., Any], is_async: bool) -> None:
    assert function(handler).is_handler_async is is_async


# Refused at registration.


def test_nothing_is_checked_before_registration() -> None:
    function(retries=-1, trigger=[TriggerCron(cron="never")], idempotency="((")


def test_all_problems_are_named_in_one_error() -> None:
    lines = problem(
        retries=21, idempotency="((", rate_limit=RateLimit(limit=0, period=1000)
    ).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("Function 'app-fn', ") for line in lines)


@pytest.mark.parametrize("retries", [-1, 21])
def test_retries_are_0_to_20(retries: int) -> None:
    assert (
        problem(retries=retries)
        == f"Function 'app-fn', retries: {retries} is out of range; use 0 to 20, or none for 4."
    )
    assert [config(retries=retries).retries for retries in (0, 20, None)] == [0, 20, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": "5"}, "Function 'app-fn', retries: should be a valid integer"),
        ({"retries": True}, "Function 'app-fn', retries: should be a valid integer"),
        (
            {"trigger": 5},
            "Function 'app-fn', triggers.0: should be a TriggerEvent or a TriggerCron",
        ),
        ({"throttle": 5}, "Function 'app-fn', throttle: should be"),
        (
            {"concurrency": Concurrency(limit=1)},
            "Function 'app-fn', concurrency: should be a list such as",
        ),
        ({"idempotency": 5}, "Function 'app-fn', idempotency: should be a valid string"),
    ],
)
def test_a_wrong_type_names_function_and_field(options: dict[str, Any], message: str) -> None:
    assert problem(**options).startswith(message)


def test_an_empty_app_id_is_refused() -> None:
    assert "app_id" in problem(app_id="")


def test_a_function_may_have_no_trigger_and_at_most_ten() -> None:
    assert config(trigger=[]).triggers == []
    events = [TriggerEvent(event=f"e{number}") for number in range(11)]
    assert len(config(trigger=events[:10]).triggers) == 10
    assert "trigger: 11 are too many; use at most 10" in problem(trigger=events)


def test_a_trigger_that_is_there_twice_is_refused() -> None:
    with_expression = TriggerEvent(event=EVENT.event, expression="event.data.x == 1")
    config(trigger=[EVENT, with_expression])
    assert "trigger[1]: is there twice" in problem(trigger=[EVENT, EVENT])
    cron, same_times = TriggerCron(cron="0 9 * * *"), TriggerCron(cron="0  9 * * *", jitter="1s")
    assert "trigger[1]: is there twice" in problem(trigger=[cron, same_times])


@pytest.mark.parametrize(
    "name", ["a", "shop/order.created", "shop/*", "shop/order.*", "a b", "x" * 255]
)
def test_event_triggers_are_names_or_prefixes(name: str) -> None:
    config(trigger=TriggerEvent(event=name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is empty"),
        ("*", "has a * in the wrong place"),
        ("/*", "has a * in the wrong place"),
        ("shop*", "use a whole name, or a prefix that ends in /* or .*"),
        ("shop/*/created", "has a * in the wrong place"),
        ("*/created", "has a * in the wrong place"),
        ("*/*", "has a * in the wrong place"),
        ("x" * 256, "has 256 characters; use at most 255"),
    ],
)
def test_other_patterns_are_refused(name: str, message: str) -> None:
    assert message in problem(trigger=TriggerEvent(event=name))


BAD = "event.data.("


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("trigger[0].expression", {"trigger": TriggerEvent(event="a", expression=BAD)}),
        ("batch_events.key", {"batch_events": Batch(max_size=2, key=BAD)}),
        ("batch_events.if_exp", {"batch_events": Batch(max_size=2, if_exp=BAD)}),
        ("cancel[0].if_exp", {"cancel": [Cancel(event="a", if_exp=BAD)]}),
        ("concurrency[0].key", {"concurrency": [Concurrency(limit=1, key=BAD)]}),
        ("debounce.key", {"debounce": Debounce(period=1000, key=BAD)}),
        ("idempotency", {"idempotency": BAD}),
        ("priority.run", {"priority": Priority(run=BAD)}),
        ("rate_limit.key", {"rate_limit": RateLimit(limit=1, period=1000, key=BAD)}),
        ("singleton.key", {"singleton": Singleton(mode="skip", key=BAD)}),
        ("throttle.key", {"throttle": Throttle(limit=1, period=1000, key=BAD)}),
    ],
)
def test_an_expression_that_does_not_compile_is_refused(
    field: str, options: dict[str, Any]
) -> None:
    message = problem(**options)
    assert message.startswith(f"Function 'app-fn', {field}: ")
    assert message.endswith("correct the expression.")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("trigger[0].expression", {"trigger": TriggerEvent(event="a", expression="evnt.x == 1")}),
        ("cancel[0].if_exp", {"cancel": [Cancel(event="a", if_exp="evnt.x == async.x")]}),
        ("idempotency", {"idempotency": "customer"}),
        ("debounce.key", {"debounce": Debounce(period=1000, key="async.data.x")}),
    ],
)
def test_an_expression_with_an_unknown_variable_is_refused(
    field: str, values: dict[str, Any]
) -> None:
    with pytest.raises(FunctionConfigInvalidError, match=r"a path must begin with event\.") as info:
        config(**values)
    assert field in str(info.value)
    assert "at column 1 of expression" in str(info.value)


def test_a_cancel_expression_may_only_compare() -> None:
    config(cancel=[Cancel(event="a", if_exp="event.data.id == async.data.id && async.data.n > 5")])
    assert "cancel[0].if_exp" in problem(
        cancel=[Cancel(event="a", if_exp="async.data.list.exists(x, x == 1)")]
    )


def test_a_debounce_may_have_an_empty_key() -> None:
    config(debounce=Debounce(period=1000, key=""))


def test_cancel_has_at_most_five_exact_events() -> None:
    entries = [Cancel(event=f"e{number}") for number in range(6)]
    config(cancel=entries[:5])
    assert "cancel: 6 entries are too many; use at most 5" in problem(cancel=entries)
    assert "cancel[0].event: 'shop/*' is a pattern; use a whole name" in problem(
        cancel=[Cancel(event="shop/*")]
    )
    assert "cancel[0].timeout: duration must be at least 1 second" in problem(
        cancel=[Cancel(event="a", timeout=5)]
    )


def test_concurrency_has_at_most_two_limits_of_steps_and_one_of_runs() -> None:
    one = Concurrency(limit=1)
    config(concurrency=[one, Concurrency(limit=2, key="event.data.x")])
    assert "concurrency: 3 limits are too many" in problem(concurrency=[one, one, one])
    assert "concurrency[0].limit: -1 is below 0" in problem(concurrency=[Concurrency(limit=-1)])
    whole = Concurrency(limit=1, level="fn")
    config(concurrency=[one, Concurrency(limit=0, key="event.data.x"), whole])
    assert "concurrency: 2 limits of level 'fn' are too many" in problem(concurrency=[whole, whole])
    assert "concurrency[0].limit: 0 is below 1" in problem(
        concurrency=[Concurrency(limit=0, level="fn")]
    )
    shared = Concurrency(limit=1, key="'a'", level="fn", scope="env")
    assert "concurrency[0].scope: 'env' can't be of level 'fn'" in problem(concurrency=[shared])


@pytest.mark.parametrize("scope", ["env", "account"])
def test_a_shared_concurrency_needs_a_key(scope: Any) -> None:
    config(concurrency=[Concurrency(limit=1, scope=scope, key="'stripe'")])
    assert f"concurrency[0].key: scope '{scope}' needs one" in problem(
        concurrency=[Concurrency(limit=1, scope=scope)]
    )
    config(concurrency=[Concurrency(limit=1, scope="fn")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"debounce": Debounce(period=999)},
            "debounce.period: duration must be at least 1 second, and this is 999 ms",
        ),
        (
            {"debounce": Debounce(period=8 * DAY)},
            "debounce.period: 8d is too long; use whole seconds, at least one",
        ),
        (
            {"debounce": Debounce(period=1000, timeout=1500)},
            "debounce.timeout: duration must be a whole number of",
        ),
        (
            {"rate_limit": RateLimit(limit=1, period=DAY * 1.5)},
            "rate_limit.period: 36h is too long",
        ),
        (
            {"rate_limit": RateLimit(limit=0, period=DAY)},
            "rate_limit.limit: 0 is below 1; allow at least one run",
        ),
        ({"throttle": Throttle(limit=-1, period=1000)}, "throttle.limit: -1 is below 0"),
        ({"throttle": Throttle(limit=1, period=1000, burst=-1)}, "throttle.burst: -1 is below 0"),
        (
            {"throttle": Throttle(limit=1, period=0)},
            "throttle.period: duration must be at least 1 second",
        ),
        (
            {"timeouts": Timeouts(start=datetime.timedelta(days=36_501))},
            "timeouts.start: 36501d is too long",
        ),
        ({"timeouts": Timeouts(start=1)}, "timeouts.start: duration must be at least 1 second"),
        ({"timeouts": Timeouts(finish=1)}, "timeouts.finish: duration must be at least 1 second"),
        ({"batch_events": Batch(max_size=1)}, "batch_events.max_size: 1 is below 2"),
        (
            {"batch_events": Batch(max_size=2, timeout=10)},
            "batch_events.timeout: duration must be at least 1 second",
        ),
    ],
)
def test_numbers_and_durations_out_of_range_are_refused(
    options: dict[str, Any], message: str
) -> None:
    assert problem(**options).startswith(f"Function 'app-fn', {message}")


def test_numbers_and_durations_at_the_limits_are_allowed() -> None:
    config(debounce=Debounce(period=1000), rate_limit=RateLimit(limit=1, period=DAY))
    config(debounce=Debounce(period=7 * DAY), throttle=Throttle(limit=0, period=30 * DAY, burst=0))


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("cancel", {"cancel": [Cancel(event="a")]}),
        ("debounce", {"debounce": Debounce(period=1000)}),
        ("singleton", {"singleton": Singleton(mode="skip")}),
        ("priority", {"priority": Priority(run="1")}),
    ],
)
def test_a_batch_cannot_be_combined_with_some_options(field: str, options: dict[str, Any]) -> None:
    message = problem(batch_events=Batch(max_size=2, timeout=1000), **options)
    assert (
        message
        == f"Function 'app-fn', batch_events: can't be combined with {field}; remove one of them."
    )


def test_a_batch_can_be_combined_with_the_other_options() -> None:
    rest = {
        key: FULL[key]
        for key in ("concurrency", "idempotency", "rate_limit", "throttle", "timeouts", "trigger")
    }
    config(batch_events=Batch(max_size=2), cancel=[], **rest)


# Cron.


@pytest.mark.parametrize(
    "cron",
    [
        "* * * * *",
        "0 9 * * 1-5",
        "*/15 0-5,22 1,15 JAN-jun mon",
        "5/20 ? ? * sun-SAT",
        "0-30/10 0 29 2 *",
        "0 0 31 2 1",
        "  0 9 * * *  ",
        "TZ=Europe/Paris 0 9 * * *",
        "CRON_TZ=America/New_York @daily",
        "TZ=UTC @hourly",
        "@yearly",
        "@every 1h30m",
    ],
)
def test_cron_is_five_fields_or_a_word_with_or_without_time_zone(cron: str) -> None:
    config(trigger=TriggerCron(cron=cron))


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        (
            "",
            (
                "it has 0 fields; use five (minute, hour, day of month, month, day of week), or a"
                " word such as @daily"
            ),
        ),
        ("0 9 * *", "it has 4 fields"),
        ("0 0 9 * * *", "it has 6 fields"),
        ("60 * * * *", "minute '60' is out of range; use 0 to 59"),
        ("* 24 * * *", "hour '24' is out of range"),
        ("* * 0 * *", "day of month '0' is out of range; use 1 to 31"),
        ("* * * 13 *", "month '13' is out of range"),
        ("* * * foo *", "month 'foo' is out of range"),
        ("* * * * 7", "day of week '7' is out of range; use 0 to 6; Sunday is 0"),
        ("5-1 * * * *", "minute '5-1' goes backwards; use 1-5"),
        ("*/0 * * * *", "minute '*/0' has a step of 0"),
        ("*-5 * * * *", "minute '*-5' can't be read"),
        ("1,,2 * * * *", "minute '' can't be read"),
        ("0 0 L * *", "day of month 'L' is out of range"),
        ("٣ * * * *", "minute '٣' is out of range"),
        ("0 0 30 2 *", "it never happens: no such month has that day"),
        ("0 0 31 2,4,6 ?", "it never happens"),
        ("@reboot", "@reboot is unknown; use @every 1h or one of @annually, @daily"),
        ("@every 10ms", "@every needs at least one second"),
        ("@every soon", "'soon' is not a duration"),
        (
            "TZ=Mars/Olympus 0 9 * * *",
            "'Mars/Olympus' is not a time zone; use a name such as Europe/Paris",
        ),
        ("TZ=../passwd 0 9 * * *", "'../passwd' is not a time zone"),
        ("* * * * *" + " " * 250, "has 259 characters; use at most 255"),
    ],
)
def test_other_cron_expressions_are_refused(cron: str, message: str) -> None:
    told = problem(trigger=TriggerCron(cron=cron))
    assert told.startswith("Function 'app-fn', trigger[0].cron: ")
    assert message in told


def test_jitter_is_one_second_to_five_minutes() -> None:
    for jitter in ("1s", "5m", "1m30s", "0"):
        config(trigger=TriggerCron(cron="@daily", jitter=jitter))
    for jitter in ("999ms", "6m"):
        assert f"trigger[0].jitter: {jitter} is out of range; use 1s to 5m" in problem(
            trigger=TriggerCron(cron="@daily", jitter=jitter)
        )
    assert "trigger[0].jitter: 'soon' is not a duration" in problem(
        trigger=TriggerCron(cron="@daily", jitter="soon")
    )
