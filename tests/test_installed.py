"""The wheel, installed where no repository is in sight, for a project that has packages named like
our folders."""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDERS = """
import inngest_temporal as inngest
import adapter, tests, workers

client = inngest.Inngest(app_id="shop")

@client.create_function(fn_id="fulfil", trigger=inngest.TriggerEvent(event="shop/order"))
async def fulfil(ctx: inngest.Context):
    return [each.__file__ for each in (adapter, tests, workers)]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that has the wheel, and this one's dependencies."""
    venv = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    pip(str(python), "install", str(wheel))
    # .pth files in a folder that a .pth file names are not read: the editable install stays unseen.
    [packages] = venv.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return venv / "bin"


def pip(python: str, command: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, command, "--no-deps", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run(cwd: Path, *command: str | Path) -> str:
    """What a program prints in that directory, to either stream."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


def environment(**more: str) -> dict[str, str]:
    ours = ("INNGEST_", "TEMPORAL_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project with packages `adapter`, `workers` and `tests`."""
    for package in ("adapter", "workers", "tests"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "workers" / "orders.py").write_text(textwrap.dedent(ORDERS))
    return tmp_path


def test_the_wheel_has_both_packages_with_their_types_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "inngest_temporal",
        "inngest_temporal_workers",
    }
    assert {"inngest_temporal/py.typed", "inngest_temporal_workers/py.typed"} <= names
    pages = {"templates/base.html", "static/htmx.min.js", "static/htmx.LICENSE.txt"}
    assert {f"inngest_temporal/dashboard/{each}" for each in pages} <= names


def test_the_packages_are_imported_from_the_wheel_in_an_empty_directory(
    installed: Path, tmp_path: Path
) -> None:
    code = (
        "import inngest_temporal, inngest_temporal_workers.commands.dev as workers;"
        "print(inngest_temporal.__file__, workers.__file__)"
    )
    for file in run(tmp_path, installed / "python", "-c", code).split():
        assert Path(file).is_relative_to(installed.parent)


def test_the_command_tells_its_version(installed: Path, tmp_path: Path) -> None:
    version = importlib.metadata.version("inngest-temporal")
    printed = run(tmp_path, installed / "inngest-temporal", "--version")
    assert printed == f"inngest-temporal {version}\n"


@pytest.mark.parametrize("module", ["workers/orders.py", "workers.orders"])
def test_a_worker_runs_the_functions_of_a_package_named_like_our_folder(
    installed: Path, project: Path, temporal_address: str, namespace: str, module: str
) -> None:
    command = [installed / "inngest-temporal", "worker", module]
    place = {"TEMPORAL_ADDRESS": temporal_address, "TEMPORAL_NAMESPACE": namespace}
    with subprocess.Popen(
        command,
        cwd=project,
        env=environment(**place),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as worker:
        limit = threading.Timer(100, worker.kill)
        limit.start()
        try:
            printed = "".join(until_published(worker))
        finally:
            limit.cancel()
            worker.kill()
    assert "shop-fulfil  event shop/order" in printed


def until_published(worker: "subprocess.Popen[str]") -> Iterator[str]:
    """Lines of a worker's output, up to its first function."""
    assert worker.stdout is not None
    for line in worker.stdout:
        yield line
        if line.startswith("  shop-"):
            return
