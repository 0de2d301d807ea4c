"""The memory that a running model needs besides its weights: per token, per sequence, per block.

Rules, as in llama.cpp's caches (llama-kv-cache*.cpp, llama-memory-recurrent.cpp, llama-hparams.cpp of 0c1e57098)
- Attention stores head_count_kv × key_length keys per token, and values likewise. Latent attention (MLA) stores one
  latent key, which contains the values.
- Sliding-window blocks stop growing when the window is full.
- Recurrent blocks store a state per sequence, independent of the context: F32 numbers for the state and for the inputs
  of the short convolution.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from raq_client.models.gguf_header import Value
from raq_client.models.table import ModelTable
from raq_solver.errors import Fault, InvalidInput

_WINDOW_PERIOD: Final = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4, "exaone4": 4, "olmo2": 4}
"""For files with a window but no pattern: one of every n blocks attends to the whole context."""
_ATTENTION_INTERVAL: Final = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
_COMPRESSED: Final = ("deepseek4",)


@dataclass(frozen=True, slots=True)
class Layer:
    """One block: numbers stored per token as keys and as values, and per sequence as state.

    `window` is the length of a sliding window in tokens, 0 for the whole context.
    """

    keys: int
    values: int
    window: int
    state: int


@dataclass(frozen=True, slots=True)
class MemoryShape:
    """All blocks, the size of the vocabulary, and the longest context of the model (0: unknown)."""

    layers: tuple[Layer, ...]
    vocabulary: int
    longest_context: int


def memory_shape(table: ModelTable) -> MemoryShape:
    """The memory shape from the model's metadata, or from tensor shapes if there is none (dense, delta-net attention).

    Raises InvalidInput if neither is sufficient.
    """
    if table.architecture in _COMPRESSED:
        what = "compresses its key-value cache; raq can't compute its memory use"
        raise InvalidInput(Fault(table.architecture, what))
    vocabulary = next((t.rows for t in table.tensors if t.name == "token_embd.weight"), 0)
    layers = _Reader(table).layers() if table.number("block_count") else _layers_from_shapes(table)
    if not any(layer.keys or layer.state for layer in layers):
        what = "its memory use can't be computed from metadata or tensor shapes; give a GGUF file"
        raise InvalidInput(Fault(table.name, what))
    return MemoryShape(layers, table.number("vocab_size") or vocabulary, table.number("context_length"))


@dataclass(frozen=True, slots=True)
class _Reader:
    table: ModelTable

    def layers(self) -> tuple[Layer, ...]:
        # Blocks for multi-token prediction (MTP) come last and store nothing in the main context.
        count = self._number("block_count") - self._number("nextn_predict_layers")
        return tuple(self._layer(block, count) for block in range(count))

    def _layer(self, block: int, count: int) -> Layer:
        state = self._state() if self._is_recurrent(block) else 0
        heads = self._at("attention.head_count_kv", block, self._at("attention.head_count", block))
        # The last blocks may use the cache of earlier ones (gemma3n).
        borrowed = block >= count - self._number("attention.shared_kv_layers")
        if (state and self._interval()) or borrowed or not heads:
            return Layer(0, 0, 0, state)
        window = self._window(block)
        width = self._number("embedding_length") // (self._at("attention.head_count", block) or 1)
        key, value = (self._length(kind, width, sliding=window > 0) for kind in ("key", "value"))
        latent = self._number("attention.kv_lora_rank") and self._number("attention.key_length_mla")
        return Layer(heads * key, 0 if latent else heads * value, window, state)

    def _length(self, kind: str, width: int, *, sliding: bool) -> int:
        own = self._number(f"attention.{kind}_length_swa") if sliding else 0
        return own or self._number(f"attention.{kind}_length") or width

    def _window(self, block: int) -> int:
        window = self._number("attention.sliding_window")
        pattern = self.table.metadata.get(f"{self.table.architecture}.attention.sliding_window_pattern")
        if isinstance(pattern, list):
            return window if block < len(pattern) and pattern[block] else 0
        default = _WINDOW_PERIOD.get(self.table.architecture, 0)
        period = pattern if isinstance(pattern, int) and not isinstance(pattern, bool) else default
        return window if period and block % period < period - 1 else 0

    def _is_recurrent(self, block: int) -> bool:
        interval = self._interval()
        if interval:
            return (block + 1) % interval != 0
        heads = self.table.metadata.get(f"{self.table.architecture}.attention.head_count_kv")
        return heads[block] == 0 if isinstance(heads, list) else True

    def _interval(self) -> int:
        default = _ATTENTION_INTERVAL.get(self.table.architecture, 0)
        return self._number("full_attention_interval") or default

    def _state(self) -> int:
        """Numbers stored per sequence in a recurrent block; 0 for a model without such blocks."""
        width = self._number("embedding_length")
        if self._number("wkv.head_size"):
            return (self._number("token_shift_count") or 2) * width + width * self._number("wkv.head_size")
        if self._number("shortconv.l_cache"):
            return width * (self._number("shortconv.l_cache") - 1)
        steps = self._number("ssm.conv_kernel") - 1
        if self._number("kda.head_dim"):
            inner = self._number("kda.head_dim") * self._number("attention.head_count")
            return 3 * steps * inner + inner * self._number("kda.head_dim")
        inner, state = self._number("ssm.inner_size"), self._number("ssm.state_size")
        convolved = inner + 2 * self._number("ssm.group_count") * state
        return steps * convolved + state * inner if state else 0

    def _number(self, key: str) -> int:
        return self.table.number(key)

    def _at(self, key: str, block: int, default: int = 0) -> int:
        """The value of a key for one block: its entry in a list, else the common value."""
        metadata: Mapping[str, Value] = self.table.metadata
        value = metadata.get(f"{self.table.architecture}.{key}", default)
        chosen = value[block] if isinstance(value, list) and block < len(value) else value
        return chosen if isinstance(chosen, int) else default


def _layers_from_shapes(table: ModelTable) -> tuple[Layer, ...]:
    """Layers from shapes: the rows of attn_k and attn_v, and inner size × state size numbers for a gated delta net."""
    by_name = {tensor.name: tensor for tensor in table.tensors}
    layers = []
    for block in range(table.block_count):
        keys, values, convolution, out, norm = (
            by_name.get(f"blk.{block}.{part}.weight")
            for part in ("attn_k", "attn_v", "ssm_conv1d", "ssm_out", "ssm_norm")
        )
        state = 0
        if convolution is not None and out is not None and norm is not None:
            state = (convolution.row_length - 1) * convolution.rows + out.row_length * norm.row_length
        layers.append(Layer(keys.rows if keys else 0, values.rows if values else 0, 0, state))
    return tuple(layers)
