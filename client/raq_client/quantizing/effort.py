"""How long tensors take to quantize: for the time that is left of a file, and the order of units.

An average over tensors is wrong by a factor where types differ: those with a table of points (IQ) take 5 to 20 times as
long as the others of their size.
"""

from collections.abc import Mapping
from typing import Final

from raq_client.progress import Work
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

_NANOSECONDS: Final = {
    "F32": 0.6, "BF16": 0.7, "F16": 0.8, "Q1_0": 0.9, "Q8_0": 0.9, "TQ2_0": 1.5, "TQ1_0": 1.6, "MXFP4": 2.0,
    "Q2_0": 2.0, "Q4_0": 4.3, "NVFP4": 4.5, "Q5_0": 5.5, "Q6_K": 7.7, "Q3_K": 8.3, "Q5_1": 9.8, "Q4_1": 11.2,
    "Q4_K": 12.2, "Q5_K": 12.9, "Q2_K": 15.4, "IQ2_XXS": 33.8, "IQ2_XS": 40.3, "IQ2_S": 55.4, "IQ3_XXS": 57.2,
    "IQ3_S": 71.7, "IQ1_M": 89.9, "IQ1_S": 93.3, "IQ4_NL": 144.1, "IQ4_XS": 168.8,
}  # fmt: skip
"""Of a weight with importance, `raq_native.quantize` in one thread of an x86-64 processor with AVX2, 2026-11-29."""
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
