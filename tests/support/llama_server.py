"""llama.cpp's own server, as the package xllamacpp has it, in a process of its own: the real runtime behind raq."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROGRAM = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_parallel, params.n_ctx = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params.cpuparams.n_threads, params.port, params.warmup, params.cache_ram_mib = 1, 0, False, 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def llama_server(model: Path, *, slots: int = 2, context: int = 1024) -> Iterator[str]:
    """Its address; `context` tokens are shared by the slots."""
    command = [sys.executable, "-c", _PROGRAM, str(model), str(slots), str(context)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http"), "the server did not start"
            _wait(address)
            yield address
        finally:
            process.kill()


def post(address: str, path: str, body: Any) -> Any:
    """The answer to a request, both JSON."""
    with urllib.request.urlopen(f"{address}{path}", json.dumps(body).encode(), timeout=60) as answer:
        return json.load(answer)


def _wait(address: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the server is not ready")
