"""How long tensors take to quantize: for the time that is left of a file, and the order of units.

An average over tensors is wrong by a factor where types differ: those with a table of points (IQ1 to IQ3) take 2 to 7
times as long as the others of their size.
"""

from collections.abc import Mapping
from typing import Final

from raq_client.progress import Work
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

_NANOSECONDS: Final = {
    "F32": 0.5, "BF16": 0.7, "F16": 0.8, "Q1_0": 1.0, "Q8_0": 1.3, "TQ2_0": 2.1, "TQ1_0": 2.3, "Q2_0": 2.7,
    "MXFP4": 3.0, "Q4_0": 5.3, "Q5_0": 5.8, "NVFP4": 7.3, "Q6_K": 7.9, "Q3_K": 7.9, "Q4_1": 10.6, "Q5_1": 10.7,
    "Q5_K": 13.4, "Q4_K": 13.4, "IQ4_NL": 13.4, "IQ4_XS": 15.0, "Q2_K": 16.1, "IQ2_XXS": 26.5, "IQ2_XS": 27.7,
    "IQ2_S": 29.1, "IQ1_S": 37.5, "IQ3_S": 37.9, "IQ1_M": 39.1, "IQ3_XXS": 39.1,
}  # fmt: skip
"""Of a weight with importance, `raq_native.quantize` in one thread of an x86-64 processor with AVX2, 2026-11-30."""
_REST: Final = 2.0
"""Nanoseconds of a weight for reading, writing and the digest, also where it is copied."""
_UNKNOWN: Final = 15.0


def measuring_cost(wanted: QuantType) -> float:
    """Microseconds of one core to quantize a weight and measure its error, without reading it."""
    return _NANOSECONDS.get(wanted.name, _UNKNOWN) / 1000


def writing_cost(stored: QuantType, wanted: QuantType) -> float:
    """Microseconds of one core to read a weight, quantize it (where the type changes) and write it."""
    return _REST / 1000 + (0.0 if stored == wanted else measuring_cost(wanted))


def quantizing_work(types: Mapping[Tensor, QuantType]) -> Work:
    """Bytes of each tensor in its type by name, and about how long they take to make, in microseconds of one core."""
    return {
        tensor.name: (chosen.size(tensor.weights), tensor.weights * writing_cost(tensor.source_type, chosen))
        for tensor, chosen in types.items()
    }
