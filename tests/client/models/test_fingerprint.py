"""Fingerprints: every byte of every tensor counts, and no state of a file is taken for another."""

import os
import time
from pathlib import Path

import pytest

from raq_client.models import fingerprint
from raq_client.models.model_file import open_model
from raq_solver.errors import InvalidInput
from support.gguf_files import small_model, split_model


def spoil(path: Path, name: str, at: int) -> None:
    """Turn a bit of byte `at` of a tensor's data, in place."""
    model = open_model(path)
    stored = model.stored(model.tensor(name)).tobytes()
    place = path.read_bytes().index(stored)
    with path.open("r+b") as file:
        file.seek(place + at)
        file.write(bytes([stored[at] ^ 1]))


@pytest.mark.parametrize("at", [0, 65_535, 70_001, 131_071])
def test_a_single_bit_anywhere_makes_another_model(tmp_path: Path, at: int) -> None:
    path = small_model(tmp_path / "model.gguf")
    before = open_model(path).fingerprint()
    assert open_model(path).fingerprint() == before == open_model(small_model(tmp_path / "same.gguf")).fingerprint()
    spoil(path, "blk.0.attn_q.weight", at)
    assert open_model(path).fingerprint() != before
    spoil(path, "blk.0.attn_q.weight", at)
    assert open_model(path).fingerprint() == before


def test_the_shards_of_a_model_have_one_fingerprint_and_all_of_them_count(tmp_path: Path) -> None:
    shards = split_model(tmp_path)
    before = {open_model(shard).fingerprint() for shard in shards}
    assert len(before) == 1
    with shards[1].open("r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(b"1")
    assert {open_model(shard).fingerprint() for shard in shards}.isdisjoint(before)


def test_a_known_state_is_not_read_again_and_a_changed_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "KEPT_FROM", 0)
    path = small_model(tmp_path / "model.gguf")
    now = time.time_ns()
    monkeypatch.setattr(fingerprint.time, "time_ns", lambda: now + 10 * 10**9)
    before = open_model(path).fingerprint()
    fingerprint._known.cache_clear()  # as in the next process
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_computed", lambda _: "read again")
        assert open_model(path).fingerprint() == before
    spoil(path, "blk.0.attn_q.weight", 70_001)
    assert open_model(path).fingerprint() != before
    assert len((tmp_path / "cache" / "raq" / "fingerprints.jsonl").read_text().splitlines()) == 2


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = small_model(tmp_path / "model.gguf")
    model = open_model(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InvalidInput, match="has become shorter"):
        model.fingerprint()
