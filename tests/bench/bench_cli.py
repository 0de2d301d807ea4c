"""Processor time (user and system) of commands that only show something, beside other programs."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from support.machine import header

RUNS = 15
BESIDE = Path(sys.executable).parent


def seconds(*command: str) -> list[float]:
    """Processor seconds of each run, the first left out."""
    found = []
    for _ in range(RUNS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return found[1:]


@pytest.mark.bench
def test_commands_that_only_show() -> None:
    header("processor seconds of commands, lowest and median of 15 runs")
    client = str(BESIDE / "raq-client")
    for command in (
        (sys.executable, "-c", "pass"),
        (client, "--help"),
        (client, "--version"),
        (client, "imatrix", "--help"),
        (client, "run", "--help"),
        (sys.executable, "-c", "import typer"),
        *((found, "--help") for name in ("ruff", "uv") if (found := shutil.which(name, path=str(BESIDE)))),
    ):
        taken = seconds(*command)
        print(f"{' '.join((Path(command[0]).name, *command[1:])):<28} {min(taken):.3f} {median(taken):.3f}")
