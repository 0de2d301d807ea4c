"""Models of every known architecture with random weights, written by gguf-py: small enough to be run in a moment."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from support.gguf_files import MODEL_4M

WIDTH, HEAD, HIDDEN = 64, 16, 96
EXPERTS, EXPERTS_USED, EXPERT_HIDDEN = 4, 2, 32
KEY_HEADS, VALUE_HEADS, STATE, KERNEL = 2, 4, 16, 4
Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Tiny:
    """What a model is made of. `metadata` are values under the architecture's name, `further` tensors beside blocks.

    libllama loads it with the `vocabulary` of the committed model only.
    """

    architecture: str
    metadata: Mapping[str, object] = field(default_factory=dict)
    vocabulary: int = 4096
    blocks: int = 2
    heads: int = 4
    groups: int = 2
    tied: bool = False
    biases: bool = False
    head_norms: Literal["", "each", "all"] = ""
    norms: tuple[str, ...] = ("attn_norm", "ffn_norm")
    experts: bool = False
    shared_expert: bool = False
    fused: bool = False
    gated: bool = False
    recurrent_every: int = 0
    further: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def shapes(self) -> Shapes:
        """Names of tensors and their shapes in NumPy order."""
        yield "token_embd.weight", (self.vocabulary, WIDTH)
        yield "output_norm.weight", (WIDTH,)
        if not self.tied:
            yield "output.weight", (self.vocabulary, WIDTH)
        yield from self.further.items()
        for block in range(self.blocks):
            mixer = self._recurrent if self.recurrent_every and (block + 1) % self.recurrent_every else self._attention
            for part in (self._norms, mixer, self._experts if self.experts else self._dense):
                yield from ((f"blk.{block}.{role}", shape) for role, shape in part())

    def _norms(self) -> Shapes:
        yield from ((f"{norm}.weight", (WIDTH,)) for norm in self.norms)

    def _attention(self) -> Shapes:
        rows = {
            "attn_q": self.heads * HEAD * (2 if self.gated else 1),
            "attn_k": self.groups * HEAD,
            "attn_v": self.groups * HEAD,
        }
        if self.fused:
            rows = {"attn_qkv": sum(rows.values())}
        for role, count in rows.items():
            yield f"{role}.weight", (count, WIDTH)
            if self.biases:
                yield f"{role}.bias", (count,)
        if self.head_norms:
            every = self.head_norms == "each"
            yield "attn_q_norm.weight", (HEAD if every else self.heads * HEAD,)
            yield "attn_k_norm.weight", (HEAD if every else self.groups * HEAD,)
        yield "attn_output.weight", (WIDTH, self.heads * HEAD)

    def _recurrent(self) -> Shapes:
        channels, inner = (2 * KEY_HEADS + VALUE_HEADS) * STATE, VALUE_HEADS * STATE
        yield "attn_qkv.weight", (channels, WIDTH)
        yield "attn_gate.weight", (inner, WIDTH)
        yield "ssm_conv1d.weight", (channels, KERNEL)
        yield "ssm_dt.bias", (VALUE_HEADS,)
        yield "ssm_a", (VALUE_HEADS,)
        yield "ssm_beta.weight", (VALUE_HEADS, WIDTH)
        yield "ssm_alpha.weight", (VALUE_HEADS, WIDTH)
        yield "ssm_norm.weight", (STATE,)
        yield "ssm_out.weight", (WIDTH, inner)

    def _dense(self) -> Shapes:
        yield from _feed_forward("", HIDDEN, "ffn_up" if self.fused else "")

    def _experts(self) -> Shapes:
        yield "ffn_gate_inp.weight", (EXPERTS, WIDTH)
        for role, shape in _feed_forward("_exps", EXPERT_HIDDEN, "ffn_gate_up" if self.fused else ""):
            yield role, (EXPERTS, *shape)
        if self.shared_expert:
            if not self.architecture.startswith("granite"):
                yield "ffn_gate_inp_shexp.weight", (WIDTH,)
            yield from _feed_forward("_shexp", HIDDEN, "")


def _feed_forward(suffix: str, hidden: int, fused: str) -> Shapes:
    if fused:
        yield f"{fused}{suffix}.weight", (2 * hidden, WIDTH)
    else:
        yield f"ffn_gate{suffix}.weight", (hidden, WIDTH)
        yield f"ffn_up{suffix}.weight", (hidden, WIDTH)
    yield f"ffn_down{suffix}.weight", (WIDTH, hidden)


GEMMA_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
QWEN35_NORMS = ("attn_norm", "post_attention_norm")
RECURRENT = {
    "ssm.conv_kernel": KERNEL,
    "ssm.inner_size": VALUE_HEADS * STATE,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": VALUE_HEADS,
    "ssm.group_count": KEY_HEADS,
    "full_attention_interval": 2,
    "rope.dimension_count": 8,
    "rope.dimension_sections": [2, 1, 1, 0],
}
SOFT_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0}
SCALES = {"embedding_scale": 3.0, "residual_scale": 0.6, "attention.scale": 0.4, "logit_scale": 1.5}
CASES: Mapping[str, Tiny] = {
    "llama": Tiny("llama"),
    "llama, tied": Tiny("llama", tied=True),
    "llama, factors of rope": Tiny("llama", further={"rope_freqs.weight": (HEAD // 2,)}),
    "llama, linear scaling": Tiny("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "llama, old key of scaling": Tiny("llama", {"rope.scale_linear": 4.0}),
    "llama, experts": Tiny("llama", experts=True),
    "qwen2": Tiny("qwen2", biases=True, tied=True),
    "qwen2moe": Tiny("qwen2moe", biases=True, experts=True, shared_expert=True),
    "qwen3": Tiny("qwen3", head_norms="each"),
    "qwen3moe": Tiny("qwen3moe", head_norms="each", experts=True),
    "qwen35": Tiny("qwen35", RECURRENT, blocks=4, head_norms="each", norms=QWEN35_NORMS, gated=True, recurrent_every=2),
    "qwen35moe": Tiny(
        "qwen35moe",
        RECURRENT,
        head_norms="each",
        norms=QWEN35_NORMS,
        gated=True,
        recurrent_every=2,
        experts=True,
        shared_expert=True,
    ),
    "qwen35moe, fused": Tiny(
        "qwen35moe",
        RECURRENT,
        head_norms="each",
        norms=QWEN35_NORMS,
        gated=True,
        recurrent_every=2,
        experts=True,
        shared_expert=True,
        fused=True,
    ),
    "qwen35, a block that is not run": Tiny(
        "qwen35",
        {**RECURRENT, "block_count": 3, "nextn_predict_layers": 1},
        head_norms="each",
        norms=QWEN35_NORMS,
        gated=True,
        recurrent_every=2,
    ),
    "gemma": Tiny("gemma", tied=True),
    "gemma2": Tiny(
        "gemma2",
        {"attention.sliding_window": 12, **SOFT_CAPS},
        blocks=3,
        tied=True,
        norms=GEMMA_NORMS,
    ),
    "gemma2, 46 blocks": Tiny("gemma2", SOFT_CAPS, blocks=46, heads=2, groups=1, tied=True, norms=GEMMA_NORMS),
    "gemma3": Tiny(
        "gemma3",
        {
            "attention.sliding_window": 12,
            "rope.freq_base": 300.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 4.0,
        },
        blocks=7,
        tied=True,
        head_norms="each",
        norms=GEMMA_NORMS,
    ),
    "gemma3, another pattern": Tiny(
        "gemma3",
        {"attention.sliding_window": 12, "attention.sliding_window_pattern": 2, "rope.freq_base_swa": 300.0},
        head_norms="each",
        norms=GEMMA_NORMS,
    ),
    "smollm3": Tiny("smollm3", blocks=4),
    "phi3": Tiny("phi3", fused=True),
    "phi3, long": Tiny(
        "phi3",
        {"rope.scaling.type": "longrope", "rope.scaling.attn_factor": 1.2, "rope.scaling.original_context_length": 512},
        fused=True,
        further={"rope_factors_long.weight": (HEAD // 2,), "rope_factors_short.weight": (HEAD // 2,)},
    ),
    "olmo2": Tiny("olmo2", head_norms="all", norms=GEMMA_NORMS[1::2]),
    "olmo2, sliding window": Tiny(
        "olmo2",
        {"attention.sliding_window": 12, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        blocks=4,
        head_norms="all",
        norms=GEMMA_NORMS[1::2],
    ),
    "olmoe": Tiny("olmoe", groups=4, head_norms="all", experts=True),
    "granite": Tiny("granite", SCALES, tied=True),
    "granitemoe": Tiny("granitemoe", SCALES, experts=True, shared_expert=True),
}
"""A model of each architecture, and further ones with what some files have and others have not."""


def write_tiny(path: Path, tiny: Tiny, *, seed: int = 0, changed: Mapping[str, float] | None = None) -> Path:
    """Write the model; weights of tensors in `changed` are multiplied by that number."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, tiny.architecture)
    for name, value in _metadata(tiny).items():
        kinds = _kinds(value)
        writer.add_key_value(f"{tiny.architecture}.{name}", value, kinds[0], sub_type=kinds[1])
    for name, (value, kind, item) in _tokenizer().items():
        writer.add_key_value(name, value, kind, sub_type=item)
    for name, shape in tiny.shapes():
        writer.add_tensor(name, _weights(name, shape, random) * np.float32((changed or {}).get(name, 1.0)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(tiny: Tiny) -> dict[str, object]:
    experts = {
        "expert_count": EXPERTS,
        "expert_used_count": EXPERTS_USED,
        "expert_feed_forward_length": EXPERT_HIDDEN,
        "expert_shared_feed_forward_length": HIDDEN if tiny.shared_expert else 0,
    }
    usual = {
        "context_length": 512,
        "embedding_length": WIDTH,
        "block_count": tiny.blocks,
        "feed_forward_length": EXPERT_HIDDEN if tiny.experts else HIDDEN,
        "attention.head_count": tiny.heads,
        "attention.head_count_kv": tiny.groups,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 1000.0,
    }
    return usual | (experts if tiny.experts else {}) | dict(tiny.metadata)


def _kinds(value: object) -> tuple[gguf.GGUFValueType, gguf.GGUFValueType | None]:
    kinds = {int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32, str: gguf.GGUFValueType.STRING}
    return (
        (gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32) if isinstance(value, list) else (kinds[type(value)], None)
    )


def _weights(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Of such a size that no part is drowned by another and logits are neither flat nor certain."""
    if name.endswith(("_norm.weight", "_shexp_norm.weight")):
        values = random.uniform(0.5, 1.5, shape)
    elif name in {"token_embd.weight", "output.weight"}:
        values = random.normal(0, 0.25, shape)
    elif name.startswith("rope_"):
        values = random.uniform(1, 4, shape)
    elif name.endswith("ssm_a"):
        values = -random.uniform(0.1, 1, shape)
    elif name.endswith(".bias"):
        values = random.normal(0, 1, shape)
    else:
        values = random.normal(0, 1.5 / shape[-1] ** 0.5, shape)
    return values.astype(np.float32)


@cache
def _tokenizer() -> Mapping[str, tuple[Any, ...]]:
    """The vocabulary of the committed model: values, their kinds, and the kinds of items."""
    fields = gguf.GGUFReader(MODEL_4M).fields
    return {
        name: (each.contents(), each.types[0], each.types[-1] if len(each.types) > 1 else None)
        for name, each in fields.items()
        if name.startswith("tokenizer.")
    }
