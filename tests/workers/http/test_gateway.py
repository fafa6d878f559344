"""Requests that steps leave to us, made to servers in this process."""

import gzip
import json
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from inngest_temporal.drivers.protocol import MAX_OUTPUT_BYTES, ErrorInfo
from inngest_temporal.sdk.ops import GatewayCall
from inngest_temporal_workers.http.addresses import AddressPolicy
from inngest_temporal_workers.http.gateway import MAX_REDIRECTS, Gateway
from tests.tiny_http import Asked, Server, reply, serving

CERTIFICATE = Path(__file__).parent / "gateway_test.pem"
"""The certificate of `gateway.test`, with its key."""
HERE = AddressPolicy.from_env(dev=False, environ={"INNGEST_TEMPORAL_GATEWAY_ALLOW": "127.0.0.1"})
SECRET = "sk-very-secret"


async def perform(
    call: GatewayCall, policy: AddressPolicy = HERE, context: ssl.SSLContext | None = None
) -> tuple[Any, ErrorInfo | None]:
    async with Gateway(policy, context) as gateway:
        return await gateway.perform(call)


async def failure(call: GatewayCall, policy: AddressPolicy = HERE) -> ErrorInfo:
    data, error = await perform(call, policy)
    assert data is None
    assert error is not None
    return error


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host -> answers, each of one address or more, separated by spaces. Each question uses up an
    answer, except the last one."""
    hosts: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in hosts:
            return list(real(host, port, *args, **kwargs))
        found = hosts[name]
        answer = found.pop(0) if len(found) > 1 else found[0]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in answer.split()
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return hosts


class TestFetch:
    async def test_any_status_is_a_success(self) -> None:
        async with serving(reply(418, "té", x_a="1", content_type="text/plain")) as server:
            call = GatewayCall("fetch", f"{server.url}/p?q=1", "PUT", {"X-B": "2"}, "hi")
            assert await perform(call) == (
                {
                    "url": f"{server.url}/p?q=1",
                    "headers": {"x-a": "1", "content-type": "text/plain"},
                    "body": "té",
                    "status_code": 418,
                },
                None,
            )
            asked = server.asked[0]
            assert (asked.method, asked.target, asked.body) == ("PUT", "/p?q=1", b"hi")
            assert asked.headers["x-b"] == "2"
            assert asked.headers["host"] == f"127.0.0.1:{server.port}"

    async def test_a_request_may_have_no_body(self) -> None:
        async with serving(reply(200, "x")) as server:
            _, error = await perform(GatewayCall("fetch", server.url, "get"))
            assert error is None
            assert server.asked[0].method == "GET"
            assert "content-length" not in server.asked[0].headers

    @pytest.mark.parametrize("status", [204, 205, 304])
    async def test_a_response_may_have_no_body(self, status: int) -> None:
        async with serving(reply(status)) as server:
            data, _ = await perform(GatewayCall("fetch", server.url, "GET"))
            assert (data["status_code"], data["body"]) == (status, None)

    async def test_a_compressed_response_is_unpacked(self) -> None:
        packed = gzip.compress(b"hello")
        async with serving(reply(200, packed, content_encoding="gzip")) as server:
            data, _ = await perform(GatewayCall("fetch", server.url))
            assert (data["body"], data["headers"]) == ("hello", {})

    async def test_a_response_in_another_encoding_is_decoded(self) -> None:
        answer = reply(200, "é".encode("latin-1"), content_type="text/plain; charset=latin-1")
        async with serving(answer) as server:
            data, _ = await perform(GatewayCall("fetch", server.url))
            assert data["body"] == "é"

    @pytest.mark.parametrize("charset", ["nonsense", "utf-8", "base64"])
    async def test_bytes_that_are_not_in_their_encoding_are_replaced(self, charset: str) -> None:
        answer = reply(200, b"\xff", content_type=f"text/plain; charset={charset}")
        async with serving(answer) as server:
            data, _ = await perform(GatewayCall("fetch", server.url))
            assert data["body"] == "\ufffd"

    async def test_headers_of_the_connection_are_ours(self) -> None:
        headers = {"Host": "evil", "Content-Length": "99", "Transfer-Encoding": "chunked"}
        async with serving(reply(200)) as server:
            call = GatewayCall("fetch", server.url, "POST", headers, "abc")
            _, error = await perform(call)
            assert error is None
            assert server.asked[0].headers["host"] == f"127.0.0.1:{server.port}"
            assert server.asked[0].body == b"abc"

    async def test_a_user_in_the_url_becomes_basic_authorization(self) -> None:
        async with serving(reply(200)) as server:
            url = server.url.replace("http://", "http://me:s%40crt@")
            data, _ = await perform(GatewayCall("fetch", url))
            assert server.asked[0].headers["authorization"] == "Basic bWU6c0BjcnQ="
            assert data["url"] == server.url

    @pytest.mark.parametrize(
        "call",
        [
            GatewayCall("fetch", "ftp://x/y"),
            GatewayCall("fetch", "file:///etc/passwd"),
            GatewayCall("fetch", "nonsense"),
            GatewayCall("fetch", "http://"),
            GatewayCall("fetch", "http://127.0.0.1:99999999/"),
            GatewayCall("fetch", "http://127.0.0.1:1/", "CONNECT"),
            GatewayCall("fetch", "http://127.0.0.1:1/", "trace"),
        ],
    )
    async def test_an_impossible_request_is_not_tried_again(self, call: GatewayCall) -> None:
        error = await failure(call)
        assert (error.name, error.retriable) == ("GatewayError", False)

    @pytest.mark.parametrize(
        ("method", "headers"),
        [
            ("A B", {}),
            ("GET", {"x": f"{SECRET}\r\ninjected: 1"}),
            ("GET", {"x y": SECRET}),
            ("GET", {"x": "\ud800"}),
        ],
    )
    async def test_a_request_that_is_not_http_is_not_sent(
        self, method: str, headers: dict[str, str]
    ) -> None:
        async with serving(reply(200)) as server:
            error = await failure(GatewayCall("fetch", server.url, method, headers))
            assert not error.retriable
            assert SECRET not in error.message
            assert server.asked == []

    @pytest.mark.parametrize("size", [MAX_OUTPUT_BYTES + 1, MAX_OUTPUT_BYTES - 5])
    async def test_a_response_that_is_too_large_is_not_tried_again(self, size: int) -> None:
        async with serving(reply(200, b"x" * size)) as server:
            error = await failure(GatewayCall("fetch", server.url))
            assert str(MAX_OUTPUT_BYTES) in error.message
            assert not error.retriable

    async def test_a_small_response_that_is_large_inside_is_not_tried_again(self) -> None:
        packed = gzip.compress(b"0" * 50_000_000)
        async with serving(reply(200, packed, content_encoding="gzip")) as server:
            assert not (await failure(GatewayCall("fetch", server.url))).retriable

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"garbage\r\n\r\n",
            b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nabc",
            reply(200, b"no gzip", content_encoding="gzip"),
        ],
    )
    async def test_a_server_that_breaks_off_is_tried_again(self, answer: bytes) -> None:
        async with serving(answer) as server:
            error = await failure(GatewayCall("fetch", server.url))
            assert (error.name, error.retriable) == ("GatewayError", True)
            assert error.message.startswith("127.0.0.1 did not answer: ")

    async def test_a_server_that_does_not_listen_is_tried_again(self) -> None:
        async with serving(b"") as server:
            url = server.url
        assert (await failure(GatewayCall("fetch", url))).retriable

    async def test_a_name_that_is_not_known_is_tried_again(self) -> None:
        error = await failure(GatewayCall("fetch", "http://nobody.invalid/"))
        assert error.retriable
        assert "nobody.invalid" in error.message


class TestAddresses:
    async def test_private_addresses_are_refused(self) -> None:
        async with serving(reply(200)) as server:
            error = await failure(GatewayCall("fetch", server.url), AddressPolicy())
            assert not error.retriable
            assert "INNGEST_TEMPORAL_GATEWAY_ALLOW" in error.message
            assert server.asked == []

    @pytest.mark.parametrize(
        "host",
        [
            *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"),
            *("[::ffff:7f00:1]", "0", "localhost", "169.254.169.254"),
        ],
    )
    async def test_private_addresses_are_refused_in_any_notation(self, host: str) -> None:
        error = await failure(GatewayCall("fetch", f"http://{host}:9/"), AddressPolicy())
        assert not error.retriable
        assert "public address" in error.message

    async def test_everything_is_permitted_in_dev(self) -> None:
        async with serving(reply(200, "x")) as server:
            policy = AddressPolicy.from_env(dev=True, environ={})
            data, _ = await perform(GatewayCall("fetch", server.url), policy)
            assert data["body"] == "x"

    async def test_a_host_that_is_allowed_is_reached(self, names: dict[str, list[str]]) -> None:
        names["inner.test"] = ["127.0.0.1"]
        names["other.test"] = ["127.0.0.1"]
        policy = AddressPolicy(hosts=frozenset(["inner.test"]))
        async with serving(reply(200, "x")) as server:
            data, _ = await perform(
                GatewayCall("fetch", f"http://inner.test:{server.port}/"), policy
            )
            assert data["body"] == "x"
            assert server.asked[0].headers["host"] == f"inner.test:{server.port}"
            other = GatewayCall("fetch", f"http://other.test:{server.port}/")
            assert "public address" in (await failure(other, policy)).message

    async def test_only_permitted_ones_of_several_addresses_are_used(
        self, names: dict[str, list[str]]
    ) -> None:
        names["both.test"] = ["10.255.255.1 127.0.0.1"]
        async with serving(reply(200, "x")) as server:
            call = GatewayCall("fetch", f"http://both.test:{server.port}/")
            assert (await perform(call))[0]["body"] == "x"

    async def test_the_next_address_is_used_if_one_does_not_answer(
        self, names: dict[str, list[str]]
    ) -> None:
        names["both.test"] = ["127.0.0.2 127.0.0.1"]
        async with serving(reply(200, "x")) as server:
            call = GatewayCall("fetch", f"http://both.test:{server.port}/")
            policy = AddressPolicy(everything=True)
            assert (await perform(call, policy))[0]["body"] == "x"

    async def test_what_was_checked_is_what_is_connected_to(
        self, names: dict[str, list[str]]
    ) -> None:
        """The name has another address when it is looked up again."""
        names["rebind.test"] = ["127.0.0.1", "127.0.0.2"]
        async with serving(reply(200, "x")) as server:
            call = GatewayCall("fetch", f"http://rebind.test:{server.port}/")
            assert (await perform(call))[0]["body"] == "x"
            assert "public address" in (await failure(call)).message

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirect_to_a_private_address_is_refused(self, status: int) -> None:
        async with serving(reply(status, location="http://169.254.169.254/latest")) as server:
            error = await failure(GatewayCall("fetch", server.url))
            assert "169.254.169.254 has no public address" in error.message

    async def test_tls_is_checked_against_the_name(self, names: dict[str, list[str]]) -> None:
        names["gateway.test"] = names["other.test"] = ["127.0.0.1"]
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.load_cert_chain(CERTIFICATE)
        asked: list[str | None] = []
        own.sni_callback = lambda _, name, __: asked.append(name)
        trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
        async with serving(reply(200, "x"), own) as server:
            call = GatewayCall("fetch", f"https://gateway.test:{server.port}/")
            assert (await perform(call, HERE, trusting))[0]["body"] == "x"
            assert asked == ["gateway.test"]
            other = GatewayCall("fetch", f"https://other.test:{server.port}/")
            data, error = await perform(other, HERE, trusting)
            assert data is None
            assert error is not None
            assert "certificate" in error.message
            # By default, its authority is not trusted at all.
            assert "certificate" in (await failure(call)).message


class TestRedirects:
    @pytest.mark.parametrize(
        ("status", "method", "expected"),
        [
            (301, "POST", "GET"),
            (302, "POST", "GET"),
            (303, "POST", "GET"),
            (303, "PUT", "GET"),
            (303, "HEAD", "HEAD"),
            (302, "PUT", "PUT"),
            (307, "POST", "POST"),
            (308, "POST", "POST"),
        ],
    )
    async def test_the_method_changes_as_in_browsers(
        self, status: int, method: str, expected: str
    ) -> None:
        def answer(asked: Asked) -> bytes:
            return reply(status, location="/b?c=d") if asked.target == "/a" else reply(200)

        async with serving(answer) as server:
            headers = {"Content-Type": "text/plain", "Authorization": "t"}
            data, error = await perform(
                GatewayCall("fetch", f"{server.url}/a", method, headers, "abc")
            )
            assert error is None
            assert data["url"] == f"{server.url}/b?c=d"
            second = server.asked[1]
            assert (second.method, second.target) == (expected, "/b?c=d")
            assert second.body == (b"" if expected == "GET" else b"abc")
            assert ("content-type" in second.headers) is (expected != "GET")
            assert second.headers["authorization"] == "t"

    async def test_secrets_stay_at_their_origin(self) -> None:
        async with serving(reply(200)) as other:
            async with serving(lambda _: reply(307, location=other.url)) as server:
                headers = {"Authorization": "a", "Cookie": "b", "X-Api-Key": "c", "X-Other": "d"}
                await perform(GatewayCall("fetch", server.url, "POST", headers))
            assert server.asked[0].headers["cookie"] == "b"
            kept = {"authorization", "cookie", "x-api-key", "x-other"} & set(other.asked[0].headers)
            assert kept == {"x-other"}

    async def test_redirects_in_circles_end(self) -> None:
        async with serving(reply(302, location="/")) as server:
            error = await failure(GatewayCall("fetch", server.url))
            assert "redirects" in error.message
            assert not error.retriable
            assert len(server.asked) == MAX_REDIRECTS + 1

    @pytest.mark.parametrize("location", ["ftp://x/", "http://", "http://\x7f/"])
    async def test_a_redirect_to_nowhere_is_not_tried_again(self, location: str) -> None:
        async with serving(reply(302, location=location)) as server:
            assert not (await failure(GatewayCall("fetch", server.url))).retriable

    async def test_a_redirect_without_a_location_is_a_response(self) -> None:
        async with serving(reply(302, "x")) as server:
            data, _ = await perform(GatewayCall("fetch", server.url))
            assert (data["status_code"], data["body"]) == (302, "x")


class TestInfer:
    BODY = '{"messages":[]}'

    def call(self, server: Server, form: str, **headers: str) -> GatewayCall:
        return GatewayCall("ai", f"{server.url}/v1", "POST", headers, self.BODY, SECRET, form)

    @pytest.mark.parametrize(
        ("form", "header", "value"),
        [
            ("openai-chat", "authorization", f"Bearer {SECRET}"),
            ("openai-responses", "authorization", f"Bearer {SECRET}"),
            ("anthropic", "x-api-key", SECRET),
            ("bedrock", "authorization", SECRET),
            ("something new", "authorization", f"Bearer {SECRET}"),
        ],
    )
    async def test_the_key_goes_where_the_provider_expects_it(
        self, form: str, header: str, value: str
    ) -> None:
        async with serving(reply(200, '{"choices":[1]}')) as server:
            assert await perform(self.call(server, form, Own="1")) == ({"choices": [1]}, None)
            asked = server.asked[0]
            assert (asked.method, asked.target, asked.body) == ("POST", "/v1", self.BODY.encode())
            assert asked.headers[header] == value
            assert asked.headers["own"] == "1"
            assert asked.headers["content-type"] == "application/json"
            others = {"authorization", "x-api-key"} - {header}
            assert others.isdisjoint(asked.headers)

    async def test_the_key_for_gemini_goes_into_the_query(self) -> None:
        async with serving(reply(200, "{}")) as server:
            await perform(self.call(server, "gemini"))
            assert server.asked[0].target == f"/v1?key={SECRET}"
            call = GatewayCall("ai", f"{server.url}/v1?key=own", auth_key=SECRET, format="gemini")
            await perform(call)
            assert server.asked[1].target == "/v1?key=own"

    async def test_a_call_may_have_no_key(self) -> None:
        async with serving(reply(200, "{}")) as server:
            await perform(GatewayCall("ai", server.url, body="{}"))
            assert "authorization" not in server.asked[0].headers

    async def test_an_answer_that_is_not_json_is_kept_as_text(self) -> None:
        async with serving(reply(200, "data: x")) as server:
            assert await perform(self.call(server, "openai-chat")) == ("data: x", None)

    @pytest.mark.parametrize("status", [300, 400, 401, 429, 500, 529])
    async def test_a_failure_shows_the_status_but_not_the_key(self, status: int) -> None:
        text = json.dumps({"error": {"message": f"no such key: {SECRET}"}})
        async with serving(reply(status, text, retry_after="7")) as server:
            error = await failure(self.call(server, "openai-chat"))
            assert (error.name, error.retriable) == ("AIGatewayError", True)
            assert error.retry_after_ms == 7_000
            assert error.message.startswith(f"The provider answered {status}: ")
            assert "no such key: ***" in error.message

    async def test_an_answer_that_is_too_large_is_not_tried_again(self) -> None:
        text = json.dumps("é" * (MAX_OUTPUT_BYTES // 5), ensure_ascii=False)
        async with serving(reply(200, text)) as server:
            assert not (await failure(self.call(server, "openai-chat"))).retriable

    @pytest.mark.parametrize("form", ["openai-chat", "anthropic", "gemini"])
    async def test_nothing_secret_is_logged(
        self, form: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        async with serving(lambda asked: reply(200, "{}")) as server:
            await perform(self.call(server, form))
        assert SECRET in f"{server.asked}"
        assert SECRET not in caplog.text
        error = await failure(self.call(server, form))
        assert SECRET not in f"{error}{caplog.text}"
