"""The forward pass in NumPy gives libllama's logits for every architecture, and one wrong fact is seen."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from scipy.special import log_softmax

from raq_client import engine
from raq_client.curvature.network import Network
from raq_client.curvature.passes import require_agreement
from raq_client.curvature.shapes import ARCHITECTURES, Shape, shape_of
from raq_client.engine import Engine, scored_positions
from raq_client.models.model_file import open_model
from raq_solver.errors import InvalidInput
from support.engine_models import MODEL, TEXT
from support.gguf_files import small_model
from support.tiny_models import CASES, write_tiny

CONTEXT = 64


def _window(loaded: Engine) -> np.ndarray:
    window = loaded.tokenize(TEXT[:2000])[:CONTEXT].copy()
    window[0] = loaded.begin_token
    return window


def _divergence(path: Path) -> float:
    """Mean KL divergence of our logits from libllama's, nats per token."""
    model = open_model(path)
    with engine.load(path, context=CONTEXT, threads=1) as loaded:
        window = _window(loaded)
        ours = log_softmax(Network(model, shape_of(model), CONTEXT).logits(window, scored_positions(CONTEXT)), axis=1)
        theirs = log_softmax(next(iter(loaded.score_windows(window[None]))), axis=1)
    assert ours.shape == theirs.shape
    return float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean())


@pytest.mark.parametrize("case", CASES)
def test_logits_are_libllamas(case: str, tmp_path: Path) -> None:
    assert _divergence(write_tiny(tmp_path / "tiny.gguf", CASES[case])) < 2e-5


def test_logits_of_a_trained_model_are_libllamas() -> None:
    assert _divergence(MODEL) < 2e-5


def test_every_architecture_is_tried() -> None:
    assert {tiny.architecture for tiny in CASES.values()} == set(ARCHITECTURES)


def _rope(shape: Shape, **values: float) -> Shape:
    wrong = replace(shape.rope, **values)
    return replace(shape, rope=wrong, local_rope=wrong if shape.local_rope is shape.rope else shape.local_rope)


def _everywhere(shape: Shape) -> Shape:
    return replace(shape, local=(False,) * shape.blocks)


Change = Callable[[Shape], Shape]
WRONG: Mapping[str, tuple[str, Change]] = {
    "base": ("llama", lambda s: _rope(s, base=10 * s.rope.base)),
    "scale": ("llama, linear scaling", lambda s: _rope(s, scale=1.0)),
    "size": ("qwen35", lambda s: _rope(s, size=16)),
    "magnitude": ("phi3, long", lambda s: _rope(s, magnitude=1.0)),
    "context": ("phi3, long", lambda s: _rope(s, original=32)),
    "pairs": ("llama", lambda s: replace(s, traits=replace(s.traits, interleaved=False))),
    "plain blocks": ("smollm3", lambda s: replace(s, traits=replace(s.traits, plain_every=0))),
    "no window": ("gemma2", _everywhere),
    "another window": ("gemma3", lambda s: replace(s, window=6)),
    "another pattern": ("gemma3, another pattern", lambda s: replace(s, local=s.local[::-1])),
    "local base": ("gemma3", lambda s: replace(s, local_rope=replace(s.local_rope, base=s.rope.base))),
    "local scale": ("olmo2, sliding window", lambda s: replace(s, local_rope=s.rope)),
    "attention's cap": ("gemma2", lambda s: replace(s, attention_cap=0.0)),
    "logits' cap": ("gemma2", lambda s: replace(s, final_cap=0.0)),
    "activation": ("gemma", lambda s: replace(s, traits=replace(s.traits, activation="silu"))),
    "attention's scale": ("gemma2, 46 blocks", lambda s: replace(s, attention_scale=s.head_size**-0.5)),
    "embedding's scale": ("gemma", lambda s: replace(s, embedding_scale=1.0)),
    "residual's scale": ("granite", lambda s: replace(s, residual_scale=1.0)),
    "logits' scale": ("granitemoe", lambda s: replace(s, logit_scale=1.0)),
    "given attention's scale": ("granite", lambda s: replace(s, attention_scale=s.head_size**-0.5)),
    "experts' weights": ("qwen2moe", lambda s: replace(s, traits=replace(s.traits, normed_experts=True))),
    "experts in use": ("qwen3moe", lambda s: replace(s, experts_used=1)),
}


@pytest.mark.parametrize("fact", WRONG)
def test_a_wrong_fact_is_refused(fact: str, tmp_path: Path) -> None:
    case, change = WRONG[fact]
    path = write_tiny(tmp_path / "tiny.gguf", CASES[case])
    model = open_model(path)
    shape = shape_of(model)
    with engine.load(path, context=CONTEXT, threads=1) as loaded:
        require_agreement(Network(model, shape, CONTEXT), loaded, _window(loaded))
        with pytest.raises(InvalidInput, match=r"differs from libllama's by .* nats per token"):
            require_agreement(Network(model, change(shape), CONTEXT), loaded, _window(loaded))


@pytest.mark.parametrize("tensor", ["blk.1.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"])
def test_another_gain_of_a_norm_is_refused(tensor: str, tmp_path: Path) -> None:
    tiny = CASES["llama"]
    other = open_model(write_tiny(tmp_path / "other.gguf", tiny, changed={tensor: 2.0}))
    with (
        engine.load(write_tiny(tmp_path / "tiny.gguf", tiny), context=CONTEXT, threads=1) as loaded,
        pytest.raises(InvalidInput, match="its Fisher information would be wrong"),
    ):
        require_agreement(Network(other, shape_of(other), CONTEXT), loaded, _window(loaded))


@pytest.mark.parametrize("tensor", ["blk.1.ffn_up.weight", "token_embd.weight", "output.weight"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_named(tensor: str, bad: float, tmp_path: Path) -> None:
    model = open_model(write_tiny(tmp_path / "other.gguf", CASES["llama"], changed={tensor: bad}))
    with pytest.raises(InvalidInput, match=f"{tensor}: has weights that are NaN or infinite"):
        Network(model, shape_of(model), CONTEXT).logits(np.zeros(CONTEXT, np.int32), slice(0, 1))


def test_an_architecture_that_is_not_written_down_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"needs one of the architectures llama, qwen2.* this is mamba"):
        shape_of(open_model(small_model(tmp_path / "m.gguf", architecture="mamba")))


def test_facts_that_are_missing_or_differ_by_block_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"llama.embedding_length is missing"):
        shape_of(open_model(small_model(tmp_path / "m.gguf")))
    path = write_tiny(tmp_path / "tiny.gguf", CASES["llama"])
    assert shape_of(open_model(path)).groups == 2
    uneven = replace(CASES["llama"], metadata={"attention.head_count_kv": [1, 2]})
    with pytest.raises(InvalidInput, match=r"llama.attention.head_count_kv is no single number"):
        shape_of(open_model(write_tiny(tmp_path / "uneven.gguf", uneven)))
    alike = replace(CASES["llama"], metadata={"attention.head_count_kv": [2, 2]})
    assert shape_of(open_model(write_tiny(tmp_path / "alike.gguf", alike))).groups == 2


def test_tensors_that_a_block_lacks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lacking.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(8)
    writer.add_head_count(2)
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((4, 8), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.ones((8, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = open_model(path)
    with pytest.raises(InvalidInput, match=r"blk.0.attn_k.weight: is not in the file"):
        Network(model, shape_of(model), 4).logits(np.zeros(4, np.int32), slice(0, 4))
