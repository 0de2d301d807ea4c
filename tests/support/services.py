"""Servers for tests, each with a store of its own; certificates; a real PostgreSQL where there is one."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import trustme

from raq_server import RunningServer, ServerConfig, start_server
from raq_solver.constraints import DistinctTypes, Monotone
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import quant_type
from raq_solver.tensors import Tensor

POSTGRES_USER = "postgres"


@contextmanager
def serving(**settings: object) -> Iterator[RunningServer]:
    """A server that is gone afterwards, with its store."""
    with tempfile.TemporaryDirectory() as folder:
        given = {
            "address": "127.0.0.1:0",
            "database": f"sqlite:///{folder}/store.sqlite",
            "workers": 1,
            "grace_seconds": 1.0,
            **settings,
        }
        with start_server(ServerConfig.model_validate(given)) as running:
            yield running


@contextmanager
def serving_apart() -> Iterator[tuple[str, str]]:
    """A server in a process of its own, for asynchronous clients: gRPC loses events of event loops that come and go
    beside others in one process. Its address, and that of its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from raq_server.cli import main; main()", "--address", "127.0.0.1:0"]
        settings = ["--workers", "1", "--metrics-address", "127.0.0.1:0", "--database", f"sqlite:///{folder}/s.sqlite"]
        with subprocess.Popen([*command, *settings], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = json.loads(process.stderr.readline())
            yield said["address"], said["metrics"]
            process.terminate()


def problem(tensors: int = 3, types: int = 2, seed: int = 0) -> Problem:
    """An easy problem; different seeds, different problems."""
    sizes = np.tile(np.arange(1, types + 1, dtype=np.int64) * 10, (tensors, 1))
    losses = np.random.default_rng(seed).random((tensors, 1)) / sizes
    names = tuple(f"t{i}" for i in range(tensors))
    weights = np.full(tensors, 64, dtype=np.int64)
    return Problem(LossTable(names, tuple(f"Q{i}" for i in range(types)), weights, sizes, losses), 15 * tensors)


def hard_problem(seed: int = 0) -> Problem:
    """A problem that takes half a minute or more: losses all but proportional to sizes, no common unit."""
    random = np.random.default_rng(seed)
    sizes = np.cumsum(random.integers(10**5, 10**7, (400, 12)), axis=1)
    losses = (sizes.max(axis=1, keepdims=True) - sizes) * 1e-9 + random.random(sizes.shape) * 1e-8
    names, types = tuple(f"t{i}" for i in range(400)), tuple(f"Q{i}" for i in range(12))
    return Problem(LossTable(names, types, sizes[:, -1] * 2, sizes, losses), int(sizes.mean(axis=1).sum()))


def general_problem(seed: int = 0) -> Problem:
    """A problem that OR-Tools solves, for a minute or more: at most four types in a hard problem."""
    hard = hard_problem(seed)
    return replace(hard, constraints=(DistinctTypes(hard.table.tensors, 4),))


def many_sides(kind: str) -> Problem:
    """3,000 tensors of 8 types, with 1,000 limits on the number of types (`distinct`) or in 50 rising rows."""
    random = np.random.default_rng(0)
    names, weights = tuple(f"t{i}" for i in range(3000)), random.integers(4, 4000, 3000) * 256
    sizes = weights[:, None] * np.arange(2, 10) // 8
    losses = np.sort(random.random((3000, 8)), axis=1)[:, ::-1] * 0.5 ** np.arange(8)
    table = LossTable(names, tuple(f"Q{i}" for i in range(8)), weights, sizes, losses)
    constraints = (
        tuple(DistinctTypes(names[3 * i : 3 * i + 3], 2) for i in range(1000))
        if kind == "distinct"
        else tuple(Monotone(names[60 * i : 60 * i + 60]) for i in range(50))
    )
    return Problem(table, int(sizes.mean(axis=1).sum()), constraints)


def profile(tensors: int = 4, seed: int = 0) -> Profile:
    """A profile of a made-up model."""
    random = np.random.default_rng(seed)
    types = tuple(map(quant_type, ("Q8_0", "Q4_K", "Q2_K")))
    errors = np.sort(random.random((tensors, 3)), axis=1)
    return Profile(
        tuple(Tensor(f"blk.{i}.ffn_up.weight", (256, 8), quant_type("F16")) for i in range(tensors)),
        types,
        errors,
        random.random(tensors),
        random.random(tensors),
        np.full(tensors, np.nan),
        {"model": f"made up {seed}"},
    )


def wait_until(reached: Callable[[], bool], seconds: float = 200) -> float:
    """Wait; returns the seconds it took."""
    start = time.monotonic()
    while not reached():
        assert time.monotonic() < start + seconds, "not reached in time"
        time.sleep(0.002)
    return time.monotonic() - start


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while it was read
        return False
    return state != "Z"


class Certificates:
    """Files of an authority made for one run, of a server at localhost and of a client."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        server, client = authority.issue_cert("localhost", "127.0.0.1"), authority.issue_cert(common_name="builder")
        self.authority = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        self.server, self.server_key = _written(folder / "server", server)
        self.client, self.client_key = _written(folder / "client", client)


def _written(stem: Path, certificate: trustme.LeafCert) -> tuple[Path, Path]:
    chain, key = stem.with_suffix(".pem"), stem.with_suffix(".key")
    chain.write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(key))
    return chain, key


class Postgres:
    """A PostgreSQL of this test run, reachable by a socket in its own folder only.

    It refuses to run as root, and `subprocess` takes another user only by fork(), which runs gRPC's handlers: while its
    threads run, the child crashes now and then, and this process may hang. So another program changes the user.
    """

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="raq-postgres-"))
        if os.getuid() == 0:
            shutil.chown(self.folder, POSTGRES_USER)
        self._server: subprocess.Popen[bytes] | None = None
        initdb = self._command("initdb", "-D", str(self.data), "-U", "raq", "-A", "trust", "--no-sync")
        done = subprocess.run(initdb, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql://raq@/postgres?host={self.folder}"

    def start(self) -> None:
        """Run it as a child of this process; returns when it answers."""
        settings = ["-k", str(self.folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        with (self.folder / "log").open("ab") as log:
            command = self._command("postgres", "-D", str(self.data), *settings)
            self._server = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        asked = [str(self._binaries / "pg_isready"), "--quiet", "--host", str(self.folder)]
        end = time.monotonic() + 120
        while subprocess.run(asked, check=False).returncode != 0:
            assert self._server.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, as a crash would."""
        assert self._server is not None
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(60)

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _command(self, program: str, *arguments: str) -> list[str]:
        other = ["setpriv", f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--clear-groups"]
        return [*(other if os.getuid() == 0 else []), str(self._binaries / program), *arguments]


def postgres_binaries() -> Path | None:
    """The newest PostgreSQL of this machine, None where it has none that can be run."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        folder = found[-1].parent
    else:
        initdb = shutil.which("initdb")
        if initdb is None:
            return None
        folder = Path(initdb).resolve().parent
    users = {entry.pw_name for entry in pwd.getpwall()}
    if os.getuid() == 0 and (POSTGRES_USER not in users or shutil.which("setpriv") is None):
        return None
    return folder
