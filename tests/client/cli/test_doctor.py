"""`raq-client doctor`: what it finds, and the exit code when something is missing."""

from pathlib import Path

import pytest

from support.commands import client


def test_everything_needed_is_found_here() -> None:
    found = client("doctor", "--json")
    assert found.code == 0, found.err
    names = {each["name"] for each in found.json}
    assert names >= {"versions", "system", "processor", "GPU", "libllama", "cache", "disk of this folder"}
    assert not any(each["trouble"] for each in found.json)
    assert "libllama" in client("doctor").out


def test_a_missing_libllama_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAQ_LIBLLAMA", str(tmp_path / "none.so"))
    found = client("doctor", "--json")
    assert found.code == 2
    (trouble,) = [each["trouble"] for each in found.json if each["name"] == "libllama"]
    assert "there is no such libllama" in trouble
