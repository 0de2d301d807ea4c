"""Convert a folder of safetensors to a GGUF file, with the bytes that llama.cpp's converter gives.

Rules
- Tensors are converted one by one, a chunk of rows at a time; a permuted one is read whole (the largest is the query
  projection of one block).
- Llama's query and key rows are reordered: its publishers keep the two halves of a rotary pair apart, llama.cpp side
  by side.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, Int, UInt8
from platformdirs import user_cache_path

import raq_native
from raq_client.models.conversion_keys import FILE_TYPES, check_convertible, conversion_keys
from raq_client.models.gguf_header import DEFAULT_ALIGNMENT
from raq_client.models.model_file import ModelFile, row_chunks, to_weights
from raq_client.models.quantizable import is_quantizable
from raq_client.models.safetensors import SafetensorsFolder, Stored, open_folder, rope_of
from raq_client.models.writer import Progress, WrittenModel, write_model
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensors import Tensor

ROPE_FACTORS: Final = "rope_freqs.weight"
_VERSION: Final = b"raq conversion 1"
_PERMUTED: Final = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}

Rows = UInt8[np.ndarray, "rows size"]


def convert_folder(
    path: Path,
    out: Path,
    to: str | None = None,
    *,
    force: bool = False,
    progress: Progress = lambda _name, _size: None,
) -> WrittenModel:
    """Write the model of a folder of safetensors to `out`, with matrices in F16, BF16 or F32 (None: as stored).

    Raises InvalidInput if raq does not convert such models (it names the command of llama.cpp that does), if files are
    missing or damaged, if a weight does not fit F16, and as `write_model` does.
    """
    folder = open_folder(path)
    check_convertible(folder)
    _check_data(folder)
    wanted = CATALOGUE[to] if to is not None else _usual_type(folder)
    tensors = _tensors(folder, wanted)
    metadata = conversion_keys(folder, tensors, FILE_TYPES[wanted.name])
    model = ModelFile(path, folder.shards, metadata, tensors, DEFAULT_ALIGNMENT, {})
    return write_model(out, model, {}, _blocks_of(folder), force=force, progress=progress)


def converted(path: Path) -> Path:
    """The GGUF file of a folder of safetensors, in the user's cache; made there if it is missing or the folder changed.

    Raises InvalidInput as `convert_folder` does.
    """
    state = hashlib.sha256(_VERSION + str(path.resolve()).encode())
    for file in sorted(each for each in path.iterdir() if each.is_file()):
        found = file.stat()
        state.update(f"{file.name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    cache = user_cache_path("raq") / "converted"
    target = cache / f"{path.resolve().name}-{state.hexdigest()[:16]}.gguf"
    if not target.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(Fault(str(cache), f"can't be written: {error.strerror or error}")) from error
        convert_folder(path, target, force=True)
    return target


def rope_factors(config: Mapping[str, Any]) -> Float32[np.ndarray, "half"] | None:
    """The factors of rotary frequencies that the converter computes for Llama 3.1 and similar models; else None."""
    rope = rope_of(config)
    if str(rope["rope_type"]).lower() != "llama3":
        return None
    length = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    factor, low, high = (np.float32(rope.get(key, usual)) for key, usual in _LLAMA3)
    context = rope.get("original_max_position_embeddings", 8192)
    # In single precision, operation by operation, as the converter computes them.
    exponents = np.arange(0, length, 2, dtype=np.float32) / np.float32(length)
    frequencies = np.float32(1) / np.power(np.float32(rope.get("rope_theta", 10000.0)), exponents)
    waves = np.float32(2 * math.pi) / frequencies
    smooth = (np.float32(context) / waves - low) / (high - low)
    between = np.float32(1) / ((np.float32(1) - smooth) / factor + smooth)
    return np.where(waves < context / high, np.float32(1), np.where(waves > context / low, factor, between))


_LLAMA3: Final = (("factor", 8.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0))


def _tensors(folder: SafetensorsFolder, wanted: QuantType) -> tuple[Tensor, ...]:
    plain = CATALOGUE["F32"]
    found = []
    factors = rope_factors(folder.config)
    if factors is not None:
        found.append(Tensor(ROPE_FACTORS, factors.shape, plain))
    for name, parts in folder.tensors.items():
        tensor = Tensor(name, parts[0].shape[::-1], wanted)
        found.append(tensor if is_quantizable(tensor) else Tensor(name, tensor.shape, plain))
    return tuple(found)


def _usual_type(folder: SafetensorsFolder) -> QuantType:
    """The type that most weights of matrices are stored in."""
    weights = dict.fromkeys(FILE_TYPES, 0)
    for parts in folder.tensors.values():
        for part in parts:
            weights[part.quant_type.name] += math.prod(part.shape) if len(part.shape) > 1 else 0
    return CATALOGUE[max(weights, key=lambda name: weights[name])]


def _check_data(folder: SafetensorsFolder) -> None:
    faults = []
    for name, parts in folder.tensors.items():
        for part in parts:
            if part.size != part.quant_type.size(math.prod(part.shape)):
                faults.append(
                    Fault(str(part.path), f"{name}: shape, type and bytes do not agree: the header is damaged")
                )
            elif part.path.stat().st_size < part.offset + part.size:
                faults.append(Fault(str(part.path), f"is cut off: the bytes of {name} are missing; download it again"))
        if len(parts) > 1:
            faults.append(Fault(name, "is stored in several parts, which raq does not convert"))
    raise_faults(faults)


def _blocks_of(folder: SafetensorsFolder) -> Callable[[Tensor, QuantType], Iterator[Rows]]:
    def blocks(tensor: Tensor, wanted: QuantType) -> Iterator[Rows]:
        if tensor.name == ROPE_FACTORS:
            factors = rope_factors(folder.config)
            assert factors is not None, "it is a tensor only then"
            yield factors.view(np.uint8).reshape(1, -1)
            return
        part = folder.tensors[tensor.name][0]
        order = _row_order(folder, tensor, part)
        whole = None if order is None else _reordered(_read(part, tensor), order)
        for _, first, last in row_chunks(tensor):
            rows = _read(part, tensor, first, last) if whole is None else whole[first:last]
            yield rows if wanted == part.quant_type else _as(wanted, rows, part.quant_type, tensor)

    return blocks


def _row_order(folder: SafetensorsFolder, tensor: Tensor, part: Stored) -> Int[np.ndarray, "rows"] | None:
    """The stored row (of a bias: the element) for each row of the converted tensor; None if they keep their order."""
    role = tensor.name.split(".")[-2]
    heads = folder.config.get(_PERMUTED.get(role, "")) or folder.config.get("num_attention_heads")
    if folder.architecture != "llama" or role not in _PERMUTED or not tensor.name.startswith("blk."):
        return None
    rows = part.shape[0]
    if not isinstance(heads, int) or rows % (2 * heads):
        raise InvalidInput(Fault(tensor.name, f"its {rows} rows are not pairs of {heads} heads: config.json is wrong"))
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).ravel()


def _reordered(rows: Rows, order: Int[np.ndarray, "rows"]) -> Rows:
    """Rows in another order; of a single row, which is a bias, its elements."""
    moved: Rows = rows[order] if len(rows) > 1 else rows.reshape(len(order), -1)[order].reshape(1, -1)
    return moved


def _read(part: Stored, tensor: Tensor, first: int = 0, last: int | None = None) -> Rows:
    """The stored bytes of some rows."""
    size = part.quant_type.size(tensor.row_length)
    count = (tensor.rows if last is None else last) - first
    try:
        data = np.fromfile(part.path, np.uint8, count * size, offset=part.offset + first * size)
    except OSError as error:
        raise InvalidInput(Fault(str(part.path), f"can't be read: {error.strerror}")) from error
    if data.size != count * size:
        raise InvalidInput(Fault(str(part.path), "has become shorter since it was opened"))
    return data.reshape(count, size)


def _as(wanted: QuantType, rows: Rows, stored: QuantType, tensor: Tensor) -> Rows:
    weights = np.ascontiguousarray(to_weights(rows, stored, tensor.row_length))
    if wanted.name == "F16" and np.any(np.isfinite(weights) & (np.abs(weights) >= _F16_END)):
        raise InvalidInput(Fault(tensor.name, "holds weights too large for F16; convert with --to bf16 or f32"))
    made: Rows = raq_native.quantize(wanted.name, weights)
    return made


_F16_END: Final = np.float32(65520)
"""The smallest magnitude that rounds to infinity in F16."""
