"""The layer parameters that `network` needs, read from a model's metadata.

Only the architectures listed here are supported. Whether the parameters are right is verified at run time: `fisher`
compares the logits with libllama's before it uses them.
Source of the facts: src/models and src/llama-model.cpp of llama.cpp 0c1e57098.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from raq_client.models.model_file import ModelFile
from raq_solver.errors import Fault, InvalidInput


@dataclass(frozen=True, slots=True)
class Traits:
    """The properties shared by all models of an architecture."""

    interleaved: bool = False
    """Whether rotary embedding pairs neighbouring values (else values half a head apart)."""
    activation: Literal["silu", "gelu"] = "silu"
    scaled_embedding: bool = False
    """Whether embeddings are multiplied by the square root of the width."""
    window: int = 0
    """Default sliding window in tokens, for files without one."""
    window_pattern: int = 0
    """With n > 0, every n-th block has global attention and the others a sliding window; 0: all global."""
    local_rope: Literal["as elsewhere", "unscaled", "own base"] = "as elsewhere"
    """Rotary embedding in blocks with a sliding window: like the others, with unscaled positions, or its own base."""
    plain_every: int = 0
    """With n > 0, every n-th block has no rotary embedding; 0: all have it."""
    scaled: bool = False
    """Whether the file has factors for embeddings, residuals, attention and logits."""
    gated_attention: bool = False
    """Whether the query product also contains a gate for attention's output, after each head's query."""
    normed_experts: bool = True
    """Whether the weights of the chosen experts are normalized to a sum of 1."""


ARCHITECTURES: Final = MappingProxyType(
    {
        "llama": Traits(interleaved=True),
        "qwen2": Traits(),
        "qwen2moe": Traits(normed_experts=False),
        "qwen3": Traits(),
        "qwen3moe": Traits(),
        "qwen35": Traits(gated_attention=True),
        "qwen35moe": Traits(gated_attention=True),
        "gemma": Traits(activation="gelu", scaled_embedding=True),
        "gemma2": Traits(activation="gelu", scaled_embedding=True, window=4096, window_pattern=2),
        "gemma3": Traits(activation="gelu", scaled_embedding=True, window_pattern=6, local_rope="own base"),
        "smollm3": Traits(interleaved=True, plain_every=4),
        "phi3": Traits(),
        "olmo2": Traits(window_pattern=4, local_rope="unscaled"),
        "olmoe": Traits(normed_experts=False),
        "granite": Traits(interleaved=True, scaled=True),
        "granitemoe": Traits(interleaved=True, scaled=True),
    }
)
"""Supported architectures by the name in general.architecture."""
GLOBAL_SCALE_27B: Final = MappingProxyType({"gemma2": 46, "gemma3": 62})
"""Gemma's largest models scale attention by width over heads; they are recognised by their number of blocks."""
DEFAULT_ROPE_BASE: Final = 10000.0


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Sizes of a gated delta net: number and size of key heads and value heads."""

    key_heads: int
    value_heads: int
    key_size: int
    value_size: int


@dataclass(frozen=True, slots=True)
class Rope:
    """Parameters of rotary embedding for the first `size` values of a head.

    Positions are multiplied by `scale`, the result by `magnitude`; `original` is the context of the first training.
    """

    size: int
    base: float
    scale: float
    magnitude: float
    original: int


@dataclass(frozen=True, slots=True)
class Shape:
    """The layer parameters of a model; sizes are numbers of values.

    `local` marks the blocks with a sliding `window`; they use `local_rope`, the others `rope`. Additions to the
    residual stream are multiplied by `residual_scale`, logits are divided by `logit_scale`.
    """

    traits: Traits
    width: int
    blocks: int
    heads: int
    groups: int
    head_size: int
    epsilon: float
    rope: Rope
    local_rope: Rope
    window: int
    local: tuple[bool, ...]
    embedding_scale: float
    residual_scale: float
    attention_scale: float
    attention_cap: float
    logit_scale: float
    final_cap: float
    experts_used: int
    recurrence: Recurrence | None

    def is_rotated(self, block: int) -> bool:
        """Whether queries and keys of the block have rotary embedding."""
        every = self.traits.plain_every
        return every == 0 or (block + 1) % every != 0

    @property
    def has_plain_logits(self) -> bool:
        """Whether the logits are the output head's product, neither scaled nor capped."""
        return self.final_cap == 0 and self.logit_scale == 1


def shape_of(model: ModelFile) -> Shape:
    """The shape of a model. Raises InvalidInput if its architecture is not one of ARCHITECTURES."""
    traits = ARCHITECTURES.get(model.architecture)
    if traits is None:
        known = ", ".join(ARCHITECTURES)
        what = f"Fisher information needs one of the architectures {known}; this is {model.architecture or '(none)'}"
        way_out = "without it raq-client sensitivity measures losses, in many runs of the model"
        raise InvalidInput(Fault(str(model.path), f"{what}; {way_out}"))
    width, heads = _whole(model, "embedding_length"), _whole(model, "attention.head_count")
    blocks = _whole(model, "block_count") - _whole(model, "nextn_predict_layers", 0)
    head_size = _whole(model, "attention.key_length", width // heads)
    largest = GLOBAL_SCALE_27B.get(model.architecture) == blocks
    attention_scale = (heads / width if largest else 1 / head_size) ** 0.5
    rope, window = _rope(model, head_size), _whole(model, "attention.sliding_window", traits.window)
    return Shape(
        traits=traits,
        width=width,
        blocks=blocks,
        heads=heads,
        groups=_whole(model, "attention.head_count_kv", heads),
        head_size=head_size,
        epsilon=_number(model, "attention.layer_norm_rms_epsilon", 1e-6),
        rope=rope,
        local_rope=_local_rope(model, rope, traits),
        window=window,
        local=_local_blocks(model, traits, blocks) if window else (False,) * blocks,
        embedding_scale=width**0.5 if traits.scaled_embedding else _scale(model, "embedding_scale", 1.0),
        residual_scale=_scale(model, "residual_scale", 1.0),
        attention_scale=_scale(model, "attention.scale", attention_scale),
        attention_cap=_number(model, "attn_logit_softcapping", 0.0),
        logit_scale=_scale(model, "logit_scale", 1.0),
        final_cap=_number(model, "final_logit_softcapping", 0.0),
        experts_used=_whole(model, "expert_used_count", 0),
        recurrence=_recurrence(model),
    )


def _rope(model: ModelFile, head_size: int) -> Rope:
    linear = model.architecture_value("rope.scaling.type") in {None, "linear", "longrope"}
    factor = _number(model, "rope.scaling.factor", _number(model, "rope.scale_linear", 0.0)) if linear else 0.0
    return Rope(
        size=_whole(model, "rope.dimension_count", head_size),
        base=_number(model, "rope.freq_base", DEFAULT_ROPE_BASE),
        scale=1 / factor if factor else 1.0,
        magnitude=_number(model, "rope.scaling.attn_factor", 1.0),
        original=_whole(model, "rope.scaling.original_context_length", _whole(model, "context_length", 0)),
    )


def _local_rope(model: ModelFile, rope: Rope, traits: Traits) -> Rope:
    """Rotary embedding of blocks with a sliding window."""
    if traits.local_rope == "as elsewhere":
        return rope
    if traits.local_rope == "unscaled":
        return replace(rope, scale=1.0, magnitude=1.0)
    return replace(rope, base=_number(model, "rope.freq_base_swa", DEFAULT_ROPE_BASE), scale=1.0)


def _local_blocks(model: ModelFile, traits: Traits, blocks: int) -> tuple[bool, ...]:
    """For each block whether its attention is limited to the sliding window."""
    pattern = model.architecture_value("attention.sliding_window_pattern")
    if traits.window_pattern == 0:
        return (False,) * blocks
    if isinstance(pattern, list):
        return tuple(map(bool, pattern[:blocks]))
    every = pattern if isinstance(pattern, int) else traits.window_pattern
    return tuple(every == 0 or block % every < every - 1 for block in range(blocks))


def _scale(model: ModelFile, key: str, default: float) -> float:
    """A factor from the metadata of an architecture that has such factors; 0 or missing gives `default`."""
    return (ARCHITECTURES[model.architecture].scaled and _number(model, key, 0.0)) or default


def _recurrence(model: ModelFile) -> Recurrence | None:
    if model.architecture_value("ssm.state_size") is None:
        return None
    values, size = _whole(model, "ssm.time_step_rank"), _whole(model, "ssm.state_size")
    return Recurrence(_whole(model, "ssm.group_count"), values, size, _whole(model, "ssm.inner_size") // values)


def _whole(model: ModelFile, key: str, default: int | None = None) -> int:
    return int(_number(model, key, default))


def _number(model: ModelFile, key: str, default: float | None = None) -> float:
    found = model.architecture_value(key)
    if isinstance(found, list) and len(set(found)) == 1:  # one number per block, all equal
        found = found[0]
    if found is None and default is not None:
        return default
    if not isinstance(found, int | float):
        what = f"{model.architecture}.{key} is {'missing' if found is None else 'no single number'}"
        raise InvalidInput(Fault(str(model.path), what))
    return found
