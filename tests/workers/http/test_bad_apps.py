"""Apps that answer garbage, do not answer, or are not what they say: the run says so, and nothing
else suffers."""

import asyncio
import base64
import contextlib
import gzip
import json
import logging
import statistics
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from inngest_temporal.sdk.replies import MAX_REPLY_BYTES
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.http import caller, worker
from inngest_temporal_workers.http.addresses import ALLOW_VARIABLE
from tests import tiny_http
from tests.hand_app import (
    SDK_HEADERS,
    Answered,
    Call,
    HandApp,
    complete,
    function,
    hand_app,
    hashed,
    ops,
    planned,
    raw,
    register,
    step_run,
)
from tests.harness import registered, until
from tests.http_world import HttpWorld, http_world, served

KEY = "signkey-test-0123456789abcdef"
CLOUD = Settings(event_keys=("event-key",), signing_keys=(KEY,))
SLACK = 20
"""How many times longer a healthy run may take beside a bad app: the machine may be busy."""


def text(body: str, status: int = 206) -> Answered:
    """A reply with the headers of an SDK."""
    return Answered(status, body.encode(), SDK_HEADERS)


def op(**fields: Any) -> dict[str, Any]:
    return {"id": hashed("x"), "name": "x", **fields}


GARBAGE: dict[str, tuple[Answered, int, str]] = {
    "not-json": (text("{nope"), 3, "The reply is not valid JSON"),
    "not-utf8": (Answered(206, b"\xff\xfe", SDK_HEADERS), 3, "The reply is not valid UTF-8"),
    "empty": (text(""), 3, "not a list of operations"),
    "a-number": (text("7"), 3, "not a list of operations"),
    "nan": (text('[{"op":"StepRun","id":"x","data":NaN}]'), 3, "not valid JSON"),
    "deep": (text("[" * 5_000 + "]" * 5_000), 3, "nested too deeply"),
    "null-elements": (ops(None, None), 3, "not an operation"),
    "text-elements": (ops("StepRun"), 3, "not an operation"),
    "unknown-op": (ops(op(op="Frobnicate")), 3, "unknown operation: frobnicate"),
    "no-id": (ops({"op": "StepRun", "data": 1}), 3, "no id"),
    "odd-id": (ops({"op": "StepRun", "id": {"a": 1}}), 3, "no id"),
    "1001-ops": (ops(*(planned(f"s{n}") for n in range(1_001))), 1, "step limit"),
    "long-sleep": (ops(op(op="Sleep", name="10000h")), 1, "longer than the limit"),
    "odd-condition": (
        ops(op(op="WaitForEvent", opts={"event": "e", "timeout": "1m", "if": "(("})),
        1,
        "failed to compile",
    ),
    "empty-for-ever": (ops(), 11, "nothing to do"),
    "same-for-ever": (ops(step_run("a", 1)), 13, "nothing to do"),
    "same-failure-for-ever": (
        ops({**step_run("a"), "op": "StepFailed", "error": {"name": "E", "message": "m"}}),
        12,
        "nothing to do",
    ),
    "asked-for-and-not-there": (
        ops(planned("a")),
        12,
        "does not reach it when it is to be executed",
    ),
    "twice-planned": (
        ops(planned("a"), planned("a")),
        12,
        "does not reach it when it is to be executed",
    ),
    "200-without-sdk": (raw(200, '"ok"'), 3, "not from an SDK"),
    "206-without-sdk": (raw(206, "[]"), 3, "not from an SDK"),
    "proxy-page": (raw(502, "<html>Bad gateway</html>", server="nginx"), 3, "HTTP 502"),
    "not-found": (raw(404, "not here"), 3, "HTTP 404"),
    "unauthorized": (raw(401, '{"message":"Unauthorized"}', x_inngest_sdk_handled="1"), 3, "401"),
    "huge": (text('"' + "x" * MAX_REPLY_BYTES + '"', 200), 3, "exceeds the maximum size"),
    "no-envelope": (text("{}", 201), 3, "no status"),
    "odd-envelope": (text('{"status":"200","body":7}', 201), 3, "no status"),
    "odd-error": (text("[[1]]", 500), 3, "[[1]]"),
    "bad-encoding": (
        Answered(206, b"no gzip", SDK_HEADERS | {"content-encoding": "gzip"}),
        3,
        "failed",
    ),
}
"""Kind -> the reply, how often the app is called, and what the run says."""

BROTLI = base64.b64decode(
    "G7MA+C0O7Hae3VjkaXpXHXYicoNDjThNk6TGU4elL7vq9kJE55b6Q4MzgRaFa2tikEqgSQS4eMb0DlgH"
    "BYoByVx3cf59ZU520mWh2tToaOOhF3WHBwY="
)
"""`[complete("x" * 100)]`, as Node compresses it."""


async def healthy(_: Call) -> Answered:
    return ops(complete("well"))


async def pace(world: HttpWorld, runs: int = 7) -> float:
    """Seconds that a run of the healthy app takes."""
    found = []
    for _ in range(runs):
        began = time.monotonic()
        assert (await world.run("well/fn"))["output"] == "well"
        found.append(time.monotonic() - began)
    return statistics.median(found)


@contextlib.asynccontextmanager
async def unharmed(world: HttpWorld) -> AsyncIterator[None]:
    """Check that a healthy app goes on as before while the block runs."""
    async with hand_app(world, healthy, app="well"):
        before = await pace(world)
        pacing = asyncio.create_task(pace(world))
        yield
        assert await pacing < SLACK * before
        assert await pace(world) < SLACK * before


@pytest.mark.timeout(300)
async def test_garbage_fails_the_run_which_says_where_and_why(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async def behaviour(call: Call) -> Answered:
        return GARBAGE[call.function.removeprefix("bad-")][0]

    bad = HandApp(behaviour)
    async with http_world(client) as world, served(lambda _: bad) as url:
        functions = [function("bad", kind, url) for kind in GARBAGE]
        assert (await register(world, "bad", url, *functions)).status_code == 200
        async with unharmed(world):
            events = {kind: await world.send(f"bad/{kind}") for kind in GARBAGE}
            runs = {kind: (await world.runs(event))[0] for kind, event in events.items()}
    calls = dict.fromkeys(GARBAGE, 0)
    for call in bad.calls:
        calls[call.function.removeprefix("bad-")] += 1
    errors = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    said = {kind: (run["status"], run["output"]["message"]) for kind, run in runs.items()}
    for kind, (_, count, cause) in GARBAGE.items():
        status, message = said[kind]
        assert status == "Failed", kind
        assert cause in message, (kind, message)
        assert calls[kind] == count, (kind, calls[kind])
        logged = [each for each in errors if runs[kind]["run_id"] in each]
        assert len([each for each in logged if cause in each]) == 1, (kind, logged)
    # A reply that is not of an SDK may come from anywhere, so the URL is named.
    for kind in ("not-json", "proxy-page", "unauthorized", "200-without-sdk", "huge"):
        assert url in said[kind][1], said[kind]


async def test_what_a_reply_says_twice_or_of_other_steps_counts_once(client: Client) -> None:
    """Replies that no SDK gives, and that must not confuse a run."""

    async def behaviour(call: Call) -> Answered:
        target = call.query["stepId"]
        if target == hashed("a"):
            # It fails for another step, which is planned beside it.
            error = {"name": "E", "message": "m"}
            return ops({**step_run("b"), "op": "StepError", "error": error}, step_run("a", 1))
        if target == hashed("b"):
            await until(lambda: any(hashed("a") == each.query["stepId"] for each in app.calls))
            return ops(step_run("b", 2), step_run("b", 3), step_run("a", 4))
        if not call.steps:
            return ops(planned("a"), planned("b"), planned("a"))
        return ops(complete([call.ctx["stack"]["stack"], call.steps]))

    async with http_world(client) as world, hand_app(world, behaviour) as app:
        run = await world.run("hand/fn")
    assert run["status"] == "Completed", run
    stack, steps = run["output"]
    assert sorted(stack) == sorted([hashed("a"), hashed("b")])
    assert steps[hashed("b")] == {"data": 2}


async def test_an_app_that_hangs_holds_up_nothing_else(client: Client) -> None:
    go = asyncio.Event()

    async def behaviour(call: Call) -> Answered:
        await go.wait()
        return ops(complete("at last"))

    async with http_world(client) as world, hand_app(world, behaviour, app="bad") as bad:
        async with unharmed(world):
            events = [await world.send("bad/fn", {"n": n}) for n in range(30)]
            await until(lambda: len(bad.calls) == 30)
        first = bad.calls[0]
        async with httpx.AsyncClient(base_url=world.url, verify=False) as http:
            assert (await http.delete(f"/v1/runs/{first.run}")).is_success
        [run] = await world.runs(events.pop(first.body["event"]["data"]["n"]))
        assert run["status"] == "Cancelled"
        go.set()
        rest = [run for each in events for run in await world.runs(each)]
    assert [run["output"] for run in rest] == ["at last"] * 29


async def test_an_app_that_hangs_leaves_room_in_the_workers(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has more calls than a worker can make at once; other apps get their share."""
    monkeypatch.setattr(worker, "MAX_CALLS", 6)
    monkeypatch.setattr(caller, "MAX_CALLS", 2)
    monkeypatch.setattr(caller, "MAX_TURNS", 4)
    go = asyncio.Event()

    async def behaviour(call: Call) -> Answered:
        await go.wait()
        return ops(complete("at last"))

    async with http_world(client) as world, hand_app(world, behaviour, app="bad") as bad:
        async with hand_app(world, healthy, app="well"):
            events = [await world.send("bad/fn") for _ in range(12)]
            await until(lambda: len(bad.calls) == 2)
            for _ in range(3):
                assert (await world.run("well/fn"))["output"] == "well"
        go.set()
        runs = [run for event in events for run in await world.runs(event)]
    assert [run["output"] for run in runs] == ["at last"] * 12
    assert [call.ctx["attempt"] for call in bad.calls] == [0] * 12


async def test_an_app_that_breaks_connections_is_called_once_for_each_attempt(
    client: Client,
) -> None:
    """Other apps are not affected."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 206 X\r\nx-inngest-sdk: js:v4\r\ncontent-length: 99\r\n\r\n[")
        await writer.drain()
        writer.close()

    async def noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"220 mail.example.com ESMTP\r\n" * 10)
        await writer.drain()
        writer.close()

    asked: list[bytes] = []
    async with http_world(client) as world, unharmed(world):
        for n, answer in enumerate((reset, cut, noise)):
            asked.clear()
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
            async with server:
                app = f"bad{n}"
                await register(world, app, url, function(app, "fn", url, retries=1))
                run = await world.run(f"{app}/fn")
            assert run["status"] == "Failed"
            assert url in run["output"]["message"]
            assert len(asked) == 2, answer


async def test_an_app_may_redirect_to_another_place(client: Client) -> None:
    """The body goes along. Redirects in circles, or to nowhere, fail the run."""
    async with (
        http_world(client) as world,
        served(lambda _: HandApp(healthy)) as there,
        tiny_http.serving(lambda asked: answers[asked.target.split("?")[0]]) as server,
    ):
        answers = {
            "/once": tiny_http.reply(308, location=f"{there}?fnId=bad-fn&stepId=step"),
            "/post": tiny_http.reply(302, location=f"{there}?fnId=bad-fn&stepId=step"),
            "/circle": tiny_http.reply(307, location="/circle"),
            "/file": tiny_http.reply(307, location="file:///etc/passwd"),
            "/nowhere": tiny_http.reply(307, location="http://"),
            "/lost": tiny_http.reply(307),
        }
        found = {}
        for path in answers:
            url, app = server.url + path, path[1:]
            answer = await register(world, app, url, function(app, "fn", url, retries=0))
            assert answer.status_code == 200
            found[path] = await world.run(f"{app}/fn")
    assert [found[path]["output"] for path in ("/once", "/post")] == ["well", "well"]
    for path in ("/circle", "/file", "/nowhere", "/lost"):
        assert found[path]["status"] == "Failed"
        assert path in found[path]["output"]["message"]
    assert "redirects more than 10 times" in found["/circle"]["output"]["message"]


async def test_in_production_an_app_redirects_to_itself_and_to_public_addresses_alone(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app can't lead us to what only we can reach, unless that is allowed."""
    async with (
        served(lambda _: HandApp(healthy)) as inside,
        tiny_http.serving(lambda asked: answers[asked.target.split("?")[0]]) as server,
    ):
        other = f"{inside}?fnId=x&stepId=step"
        answers = {
            "/inside": tiny_http.reply(307, location=other),
            "/name": tiny_http.reply(307, location=other.replace("127.0.0.1", "localhost")),
            "/metadata": tiny_http.reply(307, location="http://169.254.169.254/latest"),
            "/itself": tiny_http.reply(307, location="/there"),
            "/there": tiny_http.reply(200, '"well"', x_inngest_sdk="js:v4"),
        }

        async def run(world: HttpWorld, path: str) -> dict[str, Any]:
            url, app = server.url + path, path[1:]
            made = function(app, "fn", url, retries=0)
            assert (await register(world, app, url, made, key=KEY)).status_code == 200
            return await world.run(f"{app}/fn")

        async with http_world(client, settings=CLOUD) as world:
            for path in ("/inside", "/name", "/metadata"):
                found = await run(world, path)
                assert found["status"] == "Failed"
                assert "has no public address" in found["output"]["message"]
            assert (await run(world, "/itself"))["output"] == "well"
        monkeypatch.setenv(ALLOW_VARIABLE, "localhost")
        async with http_world(client, settings=CLOUD) as world:
            assert (await run(world, "/name"))["output"] == "well"
            assert (await run(world, "/inside"))["status"] == "Failed"


async def test_replies_may_be_compressed(client: Client) -> None:
    async def behaviour(call: Call) -> Answered:
        encoding = call.function.removeprefix("hand-")
        assert encoding in call.headers["accept-encoding"]
        plain = json.dumps([complete("x" * 100)]).encode()
        body = {"gzip": gzip.compress(plain), "br": BROTLI}[encoding]
        return Answered(206, body, SDK_HEADERS | {"content-encoding": encoding})

    async with http_world(client) as world, served(lambda _: HandApp(behaviour)) as url:
        functions = [function("hand", each, url) for each in ("gzip", "br")]
        await register(world, "hand", url, *functions)
        runs = [await world.run(f"hand/{each}") for each in ("gzip", "br")]
    assert [run["output"] for run in runs] == ["x" * 100] * 2


async def test_a_small_reply_that_is_large_inside_is_not_unpacked(client: Client) -> None:
    bomb = gzip.compress(b" " * (200 * 1024 * 1024), 1)

    async def behaviour(call: Call) -> Answered:
        return Answered(206, bomb, SDK_HEADERS | {"content-encoding": "gzip"})

    async with http_world(client) as world, hand_app(world, behaviour, retries=0):
        run = await world.run("hand/fn")
    assert run["output"]["name"] == "output_too_large"


async def test_runs_under_way_follow_a_function_that_moves_or_is_removed(client: Client) -> None:
    """A function that was removed is called where it was; one that moved, where it is now."""
    nap = {"op": "Sleep", "id": hashed("nap"), "name": "2s", "opts": {}}

    async def old(call: Call) -> Answered:
        if not call.steps:
            return ops(nap)
        return text('{"name":"Error","message":"no such function"}', 500)

    async def new(call: Call) -> Answered:
        return ops(complete("moved"))

    async with http_world(client) as world, served(lambda _: HandApp(old)) as there:
        removed, moved = (function("bad", id, there, retries=1) for id in ("removed", "moved"))
        await register(world, "bad", there, removed, moved)
        events = [await world.send(f"bad/{id}") for id in ("removed", "moved")]
        for event in events:
            await registered(client.get_workflow_handle(await run_of(world, event)))
        async with served(lambda _: HandApp(new)) as elsewhere:
            answer = await register(world, "bad", elsewhere, function("bad", "moved", elsewhere))
            assert answer.json()["modified"]
            [[first], [second]] = [await world.runs(event) for event in events]
            async with httpx.AsyncClient(base_url=world.url, verify=False) as http:
                sent = await http.post("/e/dev", json={"name": "bad/removed"})
                assert sent.headers["x-inngest-unmatched"] == "bad/removed"
    assert (first["status"], first["output"]["message"]) == ("Failed", "no such function")
    assert second["output"] == "moved"


async def run_of(world: HttpWorld, event: str) -> str:
    """The id of an event's only run, once it is listed."""
    async with httpx.AsyncClient(base_url=world.url, verify=False) as http:

        async def find() -> Any:
            return (await http.get(f"/v1/events/{event}/runs")).json()["data"]

        [run] = await until(find)
    return str(run["run_id"])


async def test_an_app_may_not_take_the_functions_of_another(client: Client) -> None:
    async def thief(call: Call) -> Answered:
        return ops(complete("stolen"))

    async with (
        http_world(client) as world,
        hand_app(world, healthy, app="well"),
        served(lambda _: HandApp(thief)) as url,
    ):
        # Apps are ordered by their ids: the first one with a function has it.
        stolen = {**function("a", "fn", url), "id": "well-fn", "triggers": [{"event": "well/fn"}]}
        answer = await register(world, "a", url, stolen)
        assert answer.status_code == 400
        assert "well-fn" in answer.json()["error"]
        assert (await world.run("well/fn"))["output"] == "well"
        # An app's own id is free for all: whoever registers it last has it, as in Inngest.
        answer = await register(world, "well", url, function("well", "fn", url))
        assert answer.status_code == 200

        async def is_there() -> bool:
            return bool((await world.run("well/fn"))["output"] == "stolen")

        await until(is_there)  # workers look at the registry twice a second


async def test_a_run_waits_for_an_app_that_is_down_for_a_while(client: Client) -> None:
    """Nothing listens at first; then the app is there again, at the same place."""
    async with http_world(client, retry_interval=timedelta(milliseconds=500)) as world:
        async with hand_app(world, healthy, app="down", retries=20) as app:
            assert (await world.run("down/fn"))["output"] == "well"
            place = app.calls[0].headers["host"]
        async with unharmed(world):
            event = await world.send("down/fn")
            await registered(client.get_workflow_handle(await run_of(world, event)))
        async with served(lambda _: app, port=int(place.split(":")[1])):
            [run] = await world.runs(event)
    assert run["output"] == "well"
    assert app.calls[-1].ctx["attempt"] > 0


async def test_an_app_that_is_nowhere_fails_the_run(client: Client) -> None:
    async with http_world(client) as world:
        url = "http://127.0.0.1:1/api"
        await register(world, "down", url, function("down", "fn", url, retries=1))
        run = await world.run("down/fn")
        unknown = "http://nowhere.invalid/api"
        await register(world, "down", unknown, function("down", "fn", unknown, retries=1))
        other = await world.run("down/fn")
    assert run["status"] == other["status"] == "Failed"
    assert "127.0.0.1:1" in run["output"]["message"]
    assert "refused" in run["output"]["message"]
    assert "nowhere.invalid" in other["output"]["message"]


@pytest.mark.parametrize("stack", [None, "Error: m\n    at work (app.mjs:1:1)"])
async def test_a_function_that_fails_by_a_steps_error_is_logged_once(
    client: Client, caplog: pytest.LogCaptureFixture, stack: str | None
) -> None:
    """It is logged as the step's failure if code of the app has failed. That there is no function
    to invoke was not logged before, so it is logged as the handler's failure."""
    caplog.set_level(logging.INFO)

    async def behaviour(call: Call) -> Answered:
        [memo] = call.steps.values() or [None]
        if memo is not None:
            return Answered(500, json.dumps(memo["error"]).encode(), SDK_HEADERS)
        if stack is None:
            opts = {"function_id": "hand-none", "payload": {}}
            return ops(op(op="InvokeFunction", opts=opts))
        error = {"name": "E", "message": "m", "stack": stack}
        return ops({**step_run("x"), "op": "StepFailed", "error": error})

    async with http_world(client) as world, hand_app(world, behaviour, retries=0):
        event = await world.send("hand/fn")
        run = (await world.runs(event))[0]
    assert run["status"] == "Failed"
    lines = [each.getMessage() for each in caplog.records if run["run_id"] in each.getMessage()]
    said = [line.partition(" of hand-fn failed in attempt 1 of 1, ") for line in lines]
    assert [what for what, failed, _ in said if failed] == [
        "The handler" if stack is None else 'Step "x"'
    ]
