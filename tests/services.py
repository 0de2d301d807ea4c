"""Servers for tests, each with a store of its own; certificates; a real PostgreSQL where there is one."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import trustme

from raq_server import RunningServer, ServerConfig, start_server
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import quant_type
from raq_solver.tensors import Tensor


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
            # Whoever does not read the log stops the server once the pipe is full.
            threading.Thread(target=process.stderr.read, daemon=True).start()
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
    """A problem that takes much longer than any test: losses all but proportional to sizes, no common unit."""
    random = np.random.default_rng(seed)
    sizes = np.cumsum(random.integers(10**5, 10**7, (400, 12)), axis=1)
    losses = (sizes.max(axis=1, keepdims=True) - sizes) * 1e-9 + random.random(sizes.shape) * 1e-9
    names, types = tuple(f"t{i}" for i in range(400)), tuple(f"Q{i}" for i in range(12))
    return Problem(LossTable(names, types, sizes[:, -1] * 2, sizes, losses), int(sizes.mean(axis=1).sum()))


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
    """A PostgreSQL of this test run, reachable by a socket in its own folder only."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="raq-postgres-"))
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.getuid() == 0 else None
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self._run("initdb", "-D", str(self.data), "-U", "raq", "-A", "trust", "--no-sync")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql://raq@/postgres?host={self.folder}"

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        self._run("pg_ctl", "-D", str(self.data), "-o", options, "-l", str(self.folder / "log"), "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        subprocess.run(
            command, check=True, user=self._user, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )


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
    if os.getuid() == 0 and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        return None
    return folder
