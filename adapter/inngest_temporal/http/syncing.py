"""Asks an app that is served over HTTP to register: the PUT that Inngest calls a sync.

The app either answers with its functions (in-band), or calls `/fn/register` of its Inngest server
before it answers (out-of-band), depending on its SDK. Source: HTTP protocol, §4.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from inngest_temporal.errors import BodyInvalidError, FunctionConfigInvalidError, SyncError, text_of
from inngest_temporal.routing import events
from inngest_temporal.sdk.registration import Registration, app_url, read_registration
from inngest_temporal.sdk.signatures import canonical, sign

SYNC_SECONDS = 10.0
"""How long an app may take to answer, as in Inngest."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024

IN_BAND = "in_band"


@dataclass(frozen=True)
class Synced:
    """What an app answered."""

    registration: Registration | None
    """Its functions, which the caller must publish; None: it has called `/fn/register`."""
    app_id: str | None = None
    """The app's id, if the answer has it."""


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: Any
    """The decoded body; None if it is not JSON."""


def sync_client() -> httpx.AsyncClient:
    """A client for `sync`, which has its own time limit."""
    return httpx.AsyncClient(timeout=None)


async def sync(
    http: httpx.AsyncClient, url: str, *, dev: bool, keys: Sequence[str] = (), server: str = ""
) -> Synced:
    """Ask the app at a URL to register.

    Args:
        dev: Whether the server that asks is in dev mode.
        keys: Signing keys; the app must have one of them.
        server: The server's own address, for messages.

    Raises `SyncError` if there is no app, or if it refuses or was refused.
    """
    try:
        url = app_url(url)
    except BodyInvalidError as error:
        raise SyncError(f"That is not the address of an app. {error.message}.") from None
    kind = "dev" if dev else "cloud"
    answer = await _ask(http, url, kind, keys[0] if keys else None)
    for key in keys[1:]:
        if answer.status == 401:
            answer = await _ask(http, url, kind, key)
    _check(url, answer, kind, keys, server)
    if answer.headers.get("x-inngest-sync-kind") == IN_BAND:
        return Synced(_registration(url, answer, kind))
    app_id = answer.body.get("app_id")
    return Synced(None, app_id if isinstance(app_id, str) else None)


async def is_served(http: httpx.AsyncClient, url: str, seconds: float) -> bool:
    """Whether an app in dev mode answers at a URL."""
    try:
        async with asyncio.timeout(seconds), http.stream("GET", url) as response:
            return "x-inngest-sdk" in response.headers
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
        return False


async def _ask(http: httpx.AsyncClient, url: str, kind: str, key: str | None) -> _Answer:
    # The body must not have other fields.
    body = canonical({"url": url})
    headers = {
        "content-type": "application/json",
        "x-inngest-server-kind": kind,
        "x-inngest-sync-kind": IN_BAND,
    }
    if key is not None:
        headers["x-inngest-signature"] = sign(key, body, int(time.time()))
    try:
        async with (
            asyncio.timeout(SYNC_SECONDS),
            http.stream("PUT", url, content=body, headers=headers) as response,
        ):
            return _Answer(response.status_code, response.headers, await _read(url, response))
    except TimeoutError:
        raise SyncError(
            f"The app at {url} did not answer within {SYNC_SECONDS:g} s. Check what it is doing or"
            " waiting for."
        ) from None
    except httpx.ConnectError as error:
        raise SyncError(
            f"Nothing answers at {url} ({error}). Start the app, or correct the URL."
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = text_of(error)
        raise SyncError(f"The app at {url} did not answer properly: {problem}.") from error


async def _read(url: str, response: httpx.Response) -> Any:
    raw = bytearray()
    async for chunk in response.aiter_bytes():
        raw += chunk
        if len(raw) > MAX_ANSWER_BYTES:
            raise SyncError(f"The answer of {url} is over {MAX_ANSWER_BYTES} bytes.")
    try:
        return events.parse(bytes(raw))
    except BodyInvalidError:
        return None


def _check(url: str, answer: _Answer, kind: str, keys: Sequence[str], server: str) -> None:
    """Raises `SyncError` unless the app says that it has registered, or is about to."""
    location = answer.headers.get("location")
    if 300 <= answer.status < 400 and location:
        raise SyncError(f"{url} redirects to {location}. Use the URL where the app itself is.")
    if not {"x-inngest-sdk", "x-inngest-sdk-handled"} & {name.lower() for name in answer.headers}:
        raise SyncError(
            f"There is no Inngest app at {url}: the answer (status {answer.status}) is not of its"
            " SDK. Give the URL where the app serves its functions, usually /api/inngest."
        )
    body = answer.body if isinstance(answer.body, dict) else {}
    if answer.status == 401:
        raise SyncError(
            f"The app at {url} refuses the request. {_unauthorized(kind, keys, server)}"
        )
    if body.get("code") == "server_kind_mismatch":
        raise SyncError(f"The app at {url} {_mismatch(kind, server)}")
    problem = body.get("error")
    if answer.status != 200 or problem or not isinstance(answer.body, dict):
        text = problem or body.get("message") or f"it answered with status {answer.status}"
        raise SyncError(f"The app at {url} could not register: {text}")


def _unauthorized(kind: str, keys: Sequence[str], server: str) -> str:
    if kind == "dev":
        return (
            "It is in production mode: set INNGEST_DEV"
            + (f"={server}" if server else "")
            + " in its environment."
        )
    if not keys:
        return "It wants a signature: set INNGEST_SIGNING_KEY here to the key that the app has."
    return "It has another signing key: set INNGEST_SIGNING_KEY here and there to the same."


def _mismatch(kind: str, server: str) -> str:
    if kind == "dev":
        setting = f"INNGEST_DEV={server}" if server else "INNGEST_DEV"
        return f"is in production mode, and this is a development server: set {setting} there."
    return "is in dev mode, and this is for production: unset INNGEST_DEV there."


def _registration(url: str, answer: _Answer, kind: str) -> Registration:
    inspection = answer.body.get("inspection")
    mode = inspection.get("mode") if isinstance(inspection, dict) else None
    if mode in ("dev", "cloud") and mode != kind:
        raise SyncError(f"The app at {url} {_mismatch(kind, '')}")
    try:
        return read_registration(answer.body, answer.headers.get("x-inngest-sdk", ""))
    except (BodyInvalidError, FunctionConfigInvalidError) as error:
        raise SyncError(f"The app at {url} can't be registered. {error.message}") from error
