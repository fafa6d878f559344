"""Apps on the official SDKs for JavaScript and Python, as real processes: how they register, in dev
mode and with signing keys."""

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from temporalio.client import Client

from inngest_temporal.errors import Error, SyncError
from inngest_temporal.http.app import create_ingress
from inngest_temporal.http.syncing import sync, sync_client
from inngest_temporal.routing.registry import AppConfig, Follower
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.commands import apps
from inngest_temporal_workers.commands.apps import AppsFollower, read_url, registered
from inngest_temporal_workers.commands.children import in_background
from inngest_temporal_workers.commands.processes import ProcessError, listen, serving
from inngest_temporal_workers.plugin import system_worker
from tests import node
from tests.command_line import Command, Dev, Http, needs_proc, send_until_ready, starter
from tests.harness import until
from tests.ports import free_port

KEY, FALLBACK = "signkey-prod-0123456789abcdef", "signkey-prod-fedcba9876543210"
DEV = Settings(dev=True)
CLOUD = Settings(signing_keys=(KEY, FALLBACK), event_keys=("events",))
COMMANDS = {
    "js": ("node", str(node.FOLDER / "registering.mjs")),
    "py": (sys.executable, str(Path(__file__).parents[2] / "apps" / "registering.py")),
}
SDKS = {"js": ("js:v4.24.0", "express"), "py": ("py:v0.5.19", "fast_api")}
TOO_LATE = "No worker has handled the registration in time"
"""The answer on a busy machine, or if the embedded server has lost a workflow task, as it sometimes
does."""
both = pytest.mark.parametrize("language", ["js", "py"])


@dataclass
class SdkApp:
    """Starts an app, and restarts it."""

    language: str
    log: Path
    server: str = ""
    """Address of the ingress."""
    keys: tuple[str, ...] = ()
    """Signing key and fallback; without any, the app is in dev mode."""
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/inngest"

    @property
    def mode(self) -> dict[str, str]:
        if not self.keys:
            return {"INNGEST_DEV": self.server or "1"}
        names = ("INNGEST_SIGNING_KEY", "INNGEST_SIGNING_KEY_FALLBACK")
        return {
            "INNGEST_BASE_URL": self.server,
            "INNGEST_EVENT_KEY": "events",
            **dict(zip(names, self.keys, strict=False)),
        }

    @contextlib.asynccontextmanager
    async def running(self, functions: str = "a,b", **environ: str) -> AsyncIterator[None]:
        if self.language == "js":
            node.install()
        environ = {
            **self.mode,
            "PORT": str(self.port),
            "APP_ID": "shop",
            "FUNCTIONS": functions,
            **environ,
        }
        with node.process(*COMMANDS[self.language], log=self.log, **environ) as process:
            await until(self._answers)
            assert process.poll() is None, self.log.read_text()
            yield

    async def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(verify=False) as http:
                await http.get(self.url)
            return True
        return False


@dataclass
class Server:
    """An ingress, and a worker for entities."""

    client: Client
    settings: Settings
    url: str

    async def sync(self, app: SdkApp, path: str = "") -> AppConfig:
        url = app.url.replace("/api/inngest", path) if path else app.url
        dev, keys = self.settings.dev, self.settings.signing_keys
        async with sync_client() as http:
            for _ in range(5):
                try:
                    synced = await sync(http, url, dev=dev, keys=keys, server=self.url)
                    break
                except SyncError as error:
                    if TOO_LATE not in error.message:
                        raise
        return await registered(self.client, Follower(self.client), url, synced)

    async def apps(self) -> list[AppConfig]:
        return [*(await Follower(self.client).refresh()).apps]


@contextlib.asynccontextmanager
async def serve(client: Client, settings: Settings) -> AsyncIterator[Server]:
    listener = listen("127.0.0.1", 0, "--port")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with serving(create_ingress(client, settings), listener), system_worker(client):
        yield Server(client, settings, url)


@pytest_asyncio.fixture
async def server(client: Client) -> AsyncIterator[Server]:
    async with serve(client, DEV) as server:
        yield server


@pytest_asyncio.fixture
async def cloud(client: Client) -> AsyncIterator[Server]:
    async with serve(client, CLOUD) as server:
        yield server


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    with starter(tmp_path) as start:
        yield start


async def put(url: str, **headers: str) -> httpx.Response:
    """Ask an app to register, as the hook of a deploy does; again if the machine was too busy."""
    async with httpx.AsyncClient(timeout=20, verify=False) as http:
        for _ in range(5):
            reply = await http.put(url, headers=headers)
            if TOO_LATE not in reply.text:
                break
        return reply


async def functions_shown(server: str, *ids: str) -> bool:
    async with httpx.AsyncClient(verify=False) as http:
        shown = (await http.get(f"{server}/dev")).json()
    return {each["slug"] for each in shown["functions"]} == {*ids}


def check(found: AppConfig, app: SdkApp, *ids: str) -> None:
    assert found.app_id == "shop"
    assert found.http is not None
    assert found.http.url == app.url
    assert (found.http.sdk, found.http.framework) == SDKS[app.language]
    assert {each.id for each in found.functions} == {f"shop-{id}" for id in ids}
    assert {each.url for each in found.functions} == {f"{app.url}?fnId=shop-{id}" for id in ids}


# In dev mode


@both
async def test_an_app_in_dev_mode_is_registered(server: Server, log: Path, language: str) -> None:
    app = SdkApp(language, log, server.url)
    async with app.running():
        check(await server.sync(app), app, "a", "b")


async def test_javascript_may_register_out_of_band(server: Server, log: Path) -> None:
    app = SdkApp("js", log, server.url)
    async with app.running(INNGEST_ALLOW_IN_BAND_SYNC="0"):
        check(await server.sync(app), app, "a", "b")


@both
async def test_a_put_by_anybody_makes_an_app_register(
    server: Server, log: Path, language: str
) -> None:
    app = SdkApp(language, log, server.url)
    async with app.running():
        reply = await put(f"{app.url}?deployId=d1")
        assert reply.status_code == 200
        [found] = await server.apps()
        check(found, app, "a", "b")


@both
async def test_a_sync_updates_the_functions_and_the_url_of_an_app(
    server: Server, log: Path, language: str
) -> None:
    app = SdkApp(language, log, server.url)
    async with app.running("a,b"):
        await server.sync(app)
        moved = await server.sync(app, "/moved")
        assert moved.http is not None
        assert moved.http.url == f"http://127.0.0.1:{app.port}/moved"
    async with app.running("b,c"):
        await server.sync(app)
    [found] = await server.apps()
    check(found, app, "b", "c")


@pytest.mark.parametrize(("language", "period"), [("js", "25h"), ("py", str(25 * 3_600_000))])
async def test_a_bad_configuration_is_refused_and_the_former_one_stays(
    server: Server, log: Path, language: str, period: str
) -> None:
    app = SdkApp(language, log, server.url)
    async with app.running("a"):
        await server.sync(app)
    async with app.running("b", INVALID=period):
        with pytest.raises(Error, match=r"'shop-b', rate_limit.period"):
            await server.sync(app)
        reply = await put(app.url)
        assert "'shop-b', rate_limit.period" in reply.text
        assert reply.status_code == (400 if language == "js" else 200)  # Python's SDK hides it
    [found] = await server.apps()
    check(found, app, "a")


@both
async def test_an_app_in_production_mode_is_told_of_dev_mode(
    server: Server, log: Path, language: str
) -> None:
    app = SdkApp(language, log, server.url, (KEY,))
    async with app.running():
        with pytest.raises(Error, match=f"in production mode.*INNGEST_DEV={server.url}"):
            await server.sync(app)
        reply = await put(app.url, **{"x-inngest-server-kind": "cloud"})
        assert "Expected server kind cloud, got dev" in reply.text


async def test_an_app_that_registers_elsewhere_is_an_error(server: Server, log: Path) -> None:
    reply = {"ok": True, "modified": True, "sync_id": "1", "app_id": "shop"}

    async def elsewhere(_: Request) -> JSONResponse:
        return JSONResponse(reply)

    listener = listen("127.0.0.1", 0, "--port")
    app = SdkApp("py", log, f"http://127.0.0.1:{listener.getsockname()[1]}")
    routes = [Route("/fn/register", elsewhere, methods=["POST"])]
    async with serving(Starlette(routes=routes), listener), app.running():
        with pytest.raises(Error, match="has registered, but not here"):
            await server.sync(app)


# With signing keys


@both
@pytest.mark.parametrize("keys", [(KEY,), (FALLBACK,), ("signkey-prod-00", KEY)])
async def test_keys_are_rotated_without_a_gap(
    cloud: Server, log: Path, language: str, keys: tuple[str, ...]
) -> None:
    """It is enough that one of two keys is the same on both sides: in-band, and out-of-band as by
    the hook of a deploy."""
    app = SdkApp(language, log, cloud.url, keys)
    async with app.running():
        check(await cloud.sync(app), app, "a", "b")
    async with app.running("c"):
        reply = await put(app.url)
        assert reply.status_code == 200, reply.text
        [found] = await cloud.apps()
        check(found, app, "c")


@both
async def test_an_app_with_another_key_stays_out(cloud: Server, log: Path, language: str) -> None:
    app = SdkApp(language, log, cloud.url, ("signkey-prod-00",))
    async with app.running():
        with pytest.raises(Error, match="another signing key"):
            await cloud.sync(app)
        reply = await put(app.url)
        assert "Authentication failed" in reply.text
    assert await cloud.apps() == []


@both
async def test_an_app_in_dev_mode_stays_out_of_production(
    cloud: Server, log: Path, language: str
) -> None:
    app = SdkApp(language, log, cloud.url)
    async with app.running():
        with pytest.raises(Error, match="is in dev mode"):
            await cloud.sync(app)
    assert await cloud.apps() == []


# Commands


@needs_proc
@both
async def test_dev_follows_an_app_that_it_is_told_of(
    start: Callable[..., Command], log: Path, language: str
) -> None:
    app = SdkApp(language, log)
    dev = Dev(start, "-u", app.url, "--log-level", "warning")
    dev.says(f"Nothing answers at {app.url}")
    app.server = f"http://127.0.0.1:{dev.port}"
    sdk, framework = SDKS[language]
    async with app.running("a"):
        dev.says(f"App shop at {app.url} ({sdk}, {framework}):\n  shop-a  event {language}/a\n")
    dev.says(f"Nothing answers at {app.url}", times=2)
    dev.says("Its functions stay registered")
    async with app.running("a"):
        dev.says(f"App shop at {app.url} is there again.")
    async with app.running("a,b"):
        dev.says(f"  shop-b  event {language}/b\n")
        await until(lambda: functions_shown(app.server, "shop-a", "shop-b"))
        http = Http(dev.port)
        assert http.result(send_until_ready(http, f"{language}/b")) == "b"
    assert dev.command.stop() == 0
    assert "Traceback" not in dev.command.output
    assert "No module was named" not in dev.command.output


async def test_dev_says_once_that_an_app_is_refused(
    server: Server, log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(apps, "POLL_SECONDS", 0.05)
    said: list[str] = []
    monkeypatch.setattr(apps, "complain", said.append)
    looks = 0

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal looks
        looks += 1
        return await sync(*arguments, **options)

    monkeypatch.setattr(apps, "sync", counted)
    app = SdkApp("py", log, server.url)
    async with app.running("b", INVALID=str(25 * 3_600_000)):
        following = AppsFollower(server.client, server.url, [app.url])
        async with background(following):
            await until(lambda: looks > 3)
    [text] = said
    assert "'shop-b', rate_limit.period" in text


async def test_dev_discovers_apps_but_not_at_its_own_ports(
    server: Server, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, other = SdkApp("py", log, server.url), SdkApp("py", log, server.url)
    monkeypatch.setattr(apps, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(apps, "PORTS", (free_port(), app.port, other.port))
    following = AppsFollower(server.client, server.url, discovers=True, own_ports=(other.port,))
    async with background(following), app.running("a"), other.running("b"):
        await until(server.apps)
        [found] = await server.apps()
        assert found.http is not None
        assert found.http.url == f"http://localhost:{app.port}/api/inngest"
        assert [each.id for each in found.functions] == ["shop-a"]


async def test_dev_brings_back_an_app_that_was_removed(
    server: Server, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps, "POLL_SECONDS", 0.05)
    app = SdkApp("js", log, server.url)
    async with app.running(), background(AppsFollower(server.client, server.url, [app.url])):
        await until(server.apps)
        async with httpx.AsyncClient(base_url=server.url, verify=False) as http:
            reply = await http.delete("/fn/remove", params={"url": app.url})
            assert reply.status_code == 200
        await until(server.apps)


@contextlib.asynccontextmanager
async def background(following: AppsFollower) -> AsyncIterator[None]:
    async with in_background(following.follow()) as task:
        yield
        if task.done():
            task.result()


@both
async def test_sync_registers_an_app_after_its_deploy(
    start: Callable[..., Command],
    log: Path,
    language: str,
    temporal_address: str,
    namespace: str,
) -> None:
    place = {"TEMPORAL_ADDRESS": temporal_address, "TEMPORAL_NAMESPACE": namespace}
    keys = {"INNGEST_SIGNING_KEY": KEY}
    app = SdkApp(language, log, "http://127.0.0.1:1", (KEY,))
    command = start("sync", app.url, **place, **keys)
    assert command.ends() == 1
    assert command.output.startswith(f"Nothing answers at {app.url}")
    async with app.running("a"):
        command = start("sync", app.url, **place, **keys)
        assert command.ends() == 0, command.output
        sdk, framework = SDKS[language]
        text = f"\nApp shop at {app.url} ({sdk}, {framework}):\n  shop-a  event {language}/a\n"
        assert command.output == text
        command = start("sync", app.url, **place)
        assert command.ends() == 1
        assert "INNGEST_SIGNING_KEY" in command.output
        assert "Traceback" not in command.output


@both
async def test_production_works_from_the_deploy_to_a_result(
    start: Callable[..., Command],
    log: Path,
    language: str,
    temporal_address: str,
    namespace: str,
) -> None:
    place = {"TEMPORAL_ADDRESS": temporal_address, "TEMPORAL_NAMESPACE": namespace}
    keys = {"INNGEST_SIGNING_KEY": KEY, "INNGEST_EVENT_KEY": "events"}
    port, calls = free_port(), free_port()
    start("ingress", "--port", str(port), **place, **keys).says("Temporal ")
    worker = start("worker", "--http", "--listen", f"127.0.0.1:{calls}", **place, **keys)
    worker.says("Calls apps")
    app = SdkApp(language, log, f"http://127.0.0.1:{port}", (KEY,))
    async with app.running("a"):
        command = start("sync", app.url, **place, **keys)
        assert command.ends() == 0, command.output
        async with httpx.AsyncClient(base_url=app.server, timeout=20, verify=False) as http:

            async def run() -> Any:
                found = await http.get(
                    f"/v1/events/{event_id}/runs", headers={"authorization": f"Bearer {KEY}"}
                )
                return next((each for each in found.json()["data"] if each["ended_at"]), None)

            async def sent() -> Any:
                reply = await http.post("/e/events", json={"name": f"{language}/a", "data": {}})
                unmatched = "x-inngest-unmatched" in reply.headers
                return None if unmatched or reply.status_code != 200 else reply.json()["ids"]

            [event_id] = await until(sent)
            ended = await until(run)
    assert (ended["status"], ended["output"]) == ("Completed", "a")


def test_urls_are_read_as_people_write_them() -> None:
    assert read_url("localhost:3000/api/inngest") == "http://localhost:3000/api/inngest"
    assert read_url("https://shop.example/x") == "https://shop.example/x"
    for text in ("", "ftp://x", "http://"):
        with pytest.raises(ProcessError, match="is not the address of an app"):
            read_url(text)
