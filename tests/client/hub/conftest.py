"""A hub on this machine, which the hub's library takes for the real one, with a cache of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_hub import Hub, hub_in_use


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_in_use(tmp_path, monkeypatch) as running:
        yield running
