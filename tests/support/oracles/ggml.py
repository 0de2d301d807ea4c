"""ggml's own quantizers, from the library inside the xllamacpp wheel: a witness for ours.

Used: `ggml_quantize_chunk`, and gguf-py's NumPy dequantizers. Both write and read the published block layouts.
"""

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
from jaxtyping import Float32, UInt8

from raq_native import QUANT_TYPES, QuantType

BY_NAME = {quant_type.name: quant_type for quant_type in QUANT_TYPES}
NEEDS_IMPORTANCE = {"IQ2_XXS", "IQ2_XS", "IQ1_S"}
"""Types that ggml aborts on without importance."""


@cache
def library() -> ctypes.CDLL:
    """The shared library; the calling test is skipped where the wheel is not installed."""
    package = find_spec("xllamacpp")  # not imported: raq does not import it either, and a test looks
    if package is None or package.origin is None:
        pytest.skip("the package xllamacpp is not installed")
    found = sorted(Path(package.origin).parent.glob("xllamacpp*.so"))
    loaded = ctypes.CDLL(str(found[0]))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    loaded.ggml_quantize_chunk.restype = ctypes.c_size_t
    loaded.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    return loaded


def row_bytes(quant_type: QuantType, row_length: int) -> int:
    """Bytes of one row."""
    return row_length // quant_type.weights_per_block * quant_type.bytes_per_block


def quantize(
    name: str, weights: Float32[np.ndarray, "rows length"], importance: Float32[np.ndarray, " length"] | None
) -> UInt8[np.ndarray, "rows bytes"]:
    """What llama.cpp would write."""
    quant_type = BY_NAME[name]
    rows, length = weights.shape
    blocks = np.zeros((rows, row_bytes(quant_type, length)), np.uint8)
    columns = None if importance is None else importance.ctypes.data
    written = library().ggml_quantize_chunk(
        quant_type.ggml_id, weights.ctypes.data, blocks.ctypes.data, 0, rows, length, columns
    )
    assert written == blocks.nbytes
    return blocks


def dequantize(
    name: str, blocks: UInt8[np.ndarray, "rows bytes"], row_length: int
) -> Float32[np.ndarray, "rows length"]:
    """What gguf-py reads."""
    with np.errstate(all="ignore"):
        found = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
    return np.asarray(found, np.float32).reshape(len(blocks), row_length)


def squared_error(
    weights: Float32[np.ndarray, "rows length"],
    restored: Float32[np.ndarray, "rows length"],
    importance: Float32[np.ndarray, " length"] | None,
) -> float:
    """Sum of h (w - r)^2 in double precision."""
    difference = (weights.astype(np.float64) - restored) ** 2
    return float((difference if importance is None else difference * importance).sum())
