"""Tensors in safetensors files: where their bytes are, and their rows decoded."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, UInt8

from raq_client.models.model_file import to_weights
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import CATALOGUE, QuantType

FP8: Final = "F8_E4M3"
_TYPES: Final = {"F32": CATALOGUE["F32"], "F16": CATALOGUE["F16"], "BF16": CATALOGUE["BF16"], FP8: CATALOGUE["BF16"]}
"""The type that a tensor of each stored type becomes unless another is asked for."""
_MOST_HEADER_BYTES: Final = 10**8
"""The maximum size of a header in the safetensors format."""

Rows = UInt8[np.ndarray, "rows size"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a safetensors file: its shape with the row length last, its type there, and where its bytes are.

    `scales` are the factors of the blocks of an FP8 tensor.
    """

    shape: tuple[int, ...]
    kind: str
    path: Path
    offset: int
    size: int
    scales: "Stored | None" = None

    @property
    def is_fp8(self) -> bool:
        """Whether it is stored in 8-bit floats."""
        return self.kind == FP8

    @property
    def quant_type(self) -> QuantType:
        """The type that it becomes unless another is asked for: its own, of FP8 BF16."""
        return _TYPES[self.kind]

    @property
    def row_type(self) -> QuantType:
        """The type of the rows that `read_rows` returns: its own, of FP8 F32."""
        return CATALOGUE["F32"] if self.is_fp8 else _TYPES[self.kind]

    @property
    def expected_size(self) -> int:
        """Bytes that its shape and type need."""
        return math.prod(self.shape) * (1 if self.is_fp8 else self.quant_type.size(1))


def read_shard(path: Path) -> tuple[dict[str, Stored], list[Fault]]:
    """The tensors of a safetensors file by its names, in their order, with a fault for each that raq can't read."""
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(header_bytes)) if header_bytes <= _MOST_HEADER_BYTES else None
    except (OSError, struct.error, UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        header = None
    if not isinstance(header, dict):
        return {}, [Fault(str(path), "not a safetensors file, or cut off")]
    found = {}
    faults = []
    for name, entry in sorted(header.items()):  # the order in which llama.cpp's converter reads them
        if name == "__metadata__":
            continue
        found_there = _entry(path, entry, 8 + header_bytes)
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        if found_there is not None:
            found[name] = found_there
        elif kind in _TYPES:
            faults.append(Fault(str(path), f"the entry of {name} is damaged; download the file again"))
        else:
            faults.append(Fault(str(path), f"{name} is stored as {kind}; raq knows {', '.join(_TYPES)}"))
    return found, faults


def read_rows(part: Stored, first: int, last: int, block: tuple[int, int]) -> Rows:
    """The bytes of rows `first` to `last`, in `row_type`; FP8 is decoded with its scales.

    `block` is the number of rows and of columns that share a scale; (0, 0) if there is one scale for the tensor.

    Raises InvalidInput if they can't be read.
    """
    length = part.shape[-1]
    if not part.is_fp8:
        return _bytes(part, first, last, part.quant_type.size(length))
    weights = _FP8[_bytes(part, first, last, length)]
    if part.scales is not None:
        weights *= _scales(part.scales, first, last, length, block)
    rows: Rows = weights.view(np.uint8)
    return rows


def _scales(
    scales: Stored, first: int, last: int, length: int, block: tuple[int, int]
) -> Float32[np.ndarray, "rows length"]:
    rows, columns = scales.shape if len(scales.shape) == 2 else (1, math.prod(scales.shape))
    single = rows == columns == 1
    if scales.is_fp8 or not (single or (rows * block[0] >= last and columns * block[1] >= length)):
        raise InvalidInput(Fault(str(scales.path), "the scales of an FP8 tensor do not fit its blocks"))
    stored = _bytes(scales, 0, rows, scales.quant_type.size(1) * columns)
    found = to_weights(stored, scales.quant_type, columns)
    if single:
        return found
    spread: Float32[np.ndarray, "rows length"] = found[np.arange(first, last) // block[0]]
    return spread[:, np.arange(length) // block[1]]


def _bytes(part: Stored, first: int, last: int, row_bytes: int) -> Rows:
    count = (last - first) * row_bytes
    try:
        data = np.fromfile(part.path, np.uint8, count, offset=part.offset + first * row_bytes)
    except OSError as error:
        raise InvalidInput(Fault(str(part.path), f"can't be read: {error.strerror}")) from error
    if data.size != count:
        raise InvalidInput(Fault(str(part.path), "has become shorter since it was opened"))
    return data.reshape(last - first, row_bytes)


def _entry(path: Path, entry: Any, data_start: int) -> Stored | None:
    """A tensor's entry in a header; None if raq does not know its type, or the entry is damaged."""
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if kind in _TYPES:
            if 0 <= begin <= end and all(isinstance(length, int) and length >= 0 for length in shape):
                return Stored(tuple(shape), kind, path, data_start + begin, end - begin)
    return None


def _fp8_values() -> Float32[np.ndarray, "256"]:
    """The values of the 8-bit floats with 4 bits of exponent and 3 of mantissa, without infinities (E4M3FN)."""
    codes = np.arange(256)
    exponents, mantissas = codes >> 3 & 15, codes & 7
    values = np.where(exponents == 0, np.ldexp(mantissas, -9), np.ldexp(8 + mantissas, exponents - 10))
    values[codes & 127 == 127] = np.nan
    return np.array(np.where(codes < 128, values, -values), np.float32)


_FP8: Final = _fp8_values()
