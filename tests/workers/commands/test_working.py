"""The worker process starts once Temporal is there, whatever happens before."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

import inngest_temporal as inngest
from inngest_temporal.routing.registry import Follower
from inngest_temporal_workers.commands.health import health_app
from inngest_temporal_workers.commands.processes import ProcessError, listen, parse_address, serving
from inngest_temporal_workers.commands.temporal import Waiting
from inngest_temporal_workers.commands.working import WorkerOptions, WorkerProcess, curl_text
from tests.conftest import Proxy
from tests.harness import TRIGGER, new_client, until


def function() -> inngest.Function[None]:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> None:
        pass

    return fn


@asynccontextmanager
async def started() -> AsyncIterator[WorkerProcess]:
    """The command's worker of one function, in this process; it is stopped at the end."""
    process = WorkerProcess(WorkerOptions("app.py", [function()]))
    stop = asyncio.Event()
    running = asyncio.create_task(process.run(stop))
    try:
        yield process
        assert not running.done(), await running
    finally:
        stop.set()
        await running


async def is_ready(process: WorkerProcess) -> bool:
    return await process.problem() is None


@pytest.mark.parametrize("chunks", [2, 4, 8, 12, 16])
async def test_a_worker_starts_although_temporal_is_away_for_a_moment_meanwhile(
    proxy: Proxy,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    chunks: int,
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", proxy.address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", namespace)
    proxy.break_after(chunks)
    async with started() as process:
        await until(lambda: proxy.is_broken)
        await asyncio.sleep(0.5)  # so that what the worker tries meanwhile fails
        await proxy.start()
        await until(lambda: is_ready(process), 90)
    printed = capsys.readouterr()
    assert "Functions of app.py" in printed.out
    assert printed.err.count("Trying until") <= 1


async def test_a_worker_waits_for_its_namespace(
    temporal_address: str,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"{client.namespace}-later"
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", name)
    async with started() as process:
        said = ""

        def told() -> str:
            nonlocal said
            said += capsys.readouterr().err
            return said

        await until(lambda: "there is no such namespace. Create it" in told())
        assert await process.problem() == "The functions are not published yet."
        request = RegisterNamespaceRequest(namespace=name)
        request.workflow_execution_retention_period.FromSeconds(86400)
        await client.workflow_service.register_namespace(request)
        await until(lambda: is_ready(process), 90)
        assert told().count("namespace") == said.count("namespace")


async def test_a_worker_says_that_it_is_ready_when_every_ingress_has_read_the_registry(
    temporal_address: str,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By then, the follower of an ingress, which nobody tells to look, knows the functions."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", client.namespace)
    async with Follower(client) as ingress:
        before = await ingress.ready(30)
        assert before.function("app-fn") is None
        async with started() as process:
            await until(lambda: "Functions of app.py" in capsys.readouterr().out, 90)
            assert ingress.snapshot is not None
            assert ingress.snapshot.function("app-fn") is not None
            await until(lambda: is_ready(process))


async def test_health_and_ready_tell_whether_the_process_lives_and_events_reach_it(
    proxy: Proxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", proxy.address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", namespace)
    await proxy.stop()
    listener = listen("127.0.0.1", 0, "--health")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with (
        started() as process,
        serving(health_app(process.problem), listener),
        httpx.AsyncClient(base_url=url, timeout=30, verify=False) as http,
    ):
        assert (await http.get("/health")).status_code == 200
        early = await http.get("/ready")
        assert (early.status_code, early.json()["message"]) == (
            503,
            "The functions are not published yet.",
        )
        await proxy.start()

        async def ready() -> bool:
            return (await http.get("/ready")).status_code == 200

        await until(ready, 90)
        await proxy.stop()
        lost = await http.get("/ready")
        assert lost.status_code == 503
        assert "Temporal can't be reached" in lost.json()["message"]
        assert (await http.get("/health")).status_code == 200
        await proxy.start()
        await until(ready, 90)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        (":80", ("0.0.0.0", 80)),
        ("[::1]:80", ("::1", 80)),
        ("80", None),
        ("host:", None),
        ("host:0", None),
        ("host:99999", None),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, place: tuple[str, int] | None) -> None:
    if place is None and text != "80":
        with pytest.raises(ProcessError, match="write HOST:PORT"):
            parse_address("--health", text)
    else:
        assert parse_address("--health", text) == (place or ("0.0.0.0", 80))


def test_the_printed_curl_is_for_an_event_that_may_be_sent() -> None:
    client = new_client()

    @client.create_function(
        fn_id="fn", trigger=inngest.TriggerEvent(event="inngest/function.failed")
    )
    async def on_any_failure(ctx: inngest.Context) -> None:
        pass

    @client.create_function(fn_id="other", trigger=inngest.TriggerEvent(event="app/*"))
    async def other(ctx: inngest.Context) -> None:
        pass

    @client.create_function(
        fn_id="conditional",
        trigger=inngest.TriggerEvent(event="app/rare", expression="event.data.n > 5"),
    )
    async def conditional(ctx: inngest.Context) -> None:
        pass

    assert curl_text([on_any_failure], "http://ingress") == ""
    expected = """ -d '{"name": "app/example", "data": {}}'"""
    assert expected in curl_text([on_any_failure, conditional, other], "http://ingress")


def test_connections_of_a_listener_send_replies_at_once() -> None:
    with (
        listen("127.0.0.1", 0, "--port") as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_command_that_does_one_thing_waits_for_temporal_for_a_while_only() -> None:
    away = RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
    Waiting().on(away)
    with pytest.raises(ProcessError, match=r"can't be reached .* It took too long"):
        Waiting(seconds=-1).on(away)
