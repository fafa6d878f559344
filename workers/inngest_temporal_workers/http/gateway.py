"""Makes the HTTP requests that steps of apps leave to us: `step.fetch` and `step.ai.infer`.

The app is not called meanwhile. Requests hold secrets, which must not get into logs or errors.
"""

import base64
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final
from urllib.parse import unquote

import httpcore
import httpx

from inngest_temporal.drivers.failures import bounded
from inngest_temporal.drivers.protocol import MAX_OUTPUT_BYTES, ErrorInfo, json_size
from inngest_temporal.errors import BodyInvalidError, text_of
from inngest_temporal.sdk.durations import retry_after_ms
from inngest_temporal.sdk.ops import GatewayCall, parse_json

from .addresses import AddressPolicy, AddressRefusedError, GuardedBackend

CONNECT_SECONDS = 10.0
"""How long connecting may take."""
SILENCE_SECONDS = 7200.0
"""How long a server may be silent: a model may think for a long time."""
MAX_REDIRECTS = 10
MAX_SHOWN = 1_000
"""Maximum number of characters of a provider's answer in an error."""
_REDIRECTS = (301, 302, 303, 307, 308)
_NO_BODY = (204, 205, 304)
"""With these statuses, JavaScript's `Response` must not have a body, not even an empty one."""
_NO_METHODS = ("CONNECT", "TRACE", "TRACK")
_OURS = ("host", "content-length", "transfer-encoding", "connection", "upgrade", "expect")
"""Request headers that only the HTTP client sets."""
_SECRET = ("authorization", "cookie", "proxy-authorization", "x-api-key", "api-key")
"""Request headers that are not sent to another origin after a redirect."""
_TRANSFER = ("content-encoding", "content-length", "transfer-encoding", "connection", "keep-alive")
"""Response headers that do not apply to the decoded body that the app gets."""
_TOO_LARGE = f"The response is over the limit of {MAX_OUTPUT_BYTES} bytes."
_TRANSPORT_ERRORS: Final = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpx.DecodingError,
)
_TIMEOUTS: Final = {
    "connect": CONNECT_SECONDS,
    "read": SILENCE_SECONDS,
    "write": SILENCE_SECONDS,
    "pool": None,
}


class Gateway:
    """Makes requests. As a context manager it closes its connections."""

    def __init__(self, policy: AddressPolicy, context: ssl.SSLContext | None = None) -> None:
        """`context`: which certificates are trusted; None: those that browsers trust."""
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context or httpx.create_ssl_context(trust_env=False),
            network_backend=GuardedBackend(policy),
            max_connections=None,
            # Connections are not kept. The server may be closing one just when a request is sent,
            # and then it would be unknown whether the request may be sent again.
            max_keepalive_connections=0,
        )

    @classmethod
    def from_env(cls, *, dev: bool) -> "Gateway":
        """A gateway with the environment's policy. `dev` allows every address. Raises
        `ValueError`."""
        return cls(AddressPolicy.from_env(dev=dev))

    async def __aenter__(self) -> "Gateway":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def perform(self, call: GatewayCall) -> tuple[Any, ErrorInfo | None]:
        """Make a request. Returns the data of the step's memo, or an error, which says whether
        another attempt may help. For `fetch` every status is a success; for `ai` a status above 299
        is a failure."""
        try:
            url, response, body = await self._follow(_authorized(call))
            return (
                _inferred(call, response, body)
                if call.kind == "ai"
                else _fetched(url, response, body)
            )
        except AddressRefusedError as error:
            return None, _error(call, str(error), retriable=False)
        except _UnfitError as error:
            return None, _error(call, str(error), retriable=False)
        except (
            httpx.InvalidURL,
            httpcore.UnsupportedProtocol,
            httpcore.LocalProtocolError,
            ValueError,
        ):
            # The text of the error may quote a header.
            message = "The request is not valid: its URL, method or headers can't be sent."
            return None, _error(call, message, retriable=False)
        except (*_TRANSPORT_ERRORS, OSError) as error:
            host = httpx.URL(call.url).host
            message = f"{host} did not answer: {text_of(error)}"
            return None, _error(call, message, retriable=True)

    async def _follow(self, call: GatewayCall) -> tuple[httpx.URL, httpx.Response, bytes]:
        """The response at the end of the redirects, and its URL."""
        for _ in range(MAX_REDIRECTS + 1):
            url = httpx.URL(call.url)
            if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > 65_535:
                raise _UnfitError("The URL must begin with http:// or https:// and name a host.")
            response, body = await self._send(url, call)
            location = response.headers.get("location")
            if response.status_code not in _REDIRECTS or not location:
                return url, response, body
            call = _redirected(call, url, url.join(location), response.status_code)
        raise _UnfitError(f"There were more than {MAX_REDIRECTS} redirects.")

    async def _send(self, url: httpx.URL, call: GatewayCall) -> tuple[httpx.Response, bytes]:
        method = call.method.upper()
        if method in _NO_METHODS:
            raise _UnfitError(f"A request can't have the method {method}.")
        request = httpx.Request(
            method,
            url,
            headers=_headers(call, url),
            content=None if call.body is None else call.body.encode(),
        )
        async with self._pool.stream(
            request.method,
            httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.read() or None,
            extensions={"timeout": _TIMEOUTS},
        ) as answered:
            response = httpx.Response(
                answered.status, headers=answered.headers, stream=_Received(answered)
            )
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_OUTPUT_BYTES:
                    raise _UnfitError(_TOO_LARGE)
            return response, bytes(body)


class _UnfitError(Exception):
    """A failure that another attempt would not change."""


class _Received(httpx.AsyncByteStream):
    """The body of a response, which httpx decodes."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_stream():
            yield chunk


def _authorized(call: GatewayCall) -> GatewayCall:
    """The request with its API key in the place where the provider wants it."""
    if call.kind != "ai":
        return call
    headers = {"content-type": "application/json"} | {
        name.lower(): value for name, value in call.headers.items()
    }
    if call.auth_key is None:
        return replace(call, headers=headers)
    if call.format == "gemini":
        url = httpx.URL(call.url)
        with_key = url if "key" in url.params else url.copy_merge_params({"key": call.auth_key})
        return replace(call, url=str(with_key), headers=headers)
    name, value = {
        "anthropic": ("x-api-key", call.auth_key),
        "bedrock": ("authorization", call.auth_key),
    }.get(call.format, ("authorization", f"Bearer {call.auth_key}"))
    return replace(call, headers=headers | {name: value})


def _headers(call: GatewayCall, url: httpx.URL) -> dict[bytes, bytes]:
    headers = {
        name.lower(): value for name, value in call.headers.items() if name.lower() not in _OURS
    }
    headers.setdefault("accept-encoding", "identity")
    if url.userinfo and "authorization" not in headers:
        userinfo = unquote(url.userinfo.decode())
        headers["authorization"] = "Basic " + base64.b64encode(userinfo.encode()).decode()
    return {name.encode(): value.encode() for name, value in headers.items()}


def _redirected(call: GatewayCall, before: httpx.URL, after: httpx.URL, status: int) -> GatewayCall:
    method, body, headers = call.method.upper(), call.body, dict(call.headers)
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        method, body = "GET", None
        headers = _without(headers, ("content-type",))
    if _origin(before) != _origin(after):
        headers = _without(headers, _SECRET)
    return replace(call, url=str(after), method=method, headers=headers, body=body)


def _without(headers: dict[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in names}


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _fetched(url: httpx.URL, response: httpx.Response, body: bytes) -> tuple[Any, None]:
    status = response.status_code
    data = {
        "url": str(url.copy_with(userinfo=b"")),
        "headers": _without(dict(response.headers), _TRANSFER),
        "body": None if status in _NO_BODY else _text(response, body),
        "status_code": status,
    }
    if json_size(data) > MAX_OUTPUT_BYTES:
        raise _UnfitError(_TOO_LARGE)
    return data, None


def _inferred(
    call: GatewayCall, response: httpx.Response, body: bytes
) -> tuple[Any, ErrorInfo | None]:
    text = _text(response, body)
    try:
        data = parse_json(body)
    except BodyInvalidError:
        data = text
    if response.status_code > 299:
        message = f"The provider answered {response.status_code}: {text[:MAX_SHOWN]}"
        now_ms = time.time_ns() // 1_000_000
        after_ms = retry_after_ms(response.headers.get("retry-after"), now_ms)
        return None, replace(_error(call, message, retriable=True), retry_after_ms=after_ms)
    if json_size(data) > MAX_OUTPUT_BYTES:
        raise _UnfitError(_TOO_LARGE)
    return data, None


def _text(response: httpx.Response, body: bytes) -> str:
    try:
        return body.decode(response.charset_encoding or "utf-8", "replace")
    except LookupError:
        return body.decode(errors="replace")


def _error(call: GatewayCall, message: str, *, retriable: bool) -> ErrorInfo:
    if call.auth_key is not None:
        message = message.replace(call.auth_key, "***")
    name = "AIGatewayError" if call.kind == "ai" else "GatewayError"
    return ErrorInfo(name, bounded(message), retriable=retriable)
