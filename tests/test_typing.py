"""What type checkers make of the public names, checked by mypy as a user would run it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("file", ["handlers.py", "slips.py"])
def test_types_of_functions_and_steps(file: str) -> None:
    path = ROOT / "tests" / "typing" / file
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert (found.stdout, found.returncode) == ("", 0)
