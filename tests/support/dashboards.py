"""A dashboard in a process of its own, as a person starts it, and requests to it as anybody could send them."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.paths import DATA

ADDRESS = re.compile(r"http://([^/:]+|\[[^]]+\]):(\d+)/\?token=(\S+)")
SECONDS = 150.0


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Dashboard:
    """A running dashboard: its process, port and token."""

    process: "subprocess.Popen[str]"
    port: int
    token: str
    echo: threading.Thread

    @property
    def url(self) -> str:
        """The printed address."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """One request with exactly these headers (a `host` of our own included, unless another is given)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            named = {"host": self.host} | {name.replace("_", "-"): value for name, value in headers.items()}
            if body is not None and "content-length" not in named:
                named["content-length"] = str(len(body))
            for name, value in named.items():
                if value:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        reply = self.request("GET", path, x_raq_token=self.token)
        assert reply.status == 200, reply.body
        return reply.json

    def post(self, path: str, value: Any, **headers: str) -> Reply:
        """A write as our own pages send it."""
        given = {
            "content_type": "application/json",
            "x_raq_token": self.token,
            "origin": f"http://{self.host}",
        } | headers
        return self.request("POST", path, json.dumps(value).encode(), **given)

    def job(self, number: int) -> Any:
        """A job by its number."""
        found = self.get("/api/jobs")
        return next(each for each in (*found["unfinished"], *found["finished"]) if each["id"] == number)

    def until(self, number: int, *states: str) -> Any:
        """The job once it is in one of these states."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            job = self.job(number)
            if job["state"] in states:
                return job
            time.sleep(0.15)
        raise AssertionError(f"job {number} is {job}")

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        code = self.process.wait(SECONDS)
        self.echo.join(SECONDS)
        return code


def start(folder: Path, cache: Path, *options: str) -> Dashboard:
    """Start a dashboard on a free port of this machine."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "raq_client", "dashboard", str(folder), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = ADDRESS.search(line)
    assert found is not None, line + process.stderr.read()
    # Nothing more is printed unless something breaks; whoever reads the test's output then sees it.
    echo = threading.Thread(target=_echo, args=(process.stderr,), daemon=True)
    echo.start()
    return Dashboard(process, int(found[2]), found[3], echo)


def _echo(stream: Any) -> None:
    with stream:
        for line in stream:
            sys.stderr.write(line)


@contextmanager
def running(folder: Path, cache: Path, *options: str) -> Iterator[Dashboard]:
    """A dashboard for the duration of a block."""
    dashboard = start(folder, cache, *options)
    try:
        yield dashboard
    finally:
        if dashboard.process.poll() is None:
            assert dashboard.stop() == 130


def model_folder(folder: Path) -> Path:
    """A folder with the model of 4.46 M weights, its importance, and a short text."""
    folder.mkdir(exist_ok=True)
    for name in ("wiki-math-4M-f16.gguf", "wiki-math-4M.gsm8k.fisher.imatrix.gguf", "wiki-math-4M.wiki.imatrix.gguf"):
        (folder / name).write_bytes((DATA / name).read_bytes())
    (folder / "held-out.txt").write_text((DATA / "gsm8k.evaluation.txt").read_text()[:12_000])
    return folder
