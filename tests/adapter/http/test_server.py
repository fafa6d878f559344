"""A stranger's connection can do little to the ingress, and nothing to other connections."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from inngest_temporal.http import server
from inngest_temporal_workers.commands.processes import listen, serving
from tests.harness import until

POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
BLOCK = 64 * 1024


async def echo(request: Request) -> PlainTextResponse:
    try:
        return PlainTextResponse(str(len(await request.body())))
    except ClientDisconnect:  # as in the ingress
        return PlainTextResponse("", 400)


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[int]:
    """A server on a free port."""
    listener = listen("127.0.0.1", 0, "--port")
    app = Starlette(routes=[Route("/{rest:path}", echo, methods=["GET", "POST"])])
    async with serving(app, listener):
        yield listener.getsockname()[1]


async def flood(port: int, begin: bytes, block: bytes, blocks: int = 160) -> tuple[int, bytes]:
    """Send much more than is allowed. Returns how many bytes were sent until the server closed the
    connection, and its reply."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    with contextlib.suppress(ConnectionError):
        writer.write(begin)
        for _ in range(blocks):
            writer.write(block)
            await writer.drain()
            sent += len(block)
    reply = await until_closed(reader)
    writer.close()
    return sent, reply


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """Wait until the server closes the connection, and return what it sent. Raises
    `TimeoutError`."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 20)
    return b""


@pytest.mark.parametrize(
    ("begin", "block"),
    [
        pytest.param(POST + b"x-a: ", b"a" * BLOCK, id="header"),
        pytest.param(POST, b"a" * BLOCK, id="header-name"),
        pytest.param(POST, b"x-a: b\r\n" * (BLOCK // 8), id="headers"),
        pytest.param(b"GET /", b"a" * BLOCK, id="url"),
        pytest.param(CHUNKED + b"2;", b"a" * BLOCK, id="chunk-extension"),
        pytest.param(CHUNKED + b"0\r\nx-a: ", b"a" * BLOCK, id="trailer"),
        pytest.param(CHUNKED + b"0\r\n", b"x-a: b\r\n" * (BLOCK // 8), id="trailers"),
        pytest.param(b"", b"\r\n" * (BLOCK // 2), id="empty-lines"),
    ],
)
async def test_a_request_without_an_end_is_cut_off_and_not_logged(
    begin: bytes, block: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as port:
        sent, _ = await flood(port, begin, block)
        assert sent < 160 * BLOCK  # what the kernel's buffers take is sent without being read
        async with httpx.AsyncClient(verify=False) as client:
            reply = await client.post(f"http://127.0.0.1:{port}/", content=b"x" * 300_000)
        assert reply.text == "300000"
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_head_that_is_too_large_is_answered_with_431() -> None:
    async with served() as port, httpx.AsyncClient(verify=False) as client:
        url = f"http://127.0.0.1:{port}/"
        assert (await client.get(url, headers={"x-a": "a" * 60_000})).status_code == 200
        assert (await client.get(url, headers={"x-a": "a" * 66_000})).status_code == 431
        # Each is allowed, both together are not.
        headers = {"x-a": "a" * 40_000}
        assert (await client.get(url + "a" * 20_000, headers=headers)).status_code == 200
        assert (await client.get(url + "a" * 40_000, headers=headers)).status_code == 431


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x16\x03\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        POST + b"connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n\r\n",
        POST + b"content-length: x\r\n\r\n",
    ],
)
async def test_nonsense_is_answered_and_not_logged(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 ")
        writer.close()
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "begin",
    [b"", b"POST", POST, POST + b"\r\n" + POST, POST + b"content-length: 9\r\n\r\na", CHUNKED],
)
async def test_a_client_that_stops_sending_is_cut_off(
    begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin)
        await until_closed(reader)
        writer.close()


async def test_connections_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    async with served() as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        async with httpx.AsyncClient(verify=False) as client:

            async def status() -> int:
                return (await client.get(f"http://127.0.0.1:{port}/")).status_code

            async def refused() -> bool:
                return await status() == 503

            async def accepted() -> bool:
                return await status() == 200

            await until(refused)
            held[0][1].close()
            await until(accepted)
        held[1][1].close()
