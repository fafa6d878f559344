"""Whatever a sender writes into a field is accepted or is the sender's mistake: it is never a 5xx
while Temporal can be reached."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from temporalio.client import Client

from tests.adapter.http.test_cancellations import http

PAST = "2026-01-01T00:00:00Z"
ODD = st.text(
    st.one_of(
        st.sampled_from(list("\0\x01\n\r\t\x7f\x85\u2028'\"\\%`;:/.*()=<>$ \ud800\udfff\ufeff💥é")),
        st.characters(),
    ),
    max_size=60,
) | st.integers(1, 1200).map(lambda size: "é" * size)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/e/key", {"name": "a\0b"}, "event name"),
        ("/v1/signals", {"signal": "a\0b"}, "signal"),
        (
            "/v1/cancellations",
            {"app_id": "app", "function_id": "f\0", "started_before": PAST},
            "function_id",
        ),
        (
            "/v1/cancellations",
            {"app_id": "a\0", "function_id": "f", "started_before": PAST},
            "app_id",
        ),
    ],
)
async def test_a_nul_is_refused_with_the_name_of_the_field(
    client: Client, path: str, body: dict[str, Any], field: str
) -> None:
    async with http(client) as api:
        reply = await api.post(path, json=body)
    assert reply.status_code == 400
    assert reply.json()["error"] == f"{field} must not contain a NUL character"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v2/runs?app=a%00", "app"),
        ("/v2/runs?function=app-f%00", "function"),
        ("/v2/apps/app/functions/f%00/runs", "function"),
        ("/runs?function=app-f%00", "function"),
        ("/runs?event=01%00", "event"),
    ],
)
async def test_lists_refuse_an_id_with_a_nul(client: Client, path: str, field: str) -> None:
    async with http(client) as api:
        reply = await api.get(path)
    assert reply.status_code == 400
    assert f"{field} must not contain a NUL character" in reply.text


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/runs/a%00", None, 400),
        ("DELETE", "/v1/runs/a%00", None, 400),
        ("GET", "/v2/runs/a%00/trace", None, 400),
        ("POST", "/v2/runs/a%00/rerun", {}, 400),
        ("POST", "/v2/replays/a%00/cancel", None, 400),
        ("GET", "/v0/runs/a%00/batch", None, 404),
        ("POST", "/v1/checkpoint/a%00/async", {"qi_id": "a", "steps": []}, 404),
        ("GET", "/runs/a%00", None, 404),
    ],
)
async def test_temporal_is_not_asked_for_an_id_with_a_nul(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    body: Any,
    status: int,
) -> None:
    asked: list[str] = []
    handle = Client.get_workflow_handle

    def noting(self: Client, workflow_id: str, **options: Any) -> Any:
        asked.append(workflow_id)
        return handle(self, workflow_id, **options)

    async with http(client) as api:
        monkeypatch.setattr(Client, "get_workflow_handle", noting)
        reply = await api.request(method, path, json=body)
    assert reply.status_code == status
    assert not [each for each in asked if "\0" in each]


async def test_an_id_that_is_too_long_is_refused(client: Client) -> None:
    body = {"app_id": "app", "function_id": "f" * 901, "started_before": PAST}
    async with http(client) as api:
        reply = await api.post("/v1/cancellations", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"].startswith("function_id is over the max length: Max 900 bytes")


@given(text=ODD)
@example(text="a\0b")
@example(text="é" * 1200)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_no_text_is_an_error_of_ours(client: Client, text: str) -> None:
    in_path = quote(text, safe="", errors="replace")
    cancellation = {"app_id": "app", "function_id": "fn", "started_before": PAST}
    requests: list[tuple[str, str, Any]] = [
        ("POST", "/e/key", {"name": text}),
        ("POST", "/e/key", {"name": "x", "id": text, "v": text, "data": {text: text}}),
        ("POST", "/e/key", {"name": "x", "meta": {"sessions": {text: text}}}),
        ("POST", f"/e/{in_path}", {"name": "x"}),
        ("POST", f"/invoke/{in_path}", {"data": {"x": text}}),
        ("GET", f"/v1/runs/{in_path}", None),
        ("DELETE", f"/v1/runs/{in_path}", None),
        ("GET", f"/v1/events/{in_path}/runs", None),
        ("GET", f"/v1/cancellations/{in_path}", None),
        ("DELETE", f"/v1/cancellations/{in_path}", None),
        ("POST", "/v1/cancellations", cancellation | {"app_id": text}),
        ("POST", "/v1/cancellations", cancellation | {"function_id": text}),
        ("POST", "/v1/cancellations", cancellation | {"started_before": text}),
        ("POST", "/v1/cancellations", cancellation | {"if": text}),
        ("POST", "/v1/signals", {"signal": text, "data": text}),
        ("GET", f"/v2/apps/{in_path}/functions/{in_path}", None),
        *(("GET", f"/{page}/{in_path}", None) for page in ("runs", "functions", "replays")),
    ]
    async with http(client) as api:
        for method, path, body in requests:
            content = None if body is None else json.dumps(body).encode()
            reply = await api.request(method, path, content=content)
            assert reply.status_code < 500, (method, path, body, reply.text)


@pytest.mark.parametrize("text", ["it's \\ 100%", "é" * 400, "\ud800"])
async def test_no_text_in_the_query_of_a_list_is_an_error_of_ours(
    client: Client, text: str
) -> None:
    """Only a few texts, as a process asks Temporal for only a few lists a second."""
    asked = quote(text, safe="", errors="replace")
    paths = [f"/v2/runs?{field}={asked}" for field in ("app", "function", "cursor")]
    paths += [f"/runs?{field}={asked}" for field in ("function", "event", "cursor")]
    async with http(client) as api:
        for path in [*paths, f"/v2/apps/{asked}/functions/{asked}/runs"]:
            reply = await api.get(path)
            assert reply.status_code < 500, (path, reply.text)
