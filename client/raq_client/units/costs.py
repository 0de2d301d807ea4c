"""What a weight costs, by type: the expected times by which units are put in order. They change no result."""

from typing import Final

from raq_solver.quant_types import QuantType

# MB of float32 per second and core with the effort `fast`, from docs/native.md.
_SPEEDS: Final = {
    "Q4_1": 561,
    "Q5_1": 557,
    "Q2_K": 399,
    "Q3_K": 832,
    "Q4_K": 443,
    "Q5_K": 444,
    "Q6_K": 830,
    "IQ2_XXS": 178,
    "IQ2_XS": 137,
    "IQ2_S": 106,
    "IQ3_XXS": 108,
    "IQ3_S": 83,
    "IQ1_S": 68,
    "IQ1_M": 67,
    "IQ4_NL": 71,
    "IQ4_XS": 59,
}
_OTHERS: Final = 1000
_READING: Final = 500
_BYTES: Final = 4


def measuring_cost(wanted: QuantType) -> float:
    """Microseconds of one core to quantize a weight and measure its error, without reading it."""
    return _BYTES / _SPEEDS.get(wanted.name, _OTHERS)


def writing_cost(stored: QuantType, wanted: QuantType) -> float:
    """Microseconds of one core to read a weight, quantize it (where the type changes) and write it."""
    return _BYTES / _READING + (0 if stored == wanted else measuring_cost(wanted))
