"""What an app of an official SDK says of itself when it registers: in the body of `POST
/fn/register`, or in its answer to an in-band sync.

The SDKs spell keys differently (`appName`, `appname`; `singleton`, `Singleton`): case and
underscores don't matter. Source: HTTP protocol, §4 and §5.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from inngest_temporal.config import DEFAULT_RETRIES, MAX_RETRIES, FunctionConfig, check
from inngest_temporal.errors import BodyInvalidError, Error, FunctionConfigInvalidError
from inngest_temporal.models import parse_duration, shown
from inngest_temporal.routing.events import check_id
from inngest_temporal.routing.registry import AppConfig, HttpApp
from inngest_temporal.temporal import names

DENIED_JS = ((3, 22, 0), (3, 53, 1))
"""First and last version of the JavaScript SDK that Inngest's servers refuse, because of
CVE-2026-42047."""
MAX_URL = 2048
"""Maximum length of a URL."""

_SPELLINGS = {"maxsize": "maxSize", "ratelimit": "rateLimit", "batchevents": "batchEvents"}
_OF_FUNCTION = (
    "batchEvents",
    "debounce",
    "idempotency",
    "priority",
    "rateLimit",
    "singleton",
    "throttle",
    "timeouts",
)
"""What is given as `FunctionConfig` reads it."""


@dataclass(frozen=True)
class Registration:
    """An app that registered."""

    app: AppConfig
    app_version: str | None = None


def read_registration(body: object, sdk: str = "") -> Registration:
    """Read decoded JSON of either form; `sdk`: header `x-inngest-sdk` of who sent it.

    Raises:
        BodyInvalidError: It does not say what the app's name or URL is.
        FunctionConfigInvalidError: At least one function is invalid; all problems of all functions
            are listed.
    """
    if not isinstance(body, Mapping):
        raise BodyInvalidError("The registration must be a JSON object")
    fields = {_plain(key): value for key, value in body.items() if isinstance(key, str)}
    app_id = fields.get("appname") or fields.get("appid")
    if not isinstance(app_id, str):
        raise BodyInvalidError("The registration must have the app's name as appName")
    check_id("appName", app_id, names.MAX_FUNCTION_ID_BYTES)
    functions = fields.get("functions") or []
    if not isinstance(functions, list):
        raise BodyInvalidError("functions must be a list")
    http = HttpApp(
        url=_url(fields.get("url"), "url"),
        sdk=_text(fields.get("sdk")) or sdk.removeprefix("inngest-"),
        framework=_text(fields.get("framework")),
    )
    app = AppConfig(
        app_id=app_id,
        task_queue=names.HTTP_TASK_QUEUE,
        functions=_functions(functions, app_id),
        http=http,
    )
    return Registration(app, _text(fields.get("appversion")) or None)


def denied(sdk: str) -> str | None:
    """Why an SDK (such as `js:v3.30.0`) is refused; None if it is not."""
    found = re.fullmatch(r"(?:inngest-)?js:v(\d+)\.(\d+)\.(\d+)(?:-.*)?", sdk)
    if found is None or not DENIED_JS[0] <= tuple(map(int, found.groups())) <= DENIED_JS[1]:
        return None
    first, last = (".".join(map(str, version)) for version in DENIED_JS)
    return (
        f"Versions {first} to {last} of the JavaScript SDK are refused (CVE-2026-42047), and this"
        f" app has {sdk}. Upgrade it: npm install inngest@latest"
    )


def app_url(url: str) -> str:
    """A URL of an app, without the parameters that belong to one request. Raises
    `BodyInvalidError`."""
    return _url(url, "url")


def _functions(given: list[Any], app_id: str) -> list[FunctionConfig]:
    problems: list[str] = []
    functions: dict[str, FunctionConfig] = {}
    for index, each in enumerate(given):
        try:
            function = _function(each, index, app_id)
            check(function, app_id)
            if function.id in functions:
                raise FunctionConfigInvalidError(
                    f"Function {function.id!r}, id: another function has it; give each its own."
                )
            functions[function.id] = function
        except RecursionError:
            problems.append(f"Function {index}: is nested too deeply.")
        except Error as error:
            problems.append(error.message)
    if problems:
        raise FunctionConfigInvalidError(
            "\n".join(["At least one function is invalid:", *problems])
        )
    return list(functions.values())


def _function(given: object, index: int, app_id: str) -> FunctionConfig:
    raw = _canonical(given)
    if not isinstance(raw, dict) or not isinstance(raw.get("id"), str) or not raw["id"]:
        raise FunctionConfigInvalidError(f"Function {index}, id: a text is needed; it has none.")
    id = raw["id"]
    try:
        check_id("id", id, names.MAX_FUNCTION_ID_BYTES)
        if not id.startswith(f"{app_id}-"):
            raise BodyInvalidError(f"id: it must begin with the app's, {app_id}-")
        fields = {
            "id": id,
            "name": raw.get("name") or id,
            "triggers": raw.get("triggers") or [],
            "cancel": _cancel(raw.get("cancel")),
            "concurrency": _concurrency(raw.get("concurrency")),
            **{name: raw[name] for name in _OF_FUNCTION if raw.get(name) not in (None, {})},
            **_served(raw),
        }
        _defaults(fields)
    except BodyInvalidError as error:
        raise FunctionConfigInvalidError(f"Function {id!r}, {error.message}.") from None
    return FunctionConfig.from_wire({k: value for k, value in fields.items() if value is not None})


def _defaults(fields: dict[str, Any]) -> None:
    """Set fields that an SDK may omit, if its default differs from that of our configuration."""
    if isinstance(throttle := fields.get("throttle"), dict):
        throttle.setdefault("burst", 0)
    if isinstance(singleton := fields.get("singleton"), dict):
        singleton.setdefault("mode", "skip")


def _served(raw: Mapping[str, Any]) -> dict[str, Any]:
    """URL and retries, from the single step of each function."""
    steps = raw.get("steps")
    if not isinstance(steps, dict) or len(steps) != 1:
        raise BodyInvalidError("steps: there must be exactly one")
    [step] = steps.values()
    runtime = step.get("runtime") if isinstance(step, dict) else None
    if not isinstance(runtime, dict):
        raise BodyInvalidError("steps.step.runtime: is missing")
    if runtime.get("type", "http") != "http":
        raise BodyInvalidError(
            f"steps.step.runtime.type: {runtime['type']!r} is not supported; serve the app over"
            " HTTP, not with connect"
        )
    retries = step.get("retries")
    attempts = retries.get("attempts") if isinstance(retries, dict) else raw.get("retries")
    if isinstance(attempts, int):
        attempts = min(attempts, MAX_RETRIES)
    return {
        "url": _url(runtime.get("url"), "steps.step.runtime.url"),
        "retries": DEFAULT_RETRIES if attempts is None else attempts,
    }


def _cancel(given: object) -> object:
    """A timeout may be a date."""
    if not isinstance(given, list):
        return given
    return [_cancel_entry(each) for each in given] or None


def _cancel_entry(given: object) -> object:
    timeout = given.get("timeout") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(timeout, str):
        return given
    rest = {name: value for name, value in given.items() if name != "timeout"}
    if not timeout:
        return rest
    try:
        parse_duration(timeout)
    except ValueError:
        return {**rest, ("until" if re.match(r"\d{4}-", timeout) else "timeout"): timeout}
    return given


def _concurrency(given: object) -> object:
    """A number, one limit, a list of them, or `{step: [...], fn: [...]}`."""
    if isinstance(given, int) and not isinstance(given, bool):
        return [{"limit": given}]
    if isinstance(given, list):
        return [_limit(each) for each in given] or None
    if not isinstance(given, dict):
        return given
    if not {"step", "fn"} & given.keys():
        return [_limit(given)]
    return [*_levelled(given)] or None


def _levelled(given: Mapping[str, Any]) -> Iterator[object]:
    for level in ("step", "fn"):
        limits = given.get(level) or []
        for each in limits if isinstance(limits, list) else [limits]:
            limit = {"limit": each} if isinstance(each, int) else _limit(each)
            yield {**limit, "level": level} if level == "fn" and isinstance(limit, dict) else limit


def _limit(given: object) -> object:
    scope = given.get("scope") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(scope, str):
        return given
    return {**given, "scope": scope.lower() or None}


def _url(given: object, field: str) -> str:
    if not isinstance(given, str) or not given:
        raise BodyInvalidError(f"{field}: the URL is missing")
    try:
        parts = urlsplit(given)
        host, _, _ = parts.hostname, parts.port, given.encode()
    except ValueError as error:
        raise BodyInvalidError(f"{field}: {shown(given)} is not a URL ({error})") from None
    if parts.scheme not in ("http", "https") or not host or len(given) > MAX_URL:
        raise BodyInvalidError(
            f"{field}: {shown(given)} is not a URL that begins with http:// or https:// and has at"
            f" most {MAX_URL} characters"
        )
    kept = [
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name not in ("deployId", "probe", "stepId")
    ]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(kept), ""))


def _canonical(value: Any) -> Any:
    """A value with the keys of `FunctionConfig`, and without nulls."""
    if isinstance(value, list):
        return [_canonical(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        _SPELLINGS.get(_plain(key), _plain(key)): _canonical(each)
        for key, each in value.items()
        if each is not None
    }


def _plain(key: str) -> str:
    return key.replace("_", "").lower()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
