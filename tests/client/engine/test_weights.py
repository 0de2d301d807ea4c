from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client import engine
from support.engine_models import MODEL, TEXT, rewrite, write_mixture, write_quantized, write_tied
from support.gguf_files import Reader


@pytest.fixture(scope="module")
def model() -> Iterator[engine.Engine]:
    with engine.load(MODEL, context=64, threads=2, editable=True) as loaded:
        yield loaded


def _logits(model: engine.Engine) -> np.ndarray:
    window = model.tokenize(TEXT[:1000])[:64].reshape(1, 64)
    return next(model.score_windows(window)).copy()


def test_weights_are_those_of_the_file(model: engine.Engine) -> None:
    in_file = {tensor.name: tensor for tensor in Reader(MODEL).tensors}
    matrices = {name for name, tensor in in_file.items() if tensor.tensor_type == gguf.GGMLQuantizationType.F16}
    weights = model.weights()
    assert set(weights) == matrices
    for name in weights:
        np.testing.assert_array_equal(weights.read(name)[0], in_file[name].data.astype(np.float32))
        assert weights[name].shape[::-1][:2] == tuple(in_file[name].shape)


def test_a_replaced_weight_acts_and_is_put_back_exactly(model: engine.Engine) -> None:
    before = _logits(model)
    weights = model.weights()
    noise = np.random.default_rng(0)
    for name in ("token_embd.weight", "blk.2.ffn_down.weight", "output.weight"):
        stored = weights.stored(name)
        values = weights.read(name) * noise.normal(1, 0.5, weights[name].shape).astype(np.float32)
        with weights.replaced({name: values}):
            assert abs(_logits(model) - before).max() > 0.5
        np.testing.assert_array_equal(weights.stored(name), stored)
    np.testing.assert_array_equal(_logits(model), before)


def test_replacing_the_output_head_scales_the_logits(model: engine.Engine) -> None:
    weights = model.weights()
    before = _logits(model)
    with weights.replaced({"output.weight": 2 * weights.read("output.weight")}):
        np.testing.assert_allclose(_logits(model), 2 * before, atol=1e-3)


def test_weights_are_put_back_after_an_error(model: engine.Engine) -> None:
    weights = model.weights()
    name = "blk.0.attn_q.weight"
    stored = weights.stored(name)

    def fail() -> None:
        with weights.replaced({name: 0 * weights.read(name)}):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    np.testing.assert_array_equal(weights.stored(name), stored)


def test_old_bytes_can_come_from_elsewhere_and_values_one_by_one(model: engine.Engine) -> None:
    weights = model.weights()
    stored = {name: weights.stored(name) for name in ("blk.0.attn_q.weight", "blk.1.attn_q.weight")}
    asked: list[str] = []

    def original(name: str) -> np.ndarray:
        asked.append(name)
        return stored[name]

    before = _logits(model)
    with weights.replaced(((name, 0 * weights.read(name)) for name in stored), original):
        assert asked == []
        assert not weights.read("blk.1.attn_q.weight").any()
    assert asked == list(stored)
    np.testing.assert_array_equal(_logits(model), before)


def test_in_place_equals_a_file_with_the_same_weights(model: engine.Engine, tmp_path: Path) -> None:
    half = {name: np.trunc(model.weights().read(name) * 64) / 64 for name in model.weights()}

    def change(name: str, data: np.ndarray) -> dict[str, np.ndarray]:
        return {name: half[name][0].astype(np.float16) if name in half else data}

    with model.weights().replaced(half):
        in_place = _logits(model)
    with engine.load(rewrite(tmp_path / "half.gguf", change), context=64, threads=2) as loaded:
        np.testing.assert_array_equal(in_place, _logits(loaded))


def test_a_shared_embedding_is_replaced_in_both_its_uses(tmp_path: Path) -> None:
    with engine.load(write_tied(tmp_path / "tied.gguf"), context=64, threads=2, editable=True) as tied:
        weights = tied.weights()
        assert "output.weight" not in weights
        before = _logits(tied)
        # The norm behind the embedding forgets its length, so only the output head sees the factor.
        with weights.replaced({"token_embd.weight": 2 * weights.read("token_embd.weight")}):
            doubled = _logits(tied)
        ratio = np.linalg.norm(doubled) / np.linalg.norm(before)
        assert 1.5 < ratio < 2.5
        np.testing.assert_array_equal(_logits(tied), before)


def test_stacked_experts_can_be_replaced(tmp_path: Path) -> None:
    path = write_mixture(tmp_path / "mixture.gguf", experts=4, used=2)
    with engine.load(path, context=64, threads=2, editable=True) as mixture:
        weights = mixture.weights()
        name = "blk.1.ffn_up_exps.weight"
        assert weights[name].shape == (4, 512, 256)
        before = _logits(mixture)
        with weights.replaced({name: 0 * weights.read(name)}):
            assert abs(_logits(mixture) - before).max() > 0.01
        np.testing.assert_array_equal(_logits(mixture), before)


def test_blocks_cannot_be_written(tmp_path: Path) -> None:
    path = write_quantized(tmp_path / "q4.gguf", gguf.GGMLQuantizationType.Q4_0)
    with engine.load(path, context=64, threads=2, editable=True) as quantized:
        assert not quantized.weights()["output.weight"].writable


@pytest.mark.parametrize("type_number", [0, 1, 30], ids=["F32", "F16", "BF16"])
def test_plain_floats_are_rounded_to_nearest_even(type_number: int) -> None:
    from raq_client.engine.weights import _from_floats, _to_floats

    values = np.random.default_rng(0).normal(0, 3, 1000).astype(np.float32)
    values[:4] = (0.0, -0.0, 1.00390625, -65504.0)
    found = _to_floats(_from_floats(values, type_number), type_number)
    quant_type = gguf.GGMLQuantizationType(type_number)
    expected = gguf.quants.dequantize(gguf.quants.quantize(values, quant_type), quant_type)
    np.testing.assert_array_equal(found, expected)
