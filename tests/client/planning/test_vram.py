"""Figures of real llama.cpp logs of Qwen3.6-27B (research on the RA articles) are the witnesses here."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.models.gguf_header import Value
from raq_client.models.read_table import read_table
from raq_client.models.table import ModelTable
from raq_client.planning.memory_budget import (
    Serving,
    device_bytes,
    largest_context,
    memory_terms,
    parse_context,
    parse_size,
    weights_budget,
)
from raq_client.planning.memory_shape import Layer, MemoryShape, memory_shape
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor
from support.gguf_files import MODEL_4M

MIB, GIB = 2**20, 2**30
Q4_0, Q8_0, F16 = CATALOGUE["Q4_0"], CATALOGUE["Q8_0"], CATALOGUE["F16"]
QWEN36 = {
    "block_count": 64,
    "context_length": 262_144,
    "embedding_length": 5120,
    "attention.head_count": 24,
    "attention.head_count_kv": 4,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "full_attention_interval": 4,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 128,
    "ssm.group_count": 16,
    "ssm.inner_size": 6144,
}


def _table(architecture: str, keys: dict[str, Value], vocabulary: int = 1000) -> ModelTable:
    embedding = Tensor("token_embd.weight", (256, vocabulary), F16)
    return ModelTable("m", architecture, (embedding,), {f"{architecture}.{key}": value for key, value in keys.items()})


@pytest.fixture
def qwen36() -> MemoryShape:
    return memory_shape(_table("qwen35", dict(QWEN36), 248_320))


def _size(shape: MemoryShape, serving: Serving, name: str) -> float:
    return {term.name: term.size for term in memory_terms(shape, serving)}[name] / MIB


def test_terms_are_those_of_real_logs(qwen36: MemoryShape) -> None:
    assert _size(qwen36, Serving(177_152), "keys and values") == 11_072
    assert _size(qwen36, Serving(131_072, Q8_0, Q8_0), "keys and values") == 4_352
    assert _size(qwen36, Serving(1, sequences=4), "recurrent state") == 598.5
    assert _size(qwen36, Serving(1), "recurrent state") == 149.625
    assert _size(qwen36, Serving(1), "compute buffer") == 485
    assert _size(qwen36, Serving(262_144, Q4_0, Q4_0), "keys and values") == 4_608
    (keys_and_values, *_) = memory_terms(qwen36, Serving(1, Q4_0, Q4_0))
    assert keys_and_values.formula == "256 tokens × 18,432 bytes"


def test_shapes_tell_the_same_as_metadata(qwen36: MemoryShape, shapes: Path) -> None:
    found = memory_shape(read_table(shapes / "qwen36_27b_tensors.csv"))
    assert (found.layers, found.vocabulary) == (qwen36.layers, qwen36.vocabulary)


# With 3,100 MiB of everything but weights and cache, the ladder's sizes give the contexts worked out for the article.
@pytest.mark.parametrize(
    ("size", "thousands"),
    [(18_299_242_496, 228), (18_395_334_656, 223), (18_690_861_056, 207), (19_115_493_376, 184), (20_531_070_976, 107)],
)
def test_contexts_of_the_ra_ladder(qwen36: MemoryShape, size: int, thousands: int) -> None:
    overhead = int((3_100 - 149.625 - 485) * MIB)
    context = largest_context(24 * GIB, size, qwen36, Serving(1, Q4_0, Q4_0, overhead=overhead))
    assert context // 1000 == thousands
    assert context % 256 == 0


def test_the_models_own_limit_is_kept(qwen36: MemoryShape) -> None:
    assert largest_context(80 * GIB, 10 * GIB, qwen36, Serving(1)) == 262_144
    assert largest_context(16 * GIB, 16 * GIB, qwen36, Serving(1)) == 0


@given(
    memory=st.integers(8 * GIB, 64 * GIB),
    context=st.integers(1, 200_000),
    sequences=st.integers(1, 8),
    cache=st.sampled_from([Q4_0, Q8_0, F16]),
)
def test_the_budget_for_a_context_holds_that_context_and_no_more(
    memory: int, context: int, sequences: int, cache: object
) -> None:
    shape = MemoryShape((Layer(1024, 1024, 0, 5000), Layer(512, 512, 4096, 0)) * 16, 32_000, 0)
    serving = Serving(context, cache, cache, sequences, overhead=GIB)  # type: ignore[arg-type]
    try:
        budget = weights_budget(memory, shape, serving)
    except InvalidInput:
        assert sum(term.size for term in memory_terms(shape, serving)) >= memory
        return
    assert budget.weights + sum(term.size for term in budget.terms) == memory
    fitting = largest_context(memory, budget.weights, shape, serving)
    assert context <= fitting < context + 256
    assert largest_context(memory, budget.weights + 1, shape, serving) < fitting


def test_plain_attention() -> None:
    shape = memory_shape(read_table(MODEL_4M))
    # 4 blocks, 2 key-value heads of 256 / 4 = 64 numbers.
    assert shape.layers == (Layer(128, 128, 0, 0),) * 4
    assert (shape.vocabulary, shape.longest_context) == (4096, 512)


def test_sliding_windows_stop_growing() -> None:
    keys: dict[str, Value] = {
        "block_count": 12,
        "embedding_length": 512,
        "attention.head_count": 8,
        "attention.head_count_kv": 4,
        "attention.sliding_window": 1024,
    }
    shape = memory_shape(_table("gemma3", keys))
    assert [layer.window for layer in shape.layers] == [1024] * 5 + [0] + [1024] * 5 + [0]
    short, long = (_size(shape, Serving(context), "sliding windows") for context in (8192, 65_536))
    assert short == long == 10 * 2 * 4 * 64 * 2 * 1536 / MIB
    listed = memory_shape(_table("any", keys | {"attention.sliding_window_pattern": [True, False] * 6}))
    assert [layer.window for layer in listed.layers] == [1024, 0] * 6
    assert all(layer.window == 0 for layer in memory_shape(_table("llama", keys)).layers)


def test_latent_attention_keeps_one_key() -> None:
    keys: dict[str, Value] = {
        "block_count": 3,
        "nextn_predict_layers": 1,
        "attention.head_count": 128,
        "attention.head_count_kv": 1,
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
        "attention.kv_lora_rank": 512,
    }
    assert memory_shape(_table("deepseek2", keys)).layers == (Layer(576, 0, 0, 0),) * 2


def test_recurrent_families() -> None:
    mamba: dict[str, Value] = {
        "block_count": 2,
        "embedding_length": 64,
        "attention.head_count": 0,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 16,
        "ssm.inner_size": 128,
    }
    assert memory_shape(_table("mamba", mamba)).layers == (Layer(0, 0, 0, 3 * 128 + 16 * 128),) * 2
    jamba = mamba | {"attention.head_count": 4, "attention.head_count_kv": [0, 2]}
    assert memory_shape(_table("jamba", jamba)).layers == (Layer(0, 0, 0, 2432), Layer(32, 32, 0, 0))
    both = mamba | {"attention.head_count": 4, "attention.head_count_kv": 2}
    assert memory_shape(_table("falcon-h1", both)).layers == (Layer(32, 32, 0, 2432),) * 2
    rwkv: dict[str, Value] = {"block_count": 1, "embedding_length": 64, "wkv.head_size": 8, "token_shift_count": 2}
    assert memory_shape(_table("rwkv7", rwkv)).layers == (Layer(0, 0, 0, 2 * 64 + 64 * 8),)
    kimi: dict[str, Value] = {
        "block_count": 1,
        "attention.head_count": 2,
        "attention.head_count_kv": [0],
        "kda.head_dim": 4,
        "ssm.conv_kernel": 4,
    }
    assert memory_shape(_table("kimi-linear", kimi)).layers == (Layer(0, 0, 0, 3 * 3 * 8 + 8 * 4),)
    lfm: dict[str, Value] = {
        "block_count": 1,
        "embedding_length": 64,
        "attention.head_count_kv": [0],
        "shortconv.l_cache": 3,
    }
    assert memory_shape(_table("lfm2", lfm)).layers == (Layer(0, 0, 0, 128),)


def test_borrowed_caches_are_not_counted() -> None:
    keys: dict[str, Value] = {
        "block_count": 4,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "attention.shared_kv_layers": 1,
    }
    assert [layer.keys for layer in memory_shape(_table("gemma3n", keys)).layers] == [32, 32, 32, 0]


def test_what_is_not_known_is_said() -> None:
    with pytest.raises(InvalidInput, match="give a GGUF file"):
        memory_shape(_table("", {}))
    with pytest.raises(InvalidInput, match="compresses"):
        memory_shape(_table("deepseek4", dict(QWEN36)))


def test_too_little_memory_names_every_term(qwen36: MemoryShape) -> None:
    with pytest.raises(InvalidInput, match="keys and values 12,364,808,192, recurrent state 156,893,184"):
        weights_budget(8 * GIB, qwen36, Serving(184 * 1024 + 1))


def test_cache_types_must_fit_the_heads() -> None:
    shape = MemoryShape((Layer(48, 64, 0, 0),), 100, 0)
    with pytest.raises(InvalidInput, match="48 numbers per token are not whole blocks"):
        memory_terms(shape, Serving(1, Q8_0, Q8_0))


def test_tensors_on_the_host_take_no_device_memory() -> None:
    types = {Tensor(name, (256, 2), F16): Q8_0 for name in ("token_embd.weight", "output.weight")}
    assert device_bytes(types) == 2 * device_bytes(types, ["token_embd.weight"]) == 2 * 16 * 34
    with pytest.raises(InvalidInput, match="not a tensor"):
        device_bytes(types, ["token_embed.weight"])


@pytest.mark.parametrize(("text", "tokens"), [("32768", 32768), ("184k", 188_416), ("1M", 2**20), ("131_072", 131_072)])
def test_contexts_are_read(text: str, tokens: int) -> None:
    assert parse_context(text) == tokens


@pytest.mark.parametrize("text", ["", "k", "12 GiB", "-5", "1.5k"])
def test_what_is_no_context_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a context"):
        parse_context(text)


def test_impossible_servings_are_refused_at_once() -> None:
    with pytest.raises(InvalidInput) as error:
        Serving(0, sequences=0, batch=0, overhead=-1)
    assert len(error.value.faults) == 4


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * 2**30), ("3GB", 3 * 10**9), ("0", 0), ("0GiB", 0), ("0.5KiB", 512), ("2615 MiB", 2615 * 2**20)],
)
def test_sizes_need_a_unit_unless_they_are_nothing(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["24", "5bpw", "much", "", "-1GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_size(text)
