"""An app behind TLS is called over HTTP/2, also with a certificate of one's own authority."""

import re
from pathlib import Path

import pytest
from temporalio.client import Client

from tests import node
from tests.harness import until
from tests.http_world import http_world
from tests.ports import free_port

FOLDER = Path(__file__).parent


async def test_an_app_is_called_by_http_2_over_one_connection(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(FOLDER / "localhost_ca.pem"))
    node.install()
    port, log = free_port(), tmp_path / "app.log"
    async with http_world(client) as world:
        environ = {
            "PORT": str(port),
            "CERTIFICATE": str(FOLDER / "localhost_test.pem"),
            "INNGEST_DEV": world.url,
        }
        command = ("node", str(node.FOLDER / "http2.mjs"))
        with node.process(*command, log=log, **environ):
            await until(lambda: "ready" in log.read_text())
            await world.sync(f"https://localhost:{port}/api/inngest")
            run = await world.run("http2/steps", {"number": 20})
            calls = re.findall(r"called by HTTP/(\S+) from port (\d+)", log.read_text())
    assert (run["status"], run["output"]) == ("Completed", 42)
    assert len(calls) == 2
    assert {version for version, _ in calls} == {"2.0"}
    assert len({port for _, port in calls}) == 1
