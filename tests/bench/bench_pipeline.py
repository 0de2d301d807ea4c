"""The README's main job and the import, in seconds: what a stranger waits for after installing.

pytest -m bench -s tests/bench/bench_pipeline.py
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.machine import header

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

COMMAND = Path(sys.executable).with_name("raq-client")


def seconds(*command: object) -> float:
    start = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return time.perf_counter() - start


def test_pipeline(tmp_path: Path, data: Path, model_path: Path, imatrix_path: Path) -> None:
    header("Wall seconds of whole commands")
    text, out = data / "gsm8k.evaluation.txt", tmp_path / "out.gguf"
    run = (COMMAND, "run", model_path, "--budget", "5.0", "-i", imatrix_path, "-o", out, "--force")
    print("\n| what | s |\n|---|---|")
    for what, command in (
        ("raq-client run, 4M model, checked on 135 windows", (*run, "--text", text)),
        ("the same, not checked", run),
        ("import raq_client", (sys.executable, "-c", "import raq_client")),
        ("raq-client --version", (COMMAND, "--version")),
    ):
        print(f"| {what} | {min(seconds(*command) for _ in range(3)):.2f} |", flush=True)
    assert out.exists()
