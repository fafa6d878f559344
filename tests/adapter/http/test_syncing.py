"""The PUT by which an app is asked to register, and every answer to it."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from inngest_temporal.errors import SyncError
from inngest_temporal.http import syncing
from inngest_temporal.http.syncing import Synced, is_served, sync

RECORDED = Path(__file__).parents[1] / "sdk" / "registrations"
URL = "http://app.test/api/inngest"
KEY, FALLBACK = "signkey-prod-0123456789abcdef", "signkey-prod-fedcba9876543210"
SDK = {"x-inngest-sdk": "inngest-py:v0.5.19", "x-inngest-sdk-handled": "true"}

Answer = Callable[[httpx.Request], httpx.Response]


def app(answer: Answer) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


async def synced(answer: Answer, **options: Any) -> Synced:
    async with app(answer) as http:
        return await sync(http, URL, **{"dev": True, **options})


async def refused(answer: Answer, **options: Any) -> str:
    with pytest.raises(SyncError) as caught:
        await synced(answer, **options)
    return caught.value.message


def recorded(name: str) -> httpx.Response:
    reply = json.loads((RECORDED / f"{name}.json").read_text())
    return httpx.Response(200, headers=reply["headers"], json=reply["body"])


async def test_the_request_is_just_what_sdks_accept() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return recorded("js-dev-put-inband")

    await synced(answer)
    [request] = asked
    assert request.method == "PUT"
    assert request.content == b'{"url":"http://app.test/api/inngest"}'
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-inngest-server-kind"] == "dev"
    assert request.headers["x-inngest-sync-kind"] == "in_band"
    assert "x-inngest-signature" not in request.headers


@pytest.mark.parametrize(
    ("name", "dev", "app_id", "count"),
    [
        ("js-dev-put-inband", True, "app", 30),
        ("js-cloud-put-inband", False, "cl", 30),
        ("js3-cloud-put-inband", False, "cl", 18),
        ("py-cloud-put-inband", False, "cl", 22),
    ],
)
async def test_an_in_band_answer_is_a_registration(
    name: str, dev: bool, app_id: str, count: int
) -> None:
    found = await synced(lambda _: recorded(name), dev=dev, keys=[KEY])
    assert found.registration is not None
    assert found.registration.app.app_id == app_id
    assert len(found.registration.app.functions) == count


async def test_an_out_of_band_answer_says_that_the_app_has_registered() -> None:
    passed = {"ok": True, "modified": True, "sync_id": "s1", "app_id": "shop"}
    python = {**SDK, "x-inngest-sync-kind": "out_of_band"}
    found = await synced(lambda _: httpx.Response(200, headers=python, json=passed))
    assert found == Synced(None, "shop")
    stripped = {"x-inngest-sdk-handled": "true"}  # JavaScript, unsigned, in production
    said = {"message": "Successfully registered", "modified": True}
    found = await synced(lambda _: httpx.Response(200, headers=stripped, json=said), dev=False)
    assert found == Synced(None)


def signed_with(request: httpx.Request, key: str) -> bool:
    at, _, signature = request.headers["x-inngest-signature"].partition("&")
    secret = key.removeprefix("signkey-prod-").encode()
    digest = hmac.new(secret, request.content + at.removeprefix("t=").encode(), hashlib.sha256)
    return bool(signature == f"s={digest.hexdigest()}")


@pytest.mark.parametrize("known", [KEY, FALLBACK])
async def test_either_key_is_enough(known: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if signed_with(request, known):
            return recorded("py-cloud-put-inband")
        return httpx.Response(401, headers=SDK, json={"message": "Unauthorized"})

    found = await synced(answer, dev=False, keys=[KEY, FALLBACK])
    assert found.registration is not None


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (
            {"dev": True, "server": "http://127.0.0.1:8288"},
            "set INNGEST_DEV=http://127.0.0.1:8288",
        ),
        ({"dev": False, "keys": [KEY]}, "another signing key"),
        ({"dev": False}, "set INNGEST_SIGNING_KEY here"),
    ],
)
async def test_a_401_says_what_to_do(options: dict[str, Any], remedy: str) -> None:
    headers = {"x-inngest-sdk-handled": "true"}
    reply = httpx.Response(401, headers=headers, json={"message": "Unauthorized"})
    assert remedy in await refused(lambda _: reply, **options)


@pytest.mark.parametrize("dev", [True, False])
async def test_modes_must_be_the_same(dev: bool) -> None:
    body = {"code": "server_kind_mismatch", "message": "?"}
    said = await refused(lambda _: httpx.Response(400, headers=SDK, json=body), dev=dev)
    assert "INNGEST_DEV" in said
    assert ("is in production mode" if dev else "is in dev mode") in said


async def test_an_app_in_dev_mode_is_not_registered_in_production() -> None:
    """JavaScript's SDK does not look at the mode itself."""
    said = await refused(lambda _: recorded("js-dev-put-inband"), dev=False, keys=[KEY])
    assert "is in dev mode" in said


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (200, {"error": "At least one function is invalid: x", "status": 400}, "is invalid: x"),
        (403, {"message": "no", "modified": False}, "could not register: no"),
        (500, {"code": "registration_failed", "message": "not valid JSON"}, "not valid JSON"),
        (500, None, "status 500"),
        (200, [], "status 200"),
    ],
)
async def test_what_the_app_says_is_passed_on(status: int, body: Any, text: str) -> None:
    reply = httpx.Response(status, headers=SDK, content=b"" if body is None else json.dumps(body))
    assert text in await refused(lambda _: reply)


async def test_a_configuration_that_is_invalid_is_refused() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        body = {"app_id": "shop", "url": URL, "functions": [{"id": "shop-f"}]}
        return httpx.Response(200, headers={**SDK, "x-inngest-sync-kind": "in_band"}, json=body)

    said = await refused(answer)
    assert URL in said
    assert "'shop-f', steps" in said


async def test_an_answer_of_something_else_than_an_app_is_an_error() -> None:
    said = await refused(lambda _: httpx.Response(404, text="no such page"))
    assert f"There is no Inngest app at {URL}" in said
    said = await refused(lambda _: httpx.Response(200, json={"ok": True}))
    assert "There is no Inngest app" in said
    headers = {"location": "https://other.test/x"}
    said = await refused(lambda _: httpx.Response(308, headers=headers))
    assert "redirects to https://other.test/x" in said


async def test_an_app_that_does_not_answer_is_an_error() -> None:
    def closed(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("", request=request)

    assert f"Nothing answers at {URL}" in await refused(closed)
    assert "did not answer properly: RemoteProtocolError" in await refused(broken)
    async with app(closed) as http:
        assert not await is_served(http, URL, 1)
        for url in ("shop", "ftp://x", "http://[x"):
            with pytest.raises(SyncError, match="not the address of an app"):
                await sync(http, url, dev=True)


async def test_a_slow_app_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "SYNC_SECONDS", 0.1)

    async def slow(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        return httpx.Response(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http:
        with pytest.raises(SyncError, match=r"did not answer within 0.1 s"):
            await sync(http, URL, dev=True)
        assert not await is_served(http, URL, 0.1)


async def test_a_huge_answer_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "MAX_ANSWER_BYTES", 1000)
    assert "over 1000 bytes" in await refused(
        lambda _: httpx.Response(200, headers=SDK, content=b" " * 2000)
    )


async def test_an_app_is_recognised_by_its_header() -> None:
    async with app(lambda _: httpx.Response(200, headers=SDK, json={"mode": "dev"})) as http:
        assert await is_served(http, URL, 5)
    async with app(lambda _: httpx.Response(200, json={})) as http:
        assert not await is_served(http, URL, 5)
