"""A folder with a space in its name, where models and manifests are made."""

from pathlib import Path

import pytest

from support.releases import Made


@pytest.fixture
def make(tmp_path: Path) -> Made:
    """Writes a model and its manifest, whose path it returns."""
    folder = tmp_path / "my models"
    folder.mkdir()
    return Made(folder)
