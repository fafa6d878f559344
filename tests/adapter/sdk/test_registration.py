"""What SDKs register, as recorded (`registrations/`) and as their types allow."""

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from inngest_temporal.config import FunctionConfig
from inngest_temporal.errors import BodyInvalidError, FunctionConfigInvalidError
from inngest_temporal.models import Cancel, Concurrency, Singleton, Throttle
from inngest_temporal.routing.registry import AppConfig
from inngest_temporal.sdk.registration import denied, read_registration
from inngest_temporal.temporal import names

RECORDED = sorted(Path(__file__).with_name("registrations").glob("*.json"))
URL = "http://app.test/api/inngest"


def load(name: str) -> Any:
    return json.loads(
        Path(__file__).with_name("registrations").joinpath(f"{name}.json").read_text()
    )


def body(*functions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "appName": "shop",
        "url": URL,
        "sdk": "go:v0.16.0",
        "functions": [function() | each for each in functions or ({},)],
        **fields,
    }


def function(id: str = "shop-f", **runtime: Any) -> dict[str, Any]:
    served = {"type": "http", "url": f"{URL}?fnId={id}&stepId=step", **runtime}
    return {
        "id": id,
        "name": "f",
        "triggers": [{"event": "shop/order"}],
        "steps": {"step": {"id": "step", "name": "step", "runtime": served}},
    }


def only(**fields: Any) -> FunctionConfig:
    [config] = read_registration(body(fields)).app.functions
    return config


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_registrations_are_read(path: Path) -> None:
    recorded = json.loads(path.read_text())
    registration = read_registration(recorded["body"], recorded["headers"]["x-inngest-sdk"])
    app = registration.app
    assert app.app_id in ("app", "cl")
    assert app.task_queue == names.HTTP_TASK_QUEUE
    assert app.http is not None
    assert app.http.url.startswith("http://")
    assert "?" not in app.http.url
    language = path.stem.partition("-")[0]
    versions = {"js": "js:v4.24.0", "js3": "js:v3.54.2", "py": "py:v0.5.19"}
    assert app.http.sdk == versions[language]
    assert app.http.framework == ("fast_api" if language == "py" else "express")
    assert len(app.functions) == len(recorded["body"]["functions"])
    for given, config in zip(recorded["body"]["functions"], app.functions, strict=True):
        assert config.id == given["id"]
        assert config.url == f"{app.http.url}?fnId={config.id}"
        attempts = given["steps"]["step"].get("retries", {}).get("attempts", 4)
        assert config.retries == attempts
    written = json.loads(json.dumps(app.to_json()))
    functions = [FunctionConfig.from_wire(each) for each in written["functions"]]
    assert AppConfig.model_validate({**written, "functions": functions}) == app


@pytest.mark.parametrize("name", ["js-register", "py-register"])
def test_all_options_arrive(name: str) -> None:
    registration = read_registration(load(name)["body"])
    configs = {config.id: config for config in registration.app.functions}
    config = configs["app-all-options"]
    assert config.concurrency == [
        Concurrency(limit=5, key="event.data.user", scope="env"),
        Concurrency(limit=10),
    ]
    assert config.throttle == Throttle(limit=3, period=60_000, burst=2, key="event.data.user")
    assert config.singleton == Singleton(key="event.data.user", mode="skip")
    assert config.timeouts is not None
    assert (config.timeouts.start, config.timeouts.finish) == (10_000, 60_000)
    assert config.cancel is not None
    assert config.cancel[0] == Cancel(
        event="t/cancel", if_exp="event.data.id == async.data.id", timeout=3_600_000
    )
    assert config.debounce is not None
    assert config.debounce.timeout == 60_000
    assert config.priority is not None
    other = configs["app-all-options2"]
    assert other.batch_events is not None
    assert (other.batch_events.max_size, other.batch_events.if_exp) == (10, "event.data.b")
    assert other.rate_limit is not None
    assert other.idempotency == "event.data.id"


def test_an_app_may_have_no_functions_and_a_version() -> None:
    registration = read_registration(
        {"app_id": "shop", "url": URL, "appVersion": "7"}, "inngest-go:v1"
    )
    assert registration.app.functions == []
    assert registration.app_version == "7"
    assert registration.app.http is not None
    assert registration.app.http.sdk == "go:v1"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (5, [Concurrency(limit=5)]),
        (
            {"limit": 5, "scope": "Account", "key": "'k'"},
            [Concurrency(limit=5, scope="account", key="'k'")],
        ),
        ([{"limit": 1}, {"limit": 2}], [Concurrency(limit=1), Concurrency(limit=2)]),
        (
            {"step": [{"limit": 1}], "fn": [{"limit": 2}]},
            [Concurrency(limit=1), Concurrency(limit=2, level="fn")],
        ),
        ({"fn": 3}, [Concurrency(limit=3, level="fn")]),
        ([], None),
        (None, None),
    ],
)
def test_every_form_of_concurrency_is_read(given: Any, expected: Any) -> None:
    assert only(concurrency=given).concurrency == expected


def test_the_spellings_of_the_sdk_of_go_are_read() -> None:
    config = only(
        retries=2,
        Singleton={"key": "event.data.k"},
        throttle={"limit": 1, "period": "10s"},
        checkpoint={"max_runtime": 10_000_000_000},
        priority={"run": None},
    )
    assert config.retries == 2
    assert config.singleton == Singleton(key="event.data.k", mode="skip")
    assert config.throttle == Throttle(limit=1, period=10_000, burst=0)
    assert config.priority is None


def test_retries_of_the_step_count_and_are_limited_to_20() -> None:
    given = function()
    given["steps"]["step"]["retries"] = {"attempts": 100}
    assert only(steps=given["steps"], retries=3).retries == 20
    assert only().retries == 4


def test_a_cancel_may_end_at_a_date() -> None:
    config = only(
        cancel=[
            {"event": "a", "timeout": "2030-01-01T00:00:00.000Z"},
            {"event": "a", "timeout": "1m30s"},
            {"event": "a", "timeout": ""},
        ]
    )
    assert config.cancel == [
        Cancel(event="a", until=datetime(2030, 1, 1, tzinfo=UTC)),
        Cancel(event="a", timeout=90_000),
        Cancel(event="a"),
    ]


def test_a_batch_needs_no_timeout_and_a_function_no_trigger() -> None:
    config = only(batchEvents={"maxSize": 5}, triggers=[], name=None)
    assert config.batch_events is not None
    assert config.batch_events.timeout is None
    assert config.triggers == []
    assert config.name == "shop-f"


def test_urls_lose_what_belongs_to_one_request() -> None:
    url = "http://app.test:3000/x?a=1&deployId=d&probe=trust"
    given = function(url=f"{url}&fnId=shop-f&stepId=step#part")
    registration = read_registration(body({"steps": given["steps"]}, url=url))
    assert registration.app.http is not None
    assert registration.app.http.url == "http://app.test:3000/x?a=1"
    assert registration.app.functions[0].url == "http://app.test:3000/x?a=1&fnId=shop-f"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "must be a JSON object"),
        ({"url": URL}, "appName"),
        ({"appName": "", "url": URL}, "appName"),
        ({"appName": 5, "url": URL}, "appName"),
        ({"appName": "a\0", "url": URL}, "appName must not contain a NUL"),
        ({"appName": "a" * 1000, "url": URL}, "appName is over the max length"),
        ({"appName": "a"}, "url: the URL is missing"),
        ({"appName": "a", "url": "ftp://x"}, "begins with http://"),
        ({"appName": "a", "url": "http://[x"}, "is not a URL"),
        ({"appName": "a", "url": "http://x/\ud800"}, "is not a URL"),
        ({"appName": "a", "url": "http://x:y/"}, "is not a URL"),
        ({"appName": "a", "url": "http:///x"}, "begins with http://"),
        ({"appName": "a", "url": URL, "functions": {"a": 1}}, "functions must be a list"),
    ],
)
def test_a_body_that_is_not_a_registration_is_refused(given: Any, message: str) -> None:
    with pytest.raises(BodyInvalidError, match=message):
        read_registration(given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": None}, "Function 0, id"),
        ({"id": "a\0b"}, "id must not contain a NUL"),
        ({"triggers": [{"event": ""}]}, r"Function 'shop-f', trigger\[0\].event: is empty"),
        ({"triggers": [{"cron": "no"}]}, r"trigger\[0\].cron"),
        ({"triggers": [{}]}, "Function 'shop-f', triggers.0"),
        ({"triggers": 5}, "Function 'shop-f', triggers"),
        ({"triggers": [{"event": "a", "expression": "(("}]}, r"trigger\[0\].expression"),
        ({"throttle": {"limit": 1, "period": "soon"}}, "Function 'shop-f', throttle.period"),
        ({"throttle": {"limit": 1, "period": "9" * 400 + "s"}}, "throttle.period.* days"),
        ({"timeouts": {"start": "36501d"}}, "timeouts.start.*is over 36500 days"),
        ({"triggers": [{"cron": "@daily", "jitter": "9" * 400 + "s"}]}, "jitter.* days"),
        ({"throttle": {"limit": "1", "period": "1s"}}, "throttle.limit"),
        ({"throttle": 7}, "Function 'shop-f', throttle"),
        ({"rateLimit": {"limit": 1, "period": "25h"}}, "rate_limit.period"),
        ({"batchEvents": {"maxSize": 1}}, "batch_events.max_size"),
        ({"concurrency": "many"}, "Function 'shop-f', concurrency"),
        ({"concurrency": {"limit": 1, "scope": "env"}}, "concurrency"),
        ({"concurrency": {"limit": 1, "scope": "galaxy"}}, "concurrency.0.scope"),
        ({"cancel": [{"event": "a", "timeout": "never"}]}, "cancel.0.timeout"),
        ({"cancel": [{"event": "a", "timeout": "2030-13-01"}]}, "cancel.0.until"),
        ({"cancel": "a"}, "cancel: should be a list"),
        ({"singleton": {"mode": "maybe"}}, "singleton.mode"),
        ({"steps": {}}, "steps: there must be exactly one"),
        ({"steps": {"a": {}}}, "steps.step.runtime: is missing"),
        ({"steps": function(type="ws")["steps"]}, "'ws' is not supported"),
        ({"steps": function(url="/api")["steps"]}, "steps.step.runtime.url"),
    ],
)
def test_errors_name_function_and_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FunctionConfigInvalidError, match=message) as caught:
        read_registration(body(fields))
    assert caught.value.message.startswith("At least one function is invalid")


def test_all_functions_are_checked() -> None:
    with pytest.raises(FunctionConfigInvalidError) as caught:
        read_registration(
            body(
                {},
                function("shop-a") | {"triggers": [{"event": "*"}]},
                function("shop-b") | {"idempotency": "(("},
                function(),
            )
        )
    text = caught.value.message
    assert "'shop-a', trigger[0].event" in text
    assert "'shop-b', idempotency" in text
    assert "'shop-f', id: another function has it" in text


def test_deep_nesting_is_an_error_of_the_function() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(FunctionConfigInvalidError, match="nested too deeply"):
        read_registration(body({"checkpoint": deep}))


def test_reading_changes_nothing() -> None:
    given = load("js-register")["body"]
    before = copy.deepcopy(given)
    read_registration(given)
    assert given == before


@pytest.mark.parametrize(
    ("sdk", "is_denied"),
    [
        ("js:v3.21.9", False),
        ("js:v3.22.0", True),
        ("inngest-js:v3.40.1", True),
        ("js:v3.53.1", True),
        ("js:v3.53.1-beta.1", True),
        ("js:v3.53.2", False),
        ("js:v4.24.0", False),
        ("py:v3.30.0", False),
        ("", False),
    ],
)
def test_versions_with_a_known_weakness_are_refused(sdk: str, is_denied: bool) -> None:
    assert (denied(sdk) is not None) == is_denied
