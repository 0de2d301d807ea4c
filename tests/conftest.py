"""Shared by all tests: profiles, data, and a server."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from support.examples import USUAL
from support.paths import DATA, ROOT, SHARED

if TYPE_CHECKING:
    from support.services import Certificates, Postgres

# A shell that starts this in the background has Ctrl-C ignored, nohup the end of the terminal: tests that send these
# signals would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# As raq does for libllama: whatever test loads libgomp first, its threads sleep when they wait. Spinning, an evaluation
# takes ten times as long where other programs hold the cores.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

settings.register_profile("default", max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), max_examples=USUAL)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=1000)
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    """Let processes of pytest-xdist have one thread of BLAS each: they share the cores, and more would only wait.

    They inherit it from the process that starts them: in themselves, plugins import NumPy before this file is read.
    """
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Benchmarks are not even imported where their marker leaves them out: every process would do so for nothing."""
    return True if collection_path.name.startswith("bench_") and "not bench" in config.option.markexpr else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test of the default run that reads data outside of the repository."""
    for item in items:
        apart = any(item.get_closest_marker(name) for name in ("slow", "bench"))
        if "shared_data" in getattr(item, "fixturenames", ()) and not apart:
            raise pytest.UsageError(f"{item.nodeid} needs shared_data: mark it slow, or put its data into tests/data")
    # Files with the longest tests first: none begins when the other processes are about to end.
    items.sort(key=lambda item: item.path.relative_to(ROOT / "tests").parts[0] not in {"browser", "contract", "e2e"})


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the test data."""
    return DATA


@pytest.fixture(scope="session")
def model_path() -> Path:
    """A real model of 4.46 M weights, F16."""
    return DATA / "wiki-math-4M-f16.gguf"


@pytest.fixture(scope="session")
def imatrix_path() -> Path:
    """Its importance on GSM8K."""
    return DATA / "wiki-math-4M.gsm8k.imatrix.gguf"


@pytest.fixture(scope="session")
def fisher_path() -> Path:
    """The same with Fisher information."""
    return DATA / "wiki-math-4M.gsm8k.fisher.imatrix.gguf"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The larger data beside a developer's checkout, for slow tests and benchmarks; skips where there is none."""
    if not SHARED.is_dir():
        pytest.skip("the larger data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder of this run, one for all processes of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def _environment(run_folder: Path) -> Iterator[None]:
    """Not that of the user: no server, and a cache of this run, in which errors of one model are measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(run_folder / "cache"))
        patch.delenv("RAQ_SERVER", raising=False)
        # Many tests start processes of this code: their modules are compiled once.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        if "PYTEST_XDIST_WORKER" in os.environ:
            # Threads that wait for one another's share of a core take half as much time again.
            from raq_client.engine.model import usable_cores

            shared = max(1, usable_cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
            patch.setattr("raq_client.engine.model.usable_cores", lambda: shared)
        yield


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tables of published models' tensors."""
    from support.published_shapes import write_tables

    return write_tables(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="session")
def server_address() -> Iterator[str]:
    """A real server on a free port of this machine."""
    from support.services import serving

    with serving() as running:
        yield running.address


@pytest.fixture(scope="session")
def server_apart() -> Iterator[tuple[str, str]]:
    """A server in a process of its own: its address, and that of its metrics."""
    from support.services import serving_apart

    with serving_apart() as addresses:
        yield addresses


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> "Certificates":
    """Certificates of an authority, a server and a client."""
    from support.services import Certificates

    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def postgres() -> Iterator["Postgres"]:
    """A PostgreSQL of this run."""
    from support.services import Postgres, postgres_binaries

    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL on this machine (or, for root, no user postgres or no setpriv to run it as)")
    database = Postgres(binaries)
    database.start()
    yield database
    database.stop()
    database.remove()
