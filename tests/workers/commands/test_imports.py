"""What our processes import when they start: what they don't need costs time at every start."""

import json
import subprocess
import sys
from typing import get_args

import pytest

from inngest_temporal.temporal.connection import DashboardMode
from inngest_temporal_workers.commands import cli

COMMANDS = "inngest_temporal_workers.commands"


def imported_with(*modules: str) -> set[str]:
    """All modules of a new process that has imported these."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {*json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("process", "modules", "unneeded"),
    [
        (
            "dev until its children start",
            ("cli", "dev", "dev_options"),
            {"temporalio", "inngest_temporal", "fastapi"},
        ),
        (
            "a worker",
            ("cli", "loading", "working"),
            {"fastapi", "starlette", "uvicorn", "jinja2", "httpx", "rich"},
        ),
        ("an ingress", ("cli", "ingress"), {"temporalio.worker", "httpx", "rich"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_process_imports_nothing_that_it_does_not_need(
    process: str, modules: tuple[str, ...], unneeded: set[str]
) -> None:
    imported = imported_with(*(f"{COMMANDS}.{each}" for each in modules))
    assert f"{COMMANDS}.cli" in imported
    assert imported & unneeded == set(), process


def test_the_command_line_knows_all_modes_of_the_dashboard() -> None:
    """It has its own list of them, so that it need not import them."""
    assert get_args(get_args(cli.Dashboard)[0]) == tuple(DashboardMode)
