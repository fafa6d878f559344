"""The command line in real processes: they are started, asked over HTTP, have their files changed,
and are stopped."""

import json
import os
import re
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.command_line import Command, Dev, Http, needs_proc, send_until_ready, starter, until
from tests.ports import free_port

APP = """
import time
import inngest_temporal as inngest

client = inngest.Inngest(app_id="app")

@client.create_function(fn_id="greet", trigger=inngest.TriggerEvent(event="app/greet"))
async def greet(ctx: inngest.Context):
    name = ctx.event.data["name"]
    return await ctx.step.run("greet", lambda: f"Hello {name}")
"""


READY = "Functions of app.py"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with `app.py`."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., Command]]:
    with starter(project) as start:
        yield start


# dev


@needs_proc
def test_dev_runs_a_function_and_its_printed_curl_works_and_sigterm_leaves_nothing(
    start: Callable[..., Command],
) -> None:
    dev = Dev(start, "app.py")
    dev.says("/v1/events/ID/runs")
    assert f"Events           http://127.0.0.1:{dev.port}/e/dev" in dev.command.output
    assert f"Temporal Web UI  http://127.0.0.1:{dev.ui_port}" in dev.command.output
    assert "  app-greet  event app/greet" in dev.command.output
    dev.says(f"\nReady. Dashboard: http://127.0.0.1:{dev.port}\n")
    page = httpx.get(f"http://127.0.0.1:{dev.port}", follow_redirects=True, verify=False)
    assert "app-greet" in page.text
    assert httpx.get(f"http://127.0.0.1:{dev.ui_port}", verify=False).status_code == 200

    curl = re.search(r"^  (curl .* -d .*)$", dev.command.output, re.MULTILINE)
    assert curl is not None
    match = re.fullmatch(r"curl (\S+) -d '(.*)'", curl.group(1))
    assert match is not None
    reply = httpx.post(match.group(1), content=match.group(2), verify=False)
    assert Http(dev.port).result(reply.json()["ids"][0]) == "Hello 1"

    dev.says("inngest_temporal.events: app/greet starts app-greet (run ")
    dev.says("The run completed after ")
    assert httpx.post(match.group(1), json={"name": "app/typo"}, verify=False).status_code == 200
    dev.says("Nothing listens for app/typo; known: app/greet")
    assert "\x1b" not in dev.command.output  # no escape codes outside terminals

    assert dev.command.left()
    assert dev.command.stop() == 0
    assert dev.command.left() == []
    assert "Traceback" not in dev.command.output


def test_dev_follows_changes_and_survives_a_syntax_error(
    start: Callable[..., Command], project: Path
) -> None:
    dev = Dev(start, "app.py")
    http = Http(dev.port)
    dev.says("\nReady.")
    assert http.result(http.send("app/greet", name="Ann")) == "Hello Ann"

    (project / "app.py").write_text(APP.replace("Hello", "Goodbye"))
    dev.says("app.py changed: the worker starts again.")
    dev.says("\nReady.", times=2)
    assert http.result(http.send("app/greet", name="Ann")) == "Goodbye Ann"

    (project / "app.py").write_text(APP + "def broken(:\n")
    dev.says("No worker runs.")
    assert "SyntaxError" in dev.command.output
    assert "def broken(:" in dev.command.output
    # The ingress is still there, and so is the function's registration.
    waiting = http.send("app/greet", name="Bob")

    (project / "app.py").write_text(APP.replace("Hello", "Welcome back"))
    dev.says("\nReady.", times=3)
    assert http.result(waiting) == "Welcome back Bob"
    assert dev.command.stop(signal.SIGINT) == 0


@needs_proc
@pytest.mark.skipif(
    sys.platform != "linux", reason="Linux ends the children of a killed process on request"
)
def test_a_killed_dev_leaves_nothing(start: Callable[..., Command]) -> None:
    dev = Dev(start, "app.py")
    dev.says("\nReady.")
    assert len(dev.command.left()) == 3
    dev.command.process.kill()
    until(lambda: not dev.command.left(), "the end of its children", 10)


def test_dev_takes_no_event_before_its_functions_are_known(
    start: Callable[..., Command], project: Path
) -> None:
    """`/health` says when they are. Each event that is accepted starts a run."""
    (project / "late.py").write_text(
        "import pathlib, time\n"
        "while not pathlib.Path('go').exists():\n"
        "    time.sleep(0.05)\n"
        "from app import *\n"
    )
    dev = Dev(start, "late.py", "--no-reload")
    http = Http(dev.port)
    until(lambda: answers(http) is not None, "an answer")
    for _ in range(3):
        assert answers(http) == 503
        reply = httpx.post(
            f"{http.url}/e/dev", json={"name": "app/greet"}, timeout=15, verify=False
        )
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    (project / "go").touch()
    until(lambda: answers(http) == 200, "its functions")
    events = [{"name": "app/greet", "data": {"name": f"{n}"}} for n in range(3)]
    accepted = [
        httpx.post(f"{http.url}/e/dev", json=event, timeout=15, verify=False).json()["ids"][0]
        for event in events
    ]
    assert [http.result(event) for event in accepted] == ["Hello 0", "Hello 1", "Hello 2"]


def answers(http: Http) -> int | None:
    try:
        return httpx.get(f"{http.url}/health", timeout=15, verify=False).status_code
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("after", [0.3, 0.7, 1.2, 2.0])
def test_an_interrupt_during_start_up_ends_quietly(
    start: Callable[..., Command], after: float
) -> None:
    # Coverage would swallow an interrupt while it starts.
    command = Dev(start, "app.py", COVERAGE_PROCESS_CONFIG="").command
    time.sleep(after)  # wherever it is by then
    assert command.stop(signal.SIGINT) in (0, -signal.SIGINT), command.output
    assert "Traceback" not in command.output
    assert "Error" not in command.output
    if Path("/proc/self/environ").exists():
        assert command.left() == []


@needs_proc
def test_dev_stops_while_it_is_still_starting(start: Callable[..., Command]) -> None:
    dev = Dev(start, "app.py")
    dev.says("Events")
    assert dev.command.stop() == 0
    assert dev.command.left() == []


@needs_proc
def test_dev_stops_while_it_still_imports(start: Callable[..., Command]) -> None:
    """Its children have started before it has printed anything."""
    dev = Dev(start, "app.py")
    until(lambda: len(dev.command.left()) >= 3, "its children")
    assert dev.command.stop(signal.SIGINT) == 0
    assert dev.command.left() == []
    assert "Traceback" not in dev.command.output


@needs_proc
def test_dev_ends_with_the_reason_when_its_server_is_lost(start: Callable[..., Command]) -> None:
    dev = Dev(start, "app.py")
    dev.says("\nReady.")
    [server] = [
        pid
        for pid in dev.command.left()
        if b"start-dev" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]
    os.kill(server, signal.SIGKILL)
    assert dev.command.ends() == 1
    assert "The embedded Temporal server ended." in dev.command.output
    assert dev.command.left() == []


def test_lines_of_json_are_objects_that_name_the_run(
    start: Callable[..., Command], project: Path, place: dict[str, str]
) -> None:
    (project / "app.py").write_text(
        APP.replace("    name =", "    ctx.logger.warning('told %s', 'you')\n    name =")
    )
    port = free_port()
    start("ingress", "--port", str(port), INNGEST_DEV="1", **place).says("Temporal")
    worker = start("worker", "app.py", "--log-format", "json", **place)
    worker.says(READY)
    send_until_ready(Http(port), "app/greet", name="Ann")
    worker.says("told you")
    [line] = [line for line in worker.output.splitlines() if "told you" in line]
    entry = json.loads(line)
    assert (entry["level"], entry["message"]) == ("WARNING", "told you")
    assert (entry["functionId"], entry["attempt"]) == ("app-greet", 0)
    assert len(entry["runId"]) == 26


def test_dev_sends_no_event_to_the_ingress_that_the_environment_names(
    start: Callable[..., Command], project: Path
) -> None:
    (project / "app.py").write_text(APP + "\nprint('events go to', client.event_api_origin)\n")
    production = "https://production.example"
    dev = Dev(start, "app.py", INNGEST_BASE_URL=production, INNGEST_EVENT_API_BASE_URL=production)
    dev.says(f"events go to http://127.0.0.1:{dev.port}")
    assert dev.command.stop() == 0


def test_dev_that_cannot_watch_for_changes_says_so(
    start: Callable[..., Command], project: Path
) -> None:
    (project / "watchfiles.py").write_text(
        textwrap.dedent("""
            PythonFilter = object

            async def awatch(*_, **__):
                raise OSError("OS file watch limit reached")
                yield
        """)
    )
    dev = Dev(start, "app.py")
    assert dev.command.ends() == 1
    assert (
        f"Files in {project} can't be watched for changes: OS file watch limit reached. Use"
        " --no-reload." in (dev.command.output)
    )
    assert "Traceback" not in dev.command.output


def test_dev_without_reload_ends_when_its_module_fails(
    start: Callable[..., Command], project: Path
) -> None:
    (project / "app.py").write_text("1 / 0\n")
    dev = Dev(start, "app.py", "--no-reload")
    assert dev.command.ends() == 1
    assert "ZeroDivisionError" in dev.command.output
    assert "The worker ended; what it printed says why." in dev.command.output


def test_dev_keeps_runs_in_a_file(start: Callable[..., Command], project: Path) -> None:
    (project / "app.py").write_text(
        APP.replace("    name =", "    await ctx.step.sleep('nap', 3_000)\n    name =")
    )
    first = Dev(start, "app.py", "--db-filename", "state.db")
    first.says("\nReady.")
    event = Http(first.port).send("app/greet", name="Ann")
    assert first.command.stop() == 0
    second = Dev(start, "app.py", "--db-filename", "state.db")
    second.says("\nReady.")
    assert Http(second.port).result(event) == "Hello Ann"
    assert second.command.stop() == 0


@needs_proc
def test_signals_at_once_are_one_request_and_a_later_one_ends_it_at_once(
    start: Callable[..., Command], project: Path
) -> None:
    (project / "app.py").write_text(SLOW)
    dev = Dev(start, "app.py")
    dev.says("\nReady.")
    Http(dev.port).send("app/slow", seconds=600)
    until((project / "begun").exists, "the step")
    dev.command.process.send_signal(signal.SIGINT)
    dev.command.process.send_signal(signal.SIGINT)
    dev.says("Stopping.")
    time.sleep(1.1)  # as long as TWICE_SECONDS
    assert dev.command.process.poll() is None
    assert dev.command.stop(signal.SIGINT) == 130
    until(lambda: not dev.command.left(), "the end of its children", 10)


@pytest.mark.parametrize("option", ["--port", "--temporal-port", "--ui-port"])
def test_a_port_in_use_is_named_with_its_option(start: Callable[..., Command], option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        others = [
            each
            for name in ("--port", "--temporal-port", "--ui-port")
            if name != option
            for each in (name, str(free_port()))
        ]
        command = start("dev", "app.py", option, str(port), *others)
        assert command.ends() == 1
    assert (
        f"Port {port} of 127.0.0.1 is in use. Stop what uses it, or choose another one with"
        f" {option}." in (command.output)
    )
    assert "Traceback" not in command.output


# ingress and worker


@pytest.mark.parametrize(
    ("options", "environ", "said", "status"),
    [
        ([], {"INNGEST_SIGNING_KEY": "signkey-prod-00"}, "Dashboard http://{place}\n", 200),
        (
            ["--dashboard", "read-only", "--temporal-ui-url", "http://ui/"],
            {"INNGEST_SIGNING_KEY": "signkey-prod-00"},
            "Dashboard http://{place}, read-only",
            200,
        ),
        ([], {}, "Dashboard is off, because INNGEST_SIGNING_KEY is not set", 503),
        ([], {"INNGEST_TEMPORAL_DASHBOARD": "off"}, "Temporal  127.0.0.1:1", 404),
    ],
)
def test_the_dashboard_is_as_options_and_environment_say(
    start: Callable[..., Command],
    options: list[str],
    environ: dict[str, str],
    said: str,
    status: int,
) -> None:
    port = free_port()
    given = {"TEMPORAL_ADDRESS": "127.0.0.1:1", "INNGEST_EVENT_KEY": "k", **environ}
    ingress = start("ingress", "--port", str(port), *options, **given)
    ingress.says(said.format(place=f"127.0.0.1:{port}"))
    ingress.says("Temporal  127.0.0.1:1")
    answer = httpx.get(f"http://127.0.0.1:{port}/sign-in", verify=False)
    assert answer.status_code == status
    assert ("Dashboard" in ingress.output) == (status != 404)
    assert ingress.stop() == 0


def test_an_unknown_dashboard_mode_is_refused(start: Callable[..., Command]) -> None:
    ingress = start("ingress", INNGEST_DEV="1", INNGEST_TEMPORAL_DASHBOARD="readonly")
    assert ingress.process.wait(30) != 0
    ingress.says("INNGEST_TEMPORAL_DASHBOARD")


def test_ingress_and_worker_start_before_temporal_and_recover(
    start: Callable[..., Command],
) -> None:
    temporal, port = free_port(), free_port()
    place = {"TEMPORAL_ADDRESS": f"127.0.0.1:{temporal}"}
    worker = start("worker", "app.py", **place)
    ingress = start("ingress", "--port", str(port), INNGEST_DEV="1", **place)
    unreachable = (
        f"Temporal can't be reached at 127.0.0.1:{temporal}, namespace default. Trying until it can"
    )
    worker.says(unreachable)
    ingress.says(f"Events    http://127.0.0.1:{port}/e/dev")
    ingress.says(unreachable)
    ingress.says(f"Dashboard http://127.0.0.1:{port}\n")
    http = Http(port)
    reply = httpx.post(f"{http.url}/e/dev", json={"name": "app/greet"}, timeout=15, verify=False)
    assert reply.status_code == 503, reply.text

    server = start(
        "dev",
        "--temporal-port",
        str(temporal),
        "--port",
        str(free_port()),
        "--ui-port",
        str(free_port()),
    )
    server.says("No module was named")
    worker.says("Temporal can be reached now")
    worker.says(READY)

    assert http.result(send_until_ready(http, "app/greet", name="Ann")) == "Hello Ann"
    assert worker.stop() == 0
    assert ingress.stop() == 0
    assert server.stop() == 0
    for command in (worker, ingress, server):
        assert "Traceback" not in command.output


def test_a_worker_that_waits_for_temporal_stops_at_once(start: Callable[..., Command]) -> None:
    worker = start("worker", "app.py", TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}")
    worker.says("Temporal can't be reached")
    assert worker.stop() == 0
    assert "Traceback" not in worker.output


SLOW = """
import pathlib, time
import inngest_temporal as inngest

client = inngest.Inngest(app_id="app")

@client.create_function(fn_id="slow", trigger=inngest.TriggerEvent(event="app/slow"))
def slow(ctx: inngest.ContextSync):
    def work():
        with pathlib.Path("begun").open("a") as begun:
            begun.write("x")
        if ctx.event.data["seconds"] < 10 or len(pathlib.Path("begun").read_text()) == 1:
            time.sleep(ctx.event.data["seconds"])
        return "done"
    return ctx.step.run("work", work)
"""


@pytest.fixture
def place(temporal_address: str, namespace: str) -> dict[str, str]:
    """The variables by which a command finds the session's Temporal."""
    return {"TEMPORAL_ADDRESS": temporal_address, "TEMPORAL_NAMESPACE": namespace}


@pytest.fixture
def ingress(start: Callable[..., Command], place: dict[str, str]) -> Http:
    port = free_port()
    start("ingress", "--port", str(port), INNGEST_DEV="1", **place).says("Temporal")
    return Http(port)


def test_a_stopped_worker_finishes_its_running_step(
    start: Callable[..., Command],
    project: Path,
    ingress: Http,
    place: dict[str, str],
) -> None:
    (project / "app.py").write_text(SLOW)
    worker = start("worker", "app.py", **place)
    worker.says(READY)
    event = send_until_ready(ingress, "app/slow", seconds=2)
    until((project / "begun").exists, "the step")
    assert worker.stop() == 0
    start("worker", "app.py", **place).says(READY)
    assert ingress.result(event) == "done"
    assert (project / "begun").read_text() == "x"


def test_an_ingress_says_once_that_nothing_listens_for_a_name(
    start: Callable[..., Command], place: dict[str, str]
) -> None:
    port = free_port()
    command = start("ingress", "--port", str(port), INNGEST_DEV="1", **place)
    command.says("Temporal")
    http = Http(port)
    health = f"{http.url}/health"
    until(lambda: httpx.get(health, verify=False).status_code == 200, "the registry")
    for name in ("app/odd", "app/odd", "app/end"):
        http.send(name)
    command.says("Nothing listens for app/end; known: none")
    assert command.output.count("Nothing listens for app/odd; known: none") == 1


def test_remove_needs_no_worker_and_names_the_apps_that_exist(
    start: Callable[..., Command], ingress: Http, place: dict[str, str]
) -> None:
    worker = start("worker", "app.py", **place)
    worker.says(READY)
    send_until_ready(ingress, "app/greet", name="Ada")
    assert worker.stop() == 0
    for app_id, code, message in (
        ("other", 1, "There is no app 'other'. There are app.\n"),
        ("app", 0, "App app is removed"),
        ("app", 1, "There is no app 'app'. No app is registered.\n"),
    ):
        remove = start("remove", app_id, **place)
        assert (remove.ends(), remove.output[: len(message)]) == (code, message)


def test_a_worker_whose_app_is_removed_says_so_and_is_not_ready(
    start: Callable[..., Command], ingress: Http, place: dict[str, str]
) -> None:
    health = f"127.0.0.1:{free_port()}"
    worker = start("worker", "app.py", "--health", health, **place)
    worker.says(READY)

    def ready() -> httpx.Response:
        return httpx.get(f"http://{health}/ready", timeout=15, verify=False)

    until(lambda: ready().status_code == 200, "the worker to be ready")
    assert start("remove", "app", **place).ends() == 0
    worker.says("App 'app' was removed by `inngest-temporal remove`")
    assert ready().status_code == 503
    assert "restart it to bring the app back" in ready().text
    assert worker.stop() == 0
    start("worker", "app.py", **place).says(READY)
    assert ingress.result(send_until_ready(ingress, "app/greet", name="Ada"))


def test_a_worker_serves_metrics_that_count_the_runs_of_each_function(
    start: Callable[..., Command], ingress: Http, place: dict[str, str]
) -> None:
    metrics = f"localhost:{free_port()}"
    worker = start("worker", "app.py", "--metrics", metrics, **place)
    worker.says(READY)
    other = start("worker", "app.py", "--metrics", metrics, **place)
    assert other.ends() == 1
    assert "is in use. Stop what uses it, or choose another one with --metrics." in other.output
    assert ingress.result(send_until_ready(ingress, "app/greet", name="Ada"))

    def counted() -> bool:
        answer = httpx.get(f"http://{metrics}/metrics", timeout=15, verify=False)
        lines = [line for line in answer.text.splitlines() if 'workflow_type="app-greet"' in line]
        return any(line.startswith("temporal_workflow_completed_total{") for line in lines)

    until(counted, "a run that is counted")
    assert worker.stop() == 0


def test_a_step_that_outlasts_the_grace_is_handed_over(
    start: Callable[..., Command],
    project: Path,
    ingress: Http,
    place: dict[str, str],
) -> None:
    (project / "app.py").write_text(SLOW)
    worker = start("worker", "app.py", "--grace", "0.5", **place)
    worker.says(READY)
    event = send_until_ready(ingress, "app/slow", seconds=600)
    until((project / "begun").exists, "the step")
    assert worker.stop() == 0
    start("worker", "app.py", **place).says(READY)
    assert ingress.result(event) == "done"
    assert (project / "begun").read_text() == "xx"


def test_a_worker_whose_temporal_is_gone_stops_all_the_same(start: Callable[..., Command]) -> None:
    temporal = free_port()
    server = start(
        "dev",
        "--temporal-port",
        str(temporal),
        "--port",
        str(free_port()),
        "--ui-port",
        str(free_port()),
    )
    server.says("No module was named")
    worker = start("worker", "app.py", "--grace", "1", TEMPORAL_ADDRESS=f"127.0.0.1:{temporal}")
    worker.says(READY)
    assert server.stop() == 0
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TEMPORAL_PROFILE": "missing"}, "Profile 'missing' not found"),
        ({"TEMPORAL_TLS": "true", "TEMPORAL_TLS_CLIENT_CERT_PATH": "/missing"}, "'/missing'"),
        ({"TEMPORAL_CONFIG_FILE": "app.py"}, "TOML parse error"),
    ],
)
@pytest.mark.parametrize(
    "arguments", [["worker", "app.py"], ["ingress"]], ids=lambda arguments: str(arguments[0])
)
def test_settings_of_temporal_that_cannot_be_read_are_an_error(
    start: Callable[..., Command], arguments: list[str], environ: dict[str, str], message: str
) -> None:
    command = start(*arguments, INNGEST_DEV="1", **environ)
    assert command.ends() == 1
    assert "Temporal's settings can't be read: " in command.output
    assert message in command.output
    assert "Traceback" not in command.output


def test_an_invalid_address_of_temporal_is_an_error(start: Callable[..., Command]) -> None:
    command = start("worker", "app.py", TEMPORAL_ADDRESS="my host:7233")
    assert command.ends() == 1
    assert (
        "Temporal can't be at my host:7233, namespace default: invalid target URL" in command.output
    )
    assert "Traceback" not in command.output


def test_what_a_worker_waits_for_is_a_line_of_the_log_if_that_is_json(
    start: Callable[..., Command],
) -> None:
    worker = start(
        "worker", "app.py", "--log-format", "json", TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}"
    )
    worker.says("Temporal can't be reached")
    [line] = worker.output.splitlines()
    assert json.loads(line)["level"] == "ERROR"


def test_an_ingress_without_keys_does_not_start(start: Callable[..., Command]) -> None:
    command = start("ingress", "--port", str(free_port()))
    assert command.ends() == 1
    assert "Set INNGEST_EVENT_KEY" in command.output
    assert "INNGEST_DEV=1" in command.output
    assert "Traceback" not in command.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["worker", "missing.py"], "There is no Python file 'missing.py'"),
        (["worker", "app.py:nothing"], "the module has no 'nothing'"),
        (["dev", "missing.py"], "There is no Python file 'missing.py'"),
    ],
)
def test_a_missing_module_is_named(
    start: Callable[..., Command], arguments: list[str], message: str
) -> None:
    command = start(*arguments)
    assert command.ends() == 1
    assert message in command.output
    assert "Traceback" not in command.output


def test_a_module_that_fails_shows_only_the_users_traceback(
    start: Callable[..., Command], project: Path
) -> None:
    (project / "app.py").write_text(
        textwrap.dedent("def f():\n    raise ValueError('no database')\n\nf()\n")
    )
    command = start("worker", "app.py")
    assert command.ends() == 1
    assert "ValueError: no database" in command.output
    assert "workers/inngest_temporal_workers/commands/cli.py" not in command.output
