"""Kept tensors: the key has everything that the bytes depend on, and nothing that is read back can be wrong."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raq_client.importance.imatrix import Importance
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.quantizing import tensor_store
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.quantizing.rounding import Rounding
from raq_client.quantizing.tensor_store import KeptTensors, TensorStore, clean_store, store_usage, tensor_key
from raq_solver.allocation import Allocation
from raq_solver.quant_types import quant_type
from support.builds import small_importance
from support.gguf_files import small_model

ROWS = [np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(9, dtype=np.uint8).reshape(3, 3)]
DATA = b"".join(rows.tobytes() for rows in ROWS)


def _kept(store: TensorStore, key: str = "a" * 64) -> bytes:
    return b"".join(rows.tobytes() for rows in store.keep(key, iter(ROWS)))


def _read(store: TensorStore, key: str = "a" * 64) -> bytes | None:
    found = store.read(key, 3)
    return None if found is None else b"".join(rows.tobytes() for rows in found)


def test_what_passed_through_is_kept(tmp_path: Path) -> None:
    store = TensorStore(tmp_path / "tensors")
    assert _read(store) is None
    assert _kept(store) == DATA
    assert _read(store) == DATA
    assert (store.usage().tensors, store.usage().size) == (1, len(DATA) + 32)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_a_damaged_tensor_is_not_read_and_removed(tmp_path: Path, damage: str) -> None:
    store = TensorStore(tmp_path)
    _kept(store)
    path = next(path for path in tmp_path.rglob("*") if path.is_file())
    data = path.read_bytes()
    changed = {"flip": b"\xff" + data[1:], "cut": data[:-5], "empty": b"", "longer": data + b"\0"}
    path.write_bytes(changed[damage])
    assert _read(store) is None
    assert not path.exists()
    assert _kept(store) == DATA
    assert _read(store) == DATA


def test_a_tensor_that_was_not_read_to_its_end_is_not_kept(tmp_path: Path) -> None:
    store = TensorStore(tmp_path)
    begun = store.keep("b" * 64, iter(ROWS))
    next(begun)
    begun.close()  # type: ignore[attr-defined]  # a generator
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def failing() -> Iterator[np.ndarray]:
        yield ROWS[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(store.keep("b" * 64, failing()))
    assert store.usage().tensors == 0


def test_the_store_is_bounded_and_drops_what_was_not_used_for_longest(tmp_path: Path) -> None:
    one = len(DATA) + 32
    store = TensorStore(tmp_path, most_bytes=3 * one)
    for number, key in enumerate("cdef"):
        if key == "f":
            assert _read(store, "c" * 64) == DATA  # used again, so that d is the oldest
        _kept(store, key * 64)
        path = tmp_path / (2 * key) / (64 * key)
        if key != "f":
            os.utime(path, (number, number))
    assert _read(store, "d" * 64) is None
    assert _read(store, "c" * 64) == DATA
    assert store.usage().size <= 3 * one
    tiny = TensorStore(tmp_path / "tiny", most_bytes=one - 1)
    assert _kept(tiny) == DATA
    assert tiny.usage().tensors == 0


def test_a_store_is_shown_and_cleaned(tmp_path: Path) -> None:
    assert store_usage(tmp_path / "none").tensors == 0
    store = TensorStore(tmp_path)
    for key in "abc":
        _kept(store, key * 64)
    stale = tmp_path / "aa" / ".x.00000000.partial"
    stale.write_bytes(b"left by a killed process")
    dropped = clean_store(tmp_path, keep_bytes=len(DATA) + 32)
    assert (dropped.tensors, store_usage(tmp_path).tensors) == (2, 1)
    assert not stale.exists()
    assert clean_store(tmp_path).tensors == 1
    assert store_usage(tmp_path).size == 0


@pytest.fixture
def importance(tmp_path: Path) -> Importance:
    model = small_model(tmp_path / "m.gguf")
    return read_importance(small_importance(model, tmp_path / "i.gguf"))


def test_the_key_changes_with_everything_that_the_bytes_depend_on(
    tmp_path: Path, importance: Importance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, other = open_model(tmp_path / "m.gguf"), open_model(small_model(tmp_path / "n.gguf", seed=1))
    tensor, wanted, by = model.tensor("blk.0.attn_q.weight"), quant_type("Q4_K"), Rounding(importance)
    keys = [
        tensor_key(model, tensor, wanted, by),
        tensor_key(other, tensor, wanted, by),
        tensor_key(model, tensor, quant_type("Q5_K"), by),
        tensor_key(model, tensor, wanted, Rounding(None)),
        tensor_key(model, tensor, wanted, replace(by, effort="best")),
        tensor_key(model, model.tensor("blk.1.attn_q.weight"), wanted, by),
    ]
    changed = read_importance(small_importance(tmp_path / "m.gguf", tmp_path / "j.gguf", blk_0_attn_q=3.0, seed=2))
    keys.append(tensor_key(model, tensor, wanted, Rounding(changed)))
    monkeypatch.setattr(tensor_store, "kernels_digest", lambda: "other kernels")
    keys.append(tensor_key(model, tensor, wanted, by))
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_change_with_names_threads_or_other_tensors(tmp_path: Path, importance: Importance) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes((tmp_path / "m.gguf").read_bytes())
    model, other = open_model(tmp_path / "m.gguf"), open_model(copy)
    tensor, wanted = model.tensor("blk.0.attn_q.weight"), quant_type("Q4_K")
    key = tensor_key(model, tensor, wanted, Rounding(importance))
    assert tensor_key(other, other.tensor(tensor.name), wanted, Rounding(importance, threads=3)) == key
    entries = {**importance.entries, "blk.1.attn_q.weight": importance.entries["blk.0.attn_q.weight"]}
    assert tensor_key(model, tensor, wanted, Rounding(replace(importance, entries=entries))) == key


def test_a_file_of_kept_tensors_is_the_file_without_a_store(tmp_path: Path, importance: Importance) -> None:
    model = open_model(tmp_path / "m.gguf")
    types = {t.name: "Q4_K" if "attn_q" in t.name else t.source_type.name for t in model.tensors}
    types["blk.0.ffn_down_exps.weight"] = "Q6_K"
    plain = quantize_model(Quantization(model, Allocation(types), tmp_path / "plain.gguf", Rounding(importance)))
    store = TensorStore(tmp_path / "tensors")
    for name in ("first", "second"):
        kept = KeptTensors(store, model)
        written = quantize_model(
            Quantization(model, Allocation(types), tmp_path / f"{name}.gguf", Rounding(importance)), keep=kept
        )
        assert written.sha256 == plain.sha256
        assert (tmp_path / f"{name}.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()
        assert (len(kept.quantized), len(kept.reused)) == ((3, 0) if name == "first" else (0, 3))


def test_without_a_place_for_the_store_the_file_is_the_same(
    tmp_path: Path, importance: Importance, caplog: pytest.LogCaptureFixture
) -> None:
    model = open_model(tmp_path / "m.gguf")
    types = {t.name: "Q4_K" if "attn_q" in t.name else t.source_type.name for t in model.tensors}
    plain = quantize_model(Quantization(model, Allocation(types), tmp_path / "plain.gguf", Rounding(importance)))
    (tmp_path / "file").write_bytes(b"")
    kept = KeptTensors(TensorStore(tmp_path / "file" / "tensors"), model)
    written = quantize_model(
        Quantization(model, Allocation(types), tmp_path / "out.gguf", Rounding(importance)), keep=kept
    )
    assert written.sha256 == plain.sha256
    assert "can't be kept" in caplog.text
