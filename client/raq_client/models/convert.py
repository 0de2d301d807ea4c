"""Convert a folder of safetensors to a GGUF file, with the bytes that llama.cpp's converter gives.

Tensors are converted one by one, a chunk of rows at a time; one whose rows change their order is read whole (at most
the query projection of one block).
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32
from platformdirs import user_cache_path

from raq_client.models.conversion_keys import FILE_TYPES, check_convertible, conversion_keys
from raq_client.models.conversion_weights import converted_rows
from raq_client.models.gguf_header import DEFAULT_ALIGNMENT
from raq_client.models.model_file import ModelFile
from raq_client.models.quantizable import is_quantizable
from raq_client.models.safetensors import SafetensorsFolder, open_folder, rope_of
from raq_client.models.stored_tensors import Rows
from raq_client.models.writer import Progress, WrittenModel, write_model
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensors import Tensor

ROPE_FACTORS: Final = "rope_freqs.weight"
_VERSION: Final = b"raq conversion 2"


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
    for name, made in folder.tensors.items():
        tensor = Tensor(name, made.shape[::-1], wanted)
        found.append(tensor if is_quantizable(tensor) else Tensor(name, tensor.shape, plain))
    return tuple(found)


def _usual_type(folder: SafetensorsFolder) -> QuantType:
    """The type that most weights of matrices are stored in; BF16 for FP8."""
    weights = dict.fromkeys(FILE_TYPES, 0)
    for made in folder.tensors.values():
        weights[made.parts[0].quant_type.name] += math.prod(made.shape) if len(made.shape) > 1 else 0
    return CATALOGUE[max(weights, key=lambda name: weights[name])]


def _check_data(folder: SafetensorsFolder) -> None:
    faults = []
    for name, made in folder.tensors.items():
        for part in made.parts:
            for each in (part,) if part.scales is None else (part, part.scales):
                if each.size != each.expected_size:
                    what = f"{name}: shape, type and bytes do not agree: the header is damaged"
                    faults.append(Fault(str(each.path), what))
                elif each.path.stat().st_size < each.offset + each.size:
                    what = f"is cut off: the bytes of {name} are missing; download it again"
                    faults.append(Fault(str(each.path), what))
    raise_faults(faults)


def _blocks_of(folder: SafetensorsFolder) -> Callable[[Tensor, QuantType], Iterator[Rows]]:
    def blocks(tensor: Tensor, wanted: QuantType) -> Iterator[Rows]:
        if tensor.name == ROPE_FACTORS:
            factors = rope_factors(folder.config)
            assert factors is not None, "it is a tensor only then"
            yield factors.view(np.uint8).reshape(1, -1)
        else:
            yield from converted_rows(folder, tensor, wanted)

    return blocks
