"""The weights of a converted tensor: rows and columns in llama.cpp's order, and what its converter computes.

Rules
- Llama's query and key rows are reordered: its publishers keep the two halves of a rotary pair apart, llama.cpp side
  by side.
- Gated delta nets: value heads, grouped by their key head, are dealt out in turn, as llama.cpp repeats key heads.
- RMS norms of Gemma and Qwen3.5 are stored less 1, which is added; decays are stored as logarithms of their negatives.
- Arithmetic is done in the stored type if that is F16, else in F32, as the converter does.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int

import raq_native
from raq_client.models.conversion_names import Converted
from raq_client.models.model_file import row_chunks, to_weights
from raq_client.models.safetensors import SafetensorsFolder
from raq_client.models.stored_tensors import Rows, read_rows
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

_PERMUTED: Final = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
_DELTA_NETS: Final = ("qwen35", "qwen35moe")
_NORMS_LESS_ONE: Final = ("gemma3", *_DELTA_NETS)
_F16_END: Final = np.float32(65520)
"""The smallest magnitude that rounds to infinity in F16."""

_VALUE_ROWS: Final = ("attn_qkv", "attn_gate", "ssm_conv1d")
_BEHIND_KEYS: Final = ("attn_qkv", "ssm_conv1d")
"""Tensors whose value rows follow those of queries and keys."""
_VALUE_ELEMENTS: Final = ("ssm_alpha", "ssm_beta", "ssm_a", "ssm_dt")
"""Tensors with one row or element for each value head."""

Order = Int[np.ndarray, "count"]
Weights = Float[np.ndarray, "rows length"]


def converted_rows(folder: SafetensorsFolder, tensor: Tensor, wanted: QuantType) -> Iterator[Rows]:
    """The rows of a converted tensor as `wanted`, in order, in chunks.

    Raises InvalidInput if the heads of config.json do not fit its shape, if a file can't be read, or if a weight does
    not fit F16.
    """
    made = folder.tensors[tensor.name]
    block = scale_block(folder.config)
    rows, columns = _orders(folder, tensor)
    compute = _arithmetic(folder.architecture, tensor.name)
    whole = None if rows is None else _reordered(_read(made, tensor, (0, 0, tensor.rows), block), rows)
    stored = made.parts[0].row_type
    for chunk in row_chunks(tensor):
        found = _read(made, tensor, chunk, block) if whole is None else whole[chunk[1] : chunk[2]]
        if columns is not None:
            found = found.reshape(len(found), len(columns), -1)[:, columns].reshape(len(found), -1)
        if wanted == stored and compute is None:
            yield found
            continue
        weights = found.view(np.float16) if stored.name == "F16" else to_weights(found, stored, tensor.row_length)
        yield _as(wanted, (weights if compute is None else compute(weights)).astype(np.float32, copy=False), tensor)


def scale_block(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of the blocks that share a scale, of weights in FP8; (0, 0) if there are no such blocks.

    Raises InvalidInput if config.json does not give two whole numbers.
    """
    match (config.get("quantization_config") or {}).get("weight_block_size"):
        case None:
            return 0, 0
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
        case other:
            raise InvalidInput(Fault("config.json", f"weight_block_size is {other!r}, not two whole numbers above 0"))


def _read(made: Converted, tensor: Tensor, chunk: tuple[int, int, int], block: tuple[int, int]) -> Rows:
    """Rows of a tensor, whose experts may be stored one by one or beside others."""
    matrix, first, last = chunk
    if len(made.parts) == 1 and made.half is None:
        return read_rows(made.parts[0], first, last, block)
    rows = tensor.rows // tensor.matrices
    # Of experts stored one by one, each begins at row 0; of joined ones, each takes twice its rows.
    shift = -matrix * rows if made.half is None else (matrix + made.half) * rows
    return read_rows(made.parts[0 if made.half is not None else matrix], first + shift, last + shift, block)


def _orders(folder: SafetensorsFolder, tensor: Tensor) -> tuple[Order | None, Order | None]:
    """The stored row (of a vector: the element) and the stored column for each converted one; None if they stay."""
    if not tensor.name.startswith("blk."):
        return None, None
    if folder.architecture == "llama":
        return _rotary_order(folder, tensor), None
    return _head_orders(folder, tensor) if folder.architecture in _DELTA_NETS else (None, None)


def _rotary_order(folder: SafetensorsFolder, tensor: Tensor) -> Order | None:
    role = tensor.name.split(".")[-2]
    heads = folder.config.get(_PERMUTED.get(role, "")) or folder.config.get("num_attention_heads")
    if role not in _PERMUTED:
        return None
    rows = folder.tensors[tensor.name].shape[0]
    if not isinstance(heads, int) or rows % (2 * heads):
        raise InvalidInput(Fault(tensor.name, f"its {rows} rows are not pairs of {heads} heads: config.json is wrong"))
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).ravel()


def _head_orders(folder: SafetensorsFolder, tensor: Tensor) -> tuple[Order | None, Order | None]:
    """Of gated delta nets: the order of value heads along the rows, or along the columns of what they go into."""
    role = tensor.name.split(".")[2]
    if role not in {*_VALUE_ROWS, *_VALUE_ELEMENTS, "ssm_out"}:
        return None, None
    keys, values, key_length, value_length = delta_heads(folder.config)
    length = value_length if role not in _VALUE_ELEMENTS else 1
    order = np.arange(values * length).reshape(keys, values // keys, length).swapaxes(0, 1).ravel()
    if role in _BEHIND_KEYS:
        before = 2 * keys * key_length
        order = np.concatenate([np.arange(before), before + order])
    shape = folder.tensors[tensor.name].shape
    if len(order) != shape[-1 if role == "ssm_out" else 0]:
        raise InvalidInput(Fault(tensor.name, f"shape {shape} does not fit the heads of config.json"))
    return (None, order) if role == "ssm_out" else (order, None)


def delta_heads(config: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Of gated delta nets: the numbers of key and value heads, and their lengths.

    Raises InvalidInput if config.json lacks one, or if the value heads can't be shared out to the key heads.
    """
    names = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
    match [config.get(name) for name in names]:
        case [int(keys), int(values), int(key_length), int(value_length)] if keys > 0 and values % keys == 0:
            return keys, values, key_length, value_length
        case found:
            what = f"{', '.join(names)} are {found}, not the heads of a gated delta net"
            raise InvalidInput(Fault("config.json", what))


def _arithmetic(architecture: str, name: str) -> Callable[[Weights], Weights] | None:
    """What the converter computes from the stored weights, in their type."""
    if architecture in _DELTA_NETS and name.endswith(".ssm_a"):
        # Rounded once from double precision; the exponential of the converter's library may be off by one bit.
        return lambda weights: -np.exp(weights.astype(np.float64)).astype(weights.dtype)
    if architecture in _NORMS_LESS_ONE and name.endswith("norm.weight") and not name.endswith("ssm_norm.weight"):
        return lambda weights: weights + weights.dtype.type(1)
    return None


def _reordered(rows: Rows, order: Order) -> Rows:
    """Rows in another order; of a single row, which is a vector, its elements."""
    moved: Rows = rows[order] if len(rows) > 1 else rows.reshape(len(order), -1)[order].reshape(1, -1)
    return moved


def _as(wanted: QuantType, weights: Weights, tensor: Tensor) -> Rows:
    if wanted.name == "F16" and np.any(np.isfinite(weights) & (np.abs(weights) >= _F16_END)):
        raise InvalidInput(Fault(tensor.name, "holds weights too large for F16; convert with --to bf16 or f32"))
    made: Rows = raq_native.quantize(wanted.name, np.ascontiguousarray(weights))
    return made
