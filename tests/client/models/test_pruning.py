"""Models with fewer layers, against files that gguf-py writes without them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raq_client.engine.loading import loaded
from raq_client.models.gguf_header import StoredValue, TensorInfo, stored
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.pruning import numbers_without, parse_layers, pruned_model
from raq_solver.errors import InvalidInput
from support.commands import client
from support.engine_models import MODEL, rewrite
from support.gguf_files import small_model


def without(model: ModelFile, *layers: int) -> ModelFile:
    return pruned_model(model, numbers_without(model, layers))


def with_keys(model: ModelFile, **values: StoredValue) -> ModelFile:
    return replace(model, metadata=dict(model.metadata) | {f"llama.{key}": value for key, value in values.items()})


def by_hand(path: Path, gone: int) -> Path:
    """The committed model without one of its four layers, by gguf-py."""

    def change(name: str, data: np.ndarray) -> dict[str, np.ndarray]:
        if not name.startswith("blk."):
            return {name: data}
        _, number, rest = name.split(".", 2)
        if int(number) == gone:
            return {}
        return {f"blk.{int(number) - (int(number) > gone)}.{rest}": data}

    return rewrite(path, change, {"llama.block_count": 3})


def test_the_file_is_that_which_gguf_py_writes_without_the_layer(tmp_path: Path) -> None:
    result = client("quantize", MODEL, "--prune-layers", "1", "-o", tmp_path / "p.gguf")
    assert result.code == 0, result.err
    expected = by_hand(tmp_path / "expected.gguf", 1)
    ours, theirs = open_model(tmp_path / "p.gguf"), open_model(expected)
    assert ours.value("llama.block_count") == 3
    assert ours.fingerprint() == theirs.fingerprint()
    tokens = np.arange(1, 33, dtype=np.int32)[None]
    found = []
    for path in (ours.path, expected):
        with loaded(path, context=32, threads=1) as model:
            found.append(next(iter(model.score_windows(tokens))).copy())
    np.testing.assert_array_equal(found[0], found[1])


def test_allocation_and_importance_are_those_of_the_whole_model(tmp_path: Path, imatrix_path: Path) -> None:
    """Quantizing and pruning at once gives the same tensors as quantizing the whole model."""
    types = tmp_path / "types"
    types.write_text(
        "blk.0.ffn_down.weight=q8_0\nblk.1.*=q4_k\nblk.2.ffn_down.weight=iq2_s\nblk.3.ffn_up.weight=q5_k\n"
    )
    given = ("quantize", MODEL, "-a", types, "-i", imatrix_path)
    assert client(*given, "-o", tmp_path / "whole.gguf").code == 0
    assert client(*given, "-o", tmp_path / "pruned.gguf", "--prune-layers", "1").code == 0
    whole, found = open_model(tmp_path / "whole.gguf"), open_model(tmp_path / "pruned.gguf")
    assert found.tensor("blk.1.ffn_down.weight").source_type.name == "IQ2_S"
    expected = without(whole, 1)
    assert found.tensors == expected.tensors
    assert found.fingerprint() == expected.fingerprint()


def test_metadata_of_layers_follow(tmp_path: Path) -> None:
    model = open_model(small_model(tmp_path / "m.gguf"))
    array = StoredValue(
        9, np.array([5], "<u4").tobytes() + np.array([2], "<u8").tobytes() + np.array([7, 9], "<i4").tobytes()
    )
    model = with_keys(model, heads=array, leading_dense_block_count=stored(1), other=stored(2))
    found = without(model, 0)
    assert [found.value(f"llama.{key}") for key in ("block_count", "heads", "leading_dense_block_count", "other")] == [
        1, [9], 0, 2,
    ]  # fmt: skip
    assert found.value("test.numbers") == model.value("test.numbers")
    assert without(with_keys(model, nextn_predict_layers=stored(1)), 1).value("llama.nextn_predict_layers") == 0


def test_empty_tensors_are_renamed_too(tmp_path: Path) -> None:
    model = open_model(small_model(tmp_path / "m.gguf"))
    empty = ((0, TensorInfo("blk.0.none", (0,), 0, 0)), (5, TensorInfo("blk.1.none", (0,), 0, 0)))
    found = without(replace(model, empty=empty), 0)
    names = [tensor.name for tensor in found.tensors]
    assert names == ["token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight", "output.weight"]
    assert [(at, info.name) for at, info in found.empty] == [(2, "blk.0.none")]


@pytest.mark.parametrize("text", ["", "a", "1,", "3-1", "-1", "1-", "1;2", "1e3"])
def test_what_is_no_list_of_layers(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a list of layers; write their numbers"):
        parse_layers(text)


def test_layers_that_are_not_there_and_models_of_none(tmp_path: Path) -> None:
    model = open_model(small_model(tmp_path / "m.gguf"))
    with pytest.raises(InvalidInput, match="has no layer 2, 7; its 2 layers are numbered from 0"):
        numbers_without(model, {0, 2, 7})
    with pytest.raises(InvalidInput, match="all of its 2 layers would be left out"):
        numbers_without(model, {0, 1})


def test_layers_whose_kind_depends_on_their_number(tmp_path: Path) -> None:
    model = with_keys(
        open_model(rewrite(tmp_path / "m.gguf", lambda name, data: {name: data})), full_attention_interval=stored(2)
    )
    with pytest.raises(InvalidInput, match="one layer in 2 is of another kind"):
        numbers_without(model, {1})
    assert numbers_without(model, {0, 1}) == {2: 0, 3: 1}
    assert numbers_without(model, {3}) == {0: 0, 1: 1, 2: 2}
