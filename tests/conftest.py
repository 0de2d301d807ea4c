"""Shared by all tests: profiles, data, and a server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

DATA = Path(__file__).resolve().parent / "data"
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

settings.register_profile("default", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=1000)
settings.load_profile("default")


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
def shared_data() -> Path:
    """The larger data beside a developer's checkout; tests that need it are skipped where it is not."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the larger data is not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def server_address() -> Iterator[str]:
    """A real server on a free port of this machine."""
    from raq_server import ServerConfig, start_server

    with start_server(ServerConfig(address="127.0.0.1:0", grace_seconds=1)) as running:
        yield running.address
