import asyncio
import base64
import datetime
import http.server
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from inngest_temporal import client as client_module
from inngest_temporal import sending
from inngest_temporal.client import Inngest
from inngest_temporal.context import Context
from inngest_temporal.errors import (
    AsyncUnsupportedError,
    BodyInvalidError,
    EventKeyUnspecifiedError,
    SendEventsError,
    URLInvalidError,
)
from inngest_temporal.functions import Function
from inngest_temporal.middleware import Middleware, MiddlewareSync
from inngest_temporal.models import Event, SendEventsResult, TriggerEvent


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Ingress:
    """A real HTTP server on a free port. It answers with `replies`, the last one again and again,
    and keeps the requests."""

    url: str = ""
    replies: list[tuple[int, Any] | None] = field(default_factory=list)
    """Status and body; None closes the connection."""
    requests: list[Request] = field(default_factory=list)

    def reply(self) -> tuple[int, Any] | None:
        if not self.replies:
            count = len(self.requests[-1].body)
            return 200, {"ids": [f"id{number}" for number in range(count)], "status": 200}
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@pytest.fixture
def ingress() -> Iterator[Ingress]:
    state = Ingress()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.requests.append(
                Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            )
            reply = state.reply()
            if reply is None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            status, content = reply
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "INNGEST_API_BASE_URL",
        "INNGEST_BASE_URL",
        "INNGEST_DEV",
        "INNGEST_EVENT_API_BASE_URL",
        "INNGEST_EVENT_KEY",
        "INNGEST_SIGNING_KEY",
        "INNGEST_SIGNING_KEY_FALLBACK",
        *client_module._BRANCH_VARIABLES,
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sending, "SEND_BACKOFF_SECONDS", 0.001)


def dev_client(ingress: Ingress, **options: Any) -> Inngest:
    return Inngest(app_id="app", is_production=False, event_api_base_url=ingress.url, **options)


# Settings.


def test_production_is_the_default() -> None:
    client = Inngest(app_id="app")
    assert client.is_production
    assert (client.api_origin, client.event_api_origin) == (
        "https://api.inngest.com/",
        "https://inn.gs/",
    )
    assert (client.event_key, client.signing_key, client.signing_key_fallback) == (None, None, None)
    assert (client.env, client.app_version) == (None, None)


@pytest.mark.parametrize(
    ("dev", "is_production"),
    [
        ("1", False),
        ("true", False),
        ("yes", False),
        ("0", True),
        ("false", True),
        ("False", True),
        ("", True),
    ],
)
def test_the_dev_variable_decides_unless_the_argument_does(
    dev: str, is_production: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INNGEST_DEV", dev)
    assert Inngest(app_id="app").is_production is is_production
    assert Inngest(app_id="app", is_production=True).is_production
    assert not Inngest(app_id="app", is_production=False).is_production


def test_dev_mode_has_the_local_ingress_as_both_origins() -> None:
    client = Inngest(app_id="app", is_production=False)
    assert client.api_origin == client.event_api_origin == "http://127.0.0.1:8288/"


def test_origins_come_from_argument_own_variable_common_variable_and_dev_in_that_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def origins(**options: Any) -> tuple[str, str]:
        client = Inngest(app_id="app", **options)
        return client.api_origin, client.event_api_origin

    monkeypatch.setenv("INNGEST_DEV", "http://dev:1")
    assert origins() == ("http://dev:1", "http://dev:1")
    monkeypatch.setenv("INNGEST_BASE_URL", "http://base:1")
    assert origins() == ("http://base:1", "http://base:1")
    monkeypatch.setenv("INNGEST_API_BASE_URL", "http://api:1")
    assert origins() == ("http://api:1", "http://base:1")
    monkeypatch.setenv("INNGEST_EVENT_API_BASE_URL", "http://event:1")
    assert origins() == ("http://api:1", "http://event:1")
    assert origins(api_base_url="http://arg:1") == ("http://arg:1", "http://event:1")
    assert origins(event_api_base_url="http://arg:1") == ("http://api:1", "http://arg:1")


@pytest.mark.parametrize(("is_production", "scheme"), [(True, "https"), (False, "http")])
def test_an_origin_without_scheme_gets_the_one_of_the_mode(
    is_production: bool, scheme: str
) -> None:
    for host in ("inngest.example.com", "ingress:8288"):
        client = Inngest(app_id="app", is_production=is_production, api_base_url=host)
        assert client.api_origin == f"{scheme}://{host}"


@pytest.mark.parametrize(
    "url",
    [
        *("::", "http://", "ftp://example.com", "ingress"),
        *("http://a:b", "http://a:70000", "http://[::1", "http://\U0001f600..com"),
    ],
)
def test_an_invalid_url_is_refused_by_the_constructor_with_its_source(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(URLInvalidError, match=r"^event_api_base_url: .* is not a valid URL"):
        Inngest(app_id="app", event_api_base_url=url)
    monkeypatch.setenv("INNGEST_BASE_URL", url)
    with pytest.raises(URLInvalidError, match=r"^INNGEST_BASE_URL: .* is not a valid URL"):
        Inngest(app_id="app")


def test_keys_come_from_the_environment_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNGEST_EVENT_KEY", "e")
    monkeypatch.setenv("INNGEST_SIGNING_KEY", "s")
    monkeypatch.setenv("INNGEST_SIGNING_KEY_FALLBACK", "f")
    client = Inngest(app_id="app")
    assert (client.event_key, client.signing_key, client.signing_key_fallback) == ("e", "s", "f")
    client = Inngest(app_id="app", event_key="e2", signing_key="s2")
    assert (client.event_key, client.signing_key, client.signing_key_fallback) == ("e2", "s2", "f")


def test_the_branch_comes_from_argument_own_variable_and_platform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for name in reversed(client_module._BRANCH_VARIABLES):
        monkeypatch.setenv(name, name.lower())
        found.append(Inngest(app_id="app").env)
    assert found == [
        "vercel_git_commit_ref",
        "render_git_branch",
        "railway_git_branch",
        "inngest_env",
    ]
    assert Inngest(app_id="app", env="mine").env == "mine"


def test_middleware_and_logger_can_be_added_later() -> None:
    given = [MiddlewareSync]
    client = Inngest(app_id="app", middleware=[*given])
    client.add_middleware(Middleware)
    assert client.middleware == [MiddlewareSync, Middleware]
    logger = logging.getLogger("mine")
    client.set_logger(logger)
    assert client.logger is logger


def test_create_function_makes_a_function_of_this_client() -> None:
    client = Inngest(app_id="app", is_production=False)

    @client.create_function(fn_id="fn", trigger=TriggerEvent(event="a"))
    async def handle(ctx: Context) -> int:
        return 1

    assert isinstance(handle, Function)
    assert handle.client is client
    assert handle.id == "app-fn"


# Sending.


async def test_send_posts_all_events_in_one_request_and_returns_their_ids(ingress: Ingress) -> None:
    before = time.time_ns() // 1_000_000
    events = [Event(name="a"), Event(name="b", data={"x": (1,)}, id="mine", ts=5)]
    assert await dev_client(ingress, env="branch").send(events) == ["id0", "id1"]
    (request,) = ingress.requests
    assert request.path == "/e/NO_EVENT_KEY_SET"
    first, second = request.body
    assert before <= first.pop("ts") <= time.time_ns() // 1_000_000
    assert first == {"name": "a", "data": {}}
    assert second == {"name": "b", "data": {"x": [1]}, "id": "mine", "ts": 5}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-inngest-env"] == "branch"


async def test_the_seed_is_a_time_and_ten_bytes_and_new_for_each_send(ingress: Ingress) -> None:
    client = dev_client(ingress)
    await client.send(Event(name="a"))
    await client.send(Event(name="a"))
    seeds = [request.headers["x-inngest-event-id-seed"] for request in ingress.requests]
    assert seeds[0] != seeds[1]
    for seed in seeds:
        milliseconds, entropy = seed.split(",")
        assert abs(int(milliseconds) / 1000 - time.time()) < 60
        assert len(base64.b64decode(entropy)) == 10


def test_send_sync_sends_the_same(ingress: Ingress) -> None:
    assert dev_client(ingress, event_key="a/b").send_sync(Event(name="a")) == ["id0"]
    assert ingress.requests[0].path == "/e/a%2Fb"


async def test_an_origin_may_have_a_path(ingress: Ingress) -> None:
    client = Inngest(
        app_id="app",
        is_production=False,
        event_api_base_url=f"{ingress.url}/inngest/",
        event_key="k",
    )
    await client.send(Event(name="a"))
    assert ingress.requests[0].path == "/inngest/e/k"


@pytest.mark.parametrize("failure", [None, (500, {"error": "no"}), (503, b"down")])
async def test_failures_are_tried_again_with_the_same_seed_and_body(
    ingress: Ingress, failure: Any
) -> None:
    ingress.replies = [failure] * 4 + [(200, {"ids": ["id"], "status": 200})]
    assert await dev_client(ingress).send(Event(name="a")) == ["id"]
    assert len(ingress.requests) == 5
    assert len({request.headers["x-inngest-event-id-seed"] for request in ingress.requests}) == 1
    assert all(request.body == ingress.requests[0].body for request in ingress.requests)


async def test_the_fifth_failure_is_raised(ingress: Ingress) -> None:
    ingress.replies = [(503, {"error": "Temporal is down", "ids": [], "status": 503})]
    with pytest.raises(SendEventsError, match="Temporal is down"):
        await dev_client(ingress).send(Event(name="a"))
    assert len(ingress.requests) == 5


def test_waits_between_attempts_double(ingress: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SEND_BACKOFF_SECONDS", 0.1)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    ingress.replies = [(500, {"error": "no"})]
    with pytest.raises(SendEventsError):
        dev_client(ingress).send_sync(Event(name="a"))
    assert len(waits) == 4
    for wait, least in zip(waits, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert least <= wait < 2 * least


async def test_a_refusal_is_not_tried_again_and_keeps_the_accepted_ids(ingress: Ingress) -> None:
    ingress.replies = [
        (400, {"error": "Event is over the max size", "ids": ["id0"], "status": 400})
    ]
    with pytest.raises(SendEventsError, match="Event is over the max size") as caught:
        await dev_client(ingress).send([Event(name="a"), Event(name="b")])
    assert caught.value.ids == ["id0"]
    assert len(ingress.requests) == 1


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((404, {"detail": "Not Found"}), "answered HTTP 404 without a reason; is it the ingress?"),
        ((200, b"<html>"), "answered HTTP 200 with what is no reply to events"),
        ((200, {"ids": "all"}), "answered HTTP 200 with what is no reply to events"),
    ],
)
async def test_a_reply_from_something_else_is_an_error_that_hides_the_key(
    ingress: Ingress, reply: Any, message: str
) -> None:
    ingress.replies = [reply]
    with pytest.raises(SendEventsError, match=re.escape(message)) as caught:
        await dev_client(ingress, event_key="secret").send(Event(name="a"))
    assert ingress.url in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_ingress_that_does_not_listen_is_named_in_the_error() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        client = Inngest(app_id="app", is_production=False, event_api_base_url=url)
        with pytest.raises(SendEventsError, match=f"no reply from the ingress at {url}") as caught:
            client.send_sync(Event(name="a"))
    assert caught.value.ids == []


def test_a_request_has_a_time_limit() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for timeout in (20, datetime.timedelta(milliseconds=20)):
            client = Inngest(
                app_id="app", is_production=False, event_api_base_url=url, request_timeout=timeout
            )
            with pytest.raises(SendEventsError, match="ReadTimeout"):
                client.send_sync(Event(name="a"))


async def test_production_needs_an_event_key_when_sending(ingress: Ingress) -> None:
    client = Inngest(app_id="app", is_production=True, event_api_base_url=ingress.url)
    with pytest.raises(
        EventKeyUnspecifiedError, match="App 'app' can't send events without an event key"
    ):
        await client.send(Event(name="a"))
    with pytest.raises(EventKeyUnspecifiedError):
        client.send_sync(Event(name="a"))
    assert ingress.requests == []


@pytest.mark.parametrize("data", [{"x": float("nan")}, {"x": [object()]}])
async def test_data_that_is_not_json_is_refused_by_event_name(
    ingress: Ingress, data: dict[str, Any]
) -> None:
    with pytest.raises(
        BodyInvalidError, match="Event 'shop/order' can't be sent, its data is not JSON"
    ):
        await dev_client(ingress).send(Event(name="shop/order", data=data))
    assert ingress.requests == []


async def test_only_events_are_sent(ingress: Ingress) -> None:
    with pytest.raises(BodyInvalidError, match=r"Only events can be sent, not \{'name': 'a'\}"):
        await dev_client(ingress).send({"name": "a"})  # type: ignore[arg-type]


async def test_no_events_are_no_request(ingress: Ingress) -> None:
    assert await dev_client(ingress).send([]) == []
    assert ingress.requests == []


# Middleware around sending.


def middleware(calls: list[Any]) -> Any:
    class Record(MiddlewareSync):
        def before_send_events(self, events: list[Event]) -> None:
            calls.append(("before", [event.name for event in events], self.raw_request))
            events[0].data = {"changed": True}

        def after_send_events(self, result: SendEventsResult) -> None:
            calls.append(("after", result.ids, result.error))

    return Record


@pytest.mark.parametrize("sync", [True, False])
async def test_middleware_sees_events_before_and_the_result_after(
    ingress: Ingress, sync: bool
) -> None:
    calls: list[Any] = []
    client = dev_client(ingress, middleware=[middleware(calls)])
    if sync:
        await asyncio.to_thread(client.send_sync, Event(name="a"))
    else:
        await client.send(Event(name="a"))
    assert calls == [("before", ["a"], None), ("after", ["id0"], None)]
    assert ingress.requests[0].body[0]["data"] == {"changed": True}


async def test_middleware_sees_a_failure_before_it_is_raised(ingress: Ingress) -> None:
    calls: list[Any] = []
    ingress.replies = [(400, {"error": "refused", "ids": [], "status": 400})]
    with pytest.raises(SendEventsError, match="refused"):
        await dev_client(ingress, middleware=[middleware(calls)]).send(Event(name="a"))
    assert calls[-1] == ("after", [], "refused")


async def test_middleware_can_be_skipped(ingress: Ingress) -> None:
    calls: list[Any] = []
    await dev_client(ingress, middleware=[middleware(calls)]).send(
        Event(name="a"), skip_middleware=True
    )
    assert calls == []


async def test_async_middleware_serves_send_but_not_send_sync(ingress: Ingress) -> None:
    class Rename(Middleware):
        async def before_send_events(self, events: list[Event]) -> None:
            await asyncio.sleep(0)
            events[0].name = "renamed"

    client = dev_client(ingress, middleware=[Rename])
    await client.send(Event(name="a"))
    assert ingress.requests[0].body[0]["name"] == "renamed"
    with pytest.raises(AsyncUnsupportedError, match="Rename"):
        client.send_sync(Event(name="a"))


# One client, many threads and loops.


def test_one_client_serves_loops_that_end_and_loops_in_other_threads(ingress: Ingress) -> None:
    client = dev_client(ingress)

    async def send_some() -> None:
        await asyncio.gather(*(client.send(Event(name="a")) for _ in range(5)))

    asyncio.run(send_some())
    asyncio.run(send_some())
    errors: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(send_some())
            client.send_sync(Event(name="a"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(ingress.requests) == 10 + 4 * 6


def test_connections_of_ended_loops_are_not_kept(ingress: Ingress) -> None:
    client = dev_client(ingress)
    for _ in range(3):
        asyncio.run(client.send(Event(name="a")))
    assert len(client._connections._async) == 1


async def test_events_never_go_to_inngests_cloud_by_default() -> None:
    client = Inngest(app_id="app", is_production=True, event_key="key")
    with pytest.raises(URLInvalidError, match="set INNGEST_BASE_URL"):
        await client.send(Event(name="a"))
    with pytest.raises(URLInvalidError, match="set INNGEST_BASE_URL"):
        client.send_sync(Event(name="a"))


def test_a_number_that_json_lacks_is_refused_wherever_it_is() -> None:
    client = Inngest(app_id="app", is_production=False)
    for data in ({"x": float("nan")}, {"in": {"x": [float("inf")]}}):
        with pytest.raises(BodyInvalidError, match="Event 'a' can't be sent, its data is not JSON"):
            client.send_sync(Event(name="a", data=data))
