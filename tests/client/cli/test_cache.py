"""`raq-client cache`: parts, sizes, and what is removed."""

import os
from pathlib import Path

import pytest

from support.commands import client


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "raq"
    for name, size in {"measurements/a.jsonl": 10, "tensors/0f/b": 20, "tensors/c": 30, "options.json": 5}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(size))
    return folder


def test_parts_add_up(cache: Path) -> None:
    found = client("cache", "show", "--json")
    assert found.code == 0
    sizes = {each["name"]: (each["files"], each["bytes"]) for each in found.json["parts"]}
    assert sizes == {"measurements": (1, 10), "tensors": (2, 50), ".": (1, 5)}
    assert found.json["bytes"] == 65
    assert "65 bytes" in client("cache", "show").out


def test_only_the_named_part_is_removed(cache: Path) -> None:
    assert client("cache", "clean", "tensors").code == 0
    left = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert left == {"measurements/a.jsonl", "options.json"}
    assert client("cache", "clean").code == 0
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert client("cache", "show", "--json").json["parts"] == []


def test_young_files_stay(cache: Path) -> None:
    os.utime(cache / "tensors" / "c", (0, 0))
    assert client("cache", "clean", "--older-than", "1", "--json").json[1] == {
        "name": "tensors",
        "files": 1,
        "bytes": 30,
    }
    assert (cache / "tensors" / "0f" / "b").exists()


def test_a_link_is_removed_and_what_it_names_stays(cache: Path, tmp_path: Path) -> None:
    precious = tmp_path / "model.gguf"
    precious.write_bytes(b"GGUF")
    (cache / "tensors" / "link").symlink_to(precious)
    (cache / "elsewhere").symlink_to(tmp_path)
    assert client("cache", "clean").code == 0
    assert precious.read_bytes() == b"GGUF"
    assert not (cache / "tensors").exists()


def test_a_part_that_is_none_is_refused_before_anything_is_removed(cache: Path) -> None:
    found = client("cache", "clean", "tensors", "../..")
    assert found.code == 2
    assert "is no part of the cache" in found.err
    assert (cache / "tensors" / "c").exists()
