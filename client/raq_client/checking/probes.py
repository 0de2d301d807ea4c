"""Probes: what a tensor becomes when it is quantized, and how far that is from what it was."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

import raq_native
from raq_client.models.quantizable import fitting_type, needs_importance
from raq_client.quantizing.quantize import Effort
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensors import Tensor


@dataclass(frozen=True, eq=False)
class Probe:
    """The dequantized `values` of a tensor, and their relative output error Σ h (W - Ŵ)² / Σ h W²."""

    values: Float32[np.ndarray, "matrices rows length"]
    error: float


def probe_type(wanted: QuantType, tensor: Tensor, *, has_importance: bool) -> QuantType:
    """The type to probe a tensor with: `wanted` where it fits and may be used, else llama.cpp's substitute or Q8_0."""
    fitting = fitting_type(wanted, tensor.row_length)
    if fitting is None or (needs_importance(fitting, tensor.name) and not has_importance):
        fitting = fitting_type(CATALOGUE["Q4_0"], tensor.row_length)
    assert fitting is not None, "Q4_0 has a substitute for any row length"
    return fitting


def make_probe(
    weights: Float32[np.ndarray, "matrices rows length"],
    quant_type: QuantType,
    rounding: Float32[np.ndarray, "matrices length"] | None,
    importance: Float32[np.ndarray, "matrices length"] | None,
    *,
    effort: Effort = "fast",
    threads: int = 0,
) -> Probe:
    """Quantize and dequantize every matrix with the kernels that write files.

    Columns count as `rounding` says when they are quantized, and as `importance` says in the error.

    Raises ValueError if the rows do not divide into blocks, or a weight or importance is not finite.
    """
    values = np.empty_like(weights)
    squared = energy = 0.0
    for index, matrix in enumerate(weights):
        columns = None if importance is None else importance[index]
        rounded_by = None if rounding is None else rounding[index]
        blocks = raq_native.quantize(quant_type.name, matrix, rounded_by, threads=threads, effort=effort)
        values[index] = raq_native.dequantize(quant_type.name, blocks, matrix.shape[1], threads=threads)
        counted = np.ones(matrix.shape[1]) if columns is None else columns.astype(np.float64)
        squared += float(np.square(values[index] - matrix).sum(axis=0, dtype=np.float64) @ counted)
        energy += float(np.square(matrix).sum(axis=0, dtype=np.float64) @ counted)
    return Probe(values, squared / energy if energy > 0 else 0.0)
