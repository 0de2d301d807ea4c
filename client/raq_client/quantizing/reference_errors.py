"""Reference errors: the error of each quant type on Gaussian rows, for models whose weights are not available.

Rows of trained matrices are close to Gaussian: on the project's two models the relative errors of the K types,
measured with importance, are 0.33 to 1.04 times these, and the median of each type 0.92 to 0.99 times. They depend
only on the type: a plan made with them uses the tensors' sizes and one common error per type.
"""

import math
from functools import cache
from types import MappingProxyType
from typing import Final

import numpy as np

import raq_native
from raq_client.models.quantizable import candidates
from raq_client.models.table import NUMBERS, ModelTable, numbers_text
from raq_client.models.type_choice import TypeChoice
from raq_client.quantizing.measure import kernels_digest
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE

ROWS, ROW_LENGTH = 64, 4096
"""With these 262,144 weights the relative error has a standard error of about 0.3 %."""
NOTE: Final = "of Gaussian rows, not of this model's weights"
BITS_ELSEWHERE: Final = MappingProxyType(
    {
        "IQ1_KT": 1.75,
        "IQ2_KT": 2.125,
        "IQ2_KS": 2.1875,
        "IQ2_K": 2.375,
        "IQ2_KL": 2.6875,
        "IQ3_KT": 3.125,
        "IQ3_KS": 3.1875,
        "IQ3_K": 3.4375,
        "IQ4_KT": 4.0,
        "IQ4_KSS": 4.0,
        "IQ4_KS": 4.25,
        "IQ4_K": 4.5,
        "IQ5_KS": 5.25,
        "IQ5_K": 5.5,
        "IQ6_K": 6.625,
    }
)
"""Bits per weight of ik_llama.cpp's own types, which raq can't write. Source: bytes per weight in the published maps
of Thireus' GGUF Tool Suite, without the scale of each row."""
_LADDER: Final = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K")


@cache
def reference_error(name: str) -> float:
    """The relative output error of a quant type of the catalogue on Gaussian rows without importance."""
    rows = np.random.default_rng(0).standard_normal((ROWS, ROW_LENGTH), np.float32)
    (found,) = raq_native.measure_errors([name], rows, None, threads=0, effort="fast")
    return found.weighted_squared_error / found.weighted_energy


def error_of_published(name: str) -> float | None:
    """The reference error of a type in published tables, also repacked (`q2_k_r4`) or ik_llama.cpp's; None if unknown.

    For ik_llama.cpp's types only the bits are known; their error is interpolated between the types of similar size.
    """
    plain = name.upper().removesuffix("_R4").removesuffix("_R8")
    if plain in CATALOGUE:
        return reference_error(plain)
    bits = BITS_ELSEWHERE.get(plain)
    if bits is None:
        return None
    at = [float(CATALOGUE[step].bits_per_weight) for step in _LADDER]
    return math.exp(float(np.interp(bits, at, [math.log(reference_error(step)) for step in _LADDER])))


def reference_profile(table: ModelTable, choice: TypeChoice) -> Profile:
    """A profile of a model from its table alone, with the reference error of each type for every tensor.

    Energies are numbers of weights (unit weights). The provenance contains the source of the errors.
    """
    offered = [
        candidates(tensor, (*choice.of(tensor), tensor.source_type), architecture=table.architecture)
        for tensor in table.tensors
    ]
    columns = tuple(sorted({q for types in offered for q in types}, key=lambda q: (-q.bits_per_weight, q.name)))
    errors = np.full((len(offered), len(columns)), np.inf)
    for row, (tensor, types) in enumerate(zip(table.tensors, offered, strict=True)):
        for quant_type in types:
            same = quant_type == tensor.source_type
            errors[row, columns.index(quant_type)] = 0.0 if same else reference_error(quant_type.name)
    unknown = np.full(len(offered), np.nan)
    energies = np.array([tensor.weights for tensor in table.tensors], dtype=np.float64)
    provenance = {
        "model": table.name,
        "architecture": table.architecture,
        "imatrix": "none",
        "errors": NOTE,
        "kernels": kernels_digest(),
        NUMBERS: numbers_text(table),
    }
    return Profile(table.tensors, columns, errors, energies, unknown, unknown.copy(), provenance)
