"""A hub on this machine, which the hub's library takes for the real one, with a cache of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raq_client.hub.download import find
from support.fake_hub import Hub, running_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import close_session, constants

    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        find.cache_clear()
        yield running
        find.cache_clear()
        close_session()
