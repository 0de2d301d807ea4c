"""`raq-client init`: every key of the settings, in a file that can be read back."""

import re
from pathlib import Path

import pytest

from raq_client.cli.init import settings_text
from raq_client.files.settings import MemorySettings, Settings, read_settings
from support.commands import client


def test_it_names_the_only_model_and_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    assert client("init").code == 0
    assert read_settings(tmp_path) == Settings(model=tmp_path / "m.gguf")
    again = client("init")
    assert again.code == 2
    assert "exists" in again.err
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    assert client("init", "--force").code == 0
    assert read_settings(tmp_path) == Settings()
    missing = client("init", "none.gguf", "--force")
    assert missing.code == 2
    assert "none.gguf" in missing.err


def test_every_example_is_a_value_of_its_key(tmp_path: Path) -> None:
    text = settings_text(None)
    # An example is a comment that assigns; all others say what a key is.
    uncommented = re.sub(r"^# (?=\[memory\]|\w+ = )", "", text, flags=re.MULTILINE)
    (tmp_path / "raq.toml").write_text(uncommented)
    found = read_settings(tmp_path)
    assert found.model_fields_set == set(Settings.model_fields)
    assert found.memory.model_fields_set == set(MemorySettings.model_fields)
