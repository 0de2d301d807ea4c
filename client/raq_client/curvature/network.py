"""A model's forward pass on one window of tokens, block by block, with a watcher for each product of a weight matrix.

Weights are read when a block is computed and freed after it: at most one block is in memory, as float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import autograd.numpy as anp
import numpy as np
from jaxtyping import Float32, Int32, Int64

from raq_client.curvature.layers import (
    Angles,
    Array,
    Watch,
    attention,
    causal_mask,
    gated_delta,
    gelu,
    product,
    rms_norm,
    rope_angles,
    rotate,
    short_convolution,
    sigmoid,
    silu,
    soft_cap,
    softmax,
    unit,
)
from raq_client.curvature.shapes import Rope, Shape
from raq_client.models.model_file import ModelFile
from raq_solver.errors import Fault, InvalidInput

WatchOf = Callable[[str, int, Array], Watch]
"""Returns the watcher for a product, given the tensor's name, the matrix number (0 except for experts) and the inputs
[tokens, columns], which are in autograd's boxes where gradients are wanted."""


Route = Callable[[Float32[np.ndarray, "tokens experts"], int], Int64[np.ndarray, "tokens used"]]
"""Returns the experts of each token, given the router's shares of all experts and how many are used."""
RowsOf = Callable[[Int32[np.ndarray, " distinct"]], Float32[np.ndarray, "distinct width"]]
"""Returns the rows of the embedding for these tokens."""


def most_likely(shares: Float32[np.ndarray, "tokens experts"], used: int) -> Int64[np.ndarray, "tokens used"]:
    """The experts with the largest shares, the model's own choice.

    >>> most_likely(np.array([[0.2, 0.5, 0.3]], np.float32), 2).tolist()
    [[1, 2]]
    """
    return np.argsort(-shares, axis=1, kind="stable")[:, :used]


@dataclass(frozen=True, eq=False)
class BlockWeights:
    """The tensors of one block by role (`attn_q.weight`), each [rows, columns], experts [matrices, rows, columns]."""

    block: int
    values: Mapping[str, Float32[np.ndarray, "..."]]

    def get(self, role: str) -> Float32[np.ndarray, "..."] | None:
        """The tensor of that role, or None."""
        return self.values.get(role)

    def need(self, role: str) -> Float32[np.ndarray, "..."]:
        """The tensor of that role. Raises InvalidInput if the block has none."""
        found = self.values.get(role)
        if found is None:
            what = "is not in the file: a variant of this architecture that raq does not support"
            raise InvalidInput(Fault(self.name(role), what))
        return found

    def name(self, role: str) -> str:
        """Full name of the tensor of that role."""
        return f"blk.{self.block}.{role}"


class Network:
    """The forward pass of a model with the given shape, on windows of `tokens` tokens."""

    def __init__(self, model: ModelFile, shape: Shape, tokens: int) -> None:
        self._model, self.shape, self._tokens = model, shape, tokens
        self._tensors = {tensor.name: tensor for tensor in model.tensors}
        self._angles = {False: self._angles_of(shape.rope), True: self._angles_of(shape.local_rope)}
        self._masks = {local: causal_mask(tokens, shape.window if local else 0) for local in (False, True)}

    @property
    def has_plain_weights(self) -> bool:
        """Whether no weights are quantized."""
        return all(tensor.source_type.weights_per_block == 1 for tensor in self._tensors.values())

    @property
    def head(self) -> str:
        """The name of the tensor used as output head."""
        return "output.weight" if "output.weight" in self._tensors else "token_embd.weight"

    def embed(
        self, tokens: Int32[np.ndarray, " tokens"], rows_of: RowsOf | None = None
    ) -> Float32[np.ndarray, "tokens width"]:
        """The residual stream before the first block; with `rows_of`, for other rows of the embedding."""
        distinct, places = np.unique(tokens, return_inverse=True)
        rows = (rows_of or self._embedding)(distinct)
        return rows[places] * np.float32(self.shape.embedding_scale)

    def _embedding(self, tokens: Int32[np.ndarray, " distinct"]) -> Float32[np.ndarray, "distinct width"]:
        tensor = self._tensors["token_embd.weight"]
        rows = np.concatenate([self._model.weights(tensor, token, token + 1) for token in tokens.tolist()])
        _require_finite(tensor.name, rows)
        return rows

    def block_weights(self, block: int) -> BlockWeights:
        """Read the weights of one block."""
        start = f"blk.{block}."
        names = [name for name in self._tensors if name.startswith(start)]
        return BlockWeights(block, {name.removeprefix(start): self._need(name) for name in names})

    def head_weights(self) -> tuple[Float32[np.ndarray, "vocabulary width"], Float32[np.ndarray, " width"]]:
        """The output head's matrix and the gain of the norm before it."""
        return self._need(self.head), self._need("output_norm.weight").ravel()

    def block(self, stream: Array, weights: BlockWeights, watch_of: WatchOf, route: Route = most_likely) -> Array:
        """The residual stream after a block, whose tokens go to the experts that `route` chooses."""
        mixer = self._recurrent if weights.get("ssm_out.weight") is not None else self._attention
        # post_attention_norm has two meanings. With a norm at the feed-forward's output it normalizes attention's
        # output (gemma, olmo2); without one it normalizes the feed-forward's input (qwen35).
        after = weights.get("post_ffw_norm.weight") is not None
        mixed = mixer(self._norm(stream, weights, "attn_norm.weight"), weights, watch_of)
        stream = self._added(stream, self._norm(mixed, weights, "post_attention_norm.weight") if after else mixed)
        x = self._norm(stream, weights, "ffn_norm.weight")
        x = x if after else self._norm(x, weights, "post_attention_norm.weight")
        if weights.get("ffn_gate_inp.weight") is None:
            y = self._dense(x, weights, watch_of)
        else:
            y = self._experts(x, weights, watch_of, route)
        return self._added(stream, self._norm(y, weights, "post_ffw_norm.weight"))

    def final(self, stream: Array, gain: Float32[np.ndarray, " width"]) -> Array:
        """The input of the output head."""
        return rms_norm(stream, gain, self.shape.epsilon)

    def head_inputs(self, stream: Array) -> Array:
        """The input of the output head, for the stream after the last block."""
        return self.final(stream, self._need("output_norm.weight").ravel())

    def logits(
        self, tokens: Int32[np.ndarray, " tokens"], positions: slice
    ) -> Float32[np.ndarray, "positions vocabulary"]:
        """The model's logits at these positions of a window."""
        stream = self.embed(tokens)
        for block in range(self.shape.blocks):
            stream = self.block(stream, self.block_weights(block), unwatched)
        matrix, gain = self.head_weights()
        found: Float32[np.ndarray, "positions vocabulary"] = capped(
            self.final(stream[positions], gain) @ matrix.T, self.shape
        )
        return found

    def _added(self, stream: Array, x: Array) -> Array:
        scale = self.shape.residual_scale
        return stream + (x if scale == 1 else x * scale)

    def _norm(self, x: Array, weights: BlockWeights, role: str) -> Array:
        gain = weights.get(role)
        return x if gain is None else rms_norm(x, gain, self.shape.epsilon)

    def _head_norm(self, x: Array, weights: BlockWeights, role: str) -> Array:
        """The norm of queries or keys [tokens, heads, size], per head or over all heads together."""
        gain = weights.get(role)
        if gain is None or gain.size == x.shape[2]:
            return self._norm(x, weights, role)
        return anp.reshape(self._norm(anp.reshape(x, (x.shape[0], -1)), weights, role), x.shape)

    def _multiply(self, x: Array, weights: BlockWeights, role: str, watch_of: WatchOf) -> Array:
        matrix, bias = weights.need(f"{role}.weight"), weights.get(f"{role}.bias")
        y = product(x, matrix, watch_of(weights.name(f"{role}.weight"), 0, x))
        return y if bias is None else y + bias

    def _attention(self, x: Array, weights: BlockWeights, watch_of: WatchOf) -> Array:
        shape, local = self.shape, self.shape.local[weights.block]
        q, k, v = self._queries(x, weights, watch_of)
        gate = None
        if shape.traits.gated_attention:
            q, gate = q[..., : shape.head_size], q[..., shape.head_size :]
        q, k = self._head_norm(q, weights, "attn_q_norm.weight"), self._head_norm(k, weights, "attn_k_norm.weight")
        if shape.is_rotated(weights.block):
            q, k = (rotate(each, self._angles[local], shape.traits.interleaved) for each in (q, k))
        mixed = attention(q, k, v, self._masks[local], shape.attention_scale, shape.attention_cap)
        if gate is not None:
            mixed = mixed * sigmoid(anp.reshape(gate, mixed.shape))
        return self._multiply(mixed, weights, "attn_output", watch_of)

    def _queries(self, x: Array, weights: BlockWeights, watch_of: WatchOf) -> list[Array]:
        """Queries, keys and values [tokens, heads, size], from three matrices or one."""
        shape = self.shape
        if weights.get("attn_qkv.weight") is None:
            parts = [self._multiply(x, weights, role, watch_of) for role in ("attn_q", "attn_k", "attn_v")]
        else:
            values = self._multiply(x, weights, "attn_qkv", watch_of)
            size = shape.groups * shape.head_size
            parts = [values[:, : -2 * size], values[:, -2 * size : -size], values[:, -size:]]
        heads = shape.heads, shape.groups, shape.groups
        return [anp.reshape(part, (self._tokens, count, -1)) for part, count in zip(parts, heads, strict=True)]

    def _recurrent(self, x: Array, weights: BlockWeights, watch_of: WatchOf) -> Array:
        sizes, tokens = self.shape.recurrence, self._tokens
        assert sizes is not None, "a model with ssm tensors has their sizes"
        keys = sizes.key_heads * sizes.key_size
        mixed = self._multiply(x, weights, "attn_qkv", watch_of)
        mixed = silu(short_convolution(mixed, weights.need("ssm_conv1d.weight")))
        q = anp.reshape(mixed[:, :keys], (tokens, sizes.key_heads, -1))
        k = anp.reshape(mixed[:, keys : 2 * keys], (tokens, sizes.key_heads, -1))
        v = anp.reshape(mixed[:, 2 * keys :], (tokens, sizes.value_heads, -1))
        # Key heads are tiled, not repeated one by one: value head i reads key head i mod key_heads, as in llama.cpp.
        repeats = sizes.value_heads // sizes.key_heads
        q, k = (anp.concatenate([unit(each, self.shape.epsilon)] * repeats, axis=1) for each in (q, k))
        rate = sigmoid(self._multiply(x, weights, "ssm_beta", watch_of))
        alpha = self._multiply(x, weights, "ssm_alpha", watch_of) + weights.need("ssm_dt.bias")
        decay = anp.logaddexp(alpha, 0.0) * weights.need("ssm_a")  # softplus times -exp(A_log), as stored
        found = gated_delta(q * sizes.key_size**-0.5, k, v, decay, rate)
        gate = anp.reshape(self._multiply(x, weights, "attn_gate", watch_of), found.shape)
        found = rms_norm(found, weights.need("ssm_norm.weight"), self.shape.epsilon) * silu(gate)
        return self._multiply(anp.reshape(found, (tokens, -1)), weights, "ssm_out", watch_of)

    def _dense(self, x: Array, weights: BlockWeights, watch_of: WatchOf) -> Array:
        return self._gated(x, lambda y, role: self._multiply(y, weights, role, watch_of), weights, "")

    def _gated(self, x: Array, multiply: Callable[[Array, str], Array], weights: BlockWeights, suffix: str) -> Array:
        """A gated feed-forward layer; gate and up may be stacked in one tensor."""
        if weights.get(f"ffn_gate{suffix}.weight") is not None:
            gate, up = multiply(x, f"ffn_gate{suffix}"), multiply(x, f"ffn_up{suffix}")
        else:
            both = multiply(x, "ffn_gate_up_exps" if suffix == "_exps" else f"ffn_up{suffix}")
            gate, up = both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]
        active = gelu(gate) if self.shape.traits.activation == "gelu" else silu(gate)
        return multiply(active * up, f"ffn_down{suffix}")

    def _experts(self, x: Array, weights: BlockWeights, watch_of: WatchOf, route: Route) -> Array:
        """The weighted sum of each token's chosen experts, plus the shared expert if there is one."""
        used = self.shape.experts_used
        shares = softmax(anp.matmul(x, weights.need("ffn_gate_inp.weight").T))
        chosen = route(_value(shares), used)
        tokens = np.arange(self._tokens)[:, None]
        picked = shares[tokens, chosen]
        if self.shape.traits.normed_experts:
            picked = picked / anp.sum(picked, axis=1, keepdims=True)
        # One product per expert over all its tokens; `back` restores the order of tokens and choices.
        order = np.argsort(chosen.ravel(), kind="stable")
        outputs = [
            self._expert(x[np.nonzero(chosen == expert)[0]], int(expert), weights, watch_of)
            for expert in np.unique(chosen)
        ]
        back = np.argsort(order, kind="stable")
        each = anp.reshape(anp.concatenate(outputs)[back], (self._tokens, used, -1))
        mixed = anp.sum(each * picked[:, :, None], axis=1)
        if weights.get("ffn_down_shexp.weight") is not None:
            shared = self._gated(x, lambda y, role: self._multiply(y, weights, role, watch_of), weights, "_shexp")
            gate = weights.get("ffn_gate_inp_shexp.weight")
            mixed = mixed + (shared if gate is None else shared * sigmoid(anp.matmul(x, gate.reshape(-1, 1))))
        return mixed

    def _expert(self, x: Array, expert: int, weights: BlockWeights, watch_of: WatchOf) -> Array:
        def multiply(inputs: Array, role: str) -> Array:
            name = f"{role}.weight"
            return product(inputs, weights.need(name)[expert], watch_of(weights.name(name), expert, inputs))

        return self._gated(x, multiply, weights, "_exps")

    def _angles_of(self, rope: Rope) -> Angles:
        names = ("rope_freqs.weight", f"rope_factors_{'long' if self._tokens > rope.original else 'short'}.weight")
        known = [self._need(name) for name in names if name in self._tensors]
        factors = known[0] if known and rope is self.shape.rope else None
        cos, sin = rope_angles(self._tokens, rope.size, rope.base, factors, rope.scale)
        return cos * np.float32(rope.magnitude), sin * np.float32(rope.magnitude)

    def _need(self, name: str) -> Float32[np.ndarray, "..."]:
        if name not in self._tensors:
            raise InvalidInput(Fault(name, f"is not in {self._model.path}"))
        tensor = self._tensors[name]
        values = self._model.weights(tensor)
        _require_finite(name, values)
        if len(tensor.shape) == 1:
            return values.ravel()
        return values if tensor.matrices == 1 else values.reshape(tensor.matrices, -1, tensor.row_length)


def _require_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise InvalidInput(Fault(name, "has weights that are NaN or infinite"))


def unwatched(_name: str, _matrix: int, _inputs: Array) -> Watch:
    """A watcher that does nothing."""
    return lambda _inputs, _gradient, _at_inputs: None


def capped(logits: Array, shape: Shape) -> Array:
    """The output head's product, scaled and capped to the model's logits."""
    return soft_cap(logits if shape.logit_scale == 1 else logits / shape.logit_scale, shape.final_cap)


def _value(box: Array) -> np.ndarray:
    """The plain array inside autograd's boxes."""
    while hasattr(box, "_value"):
        box = box._value  # noqa: SLF001 - autograd's own way (tracer.getval)
    return np.asarray(box)
