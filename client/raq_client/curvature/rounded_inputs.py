"""What the rounding of a tensor's inputs costs: ggml's kernels round what quantized weights are multiplied with.

Theory. With u_t the gradient of -ln p(label) at the inputs x_t of a product and δ_t what rounding adds to them, the KL
divergence is E[(Σ_t u_tᵀ δ_t)²] / (2 T) for T tokens (`curvature.fisher`). Rounding errors are nearly uncorrelated with
each other, so that it is Σ_tj E[u_tj² δ_tj²] / (2 T).

ggml stores inputs as 8-bit numbers with one scale for 32 of them (Q8_0, Q8_1) or for 256 (Q8_K), by the largest
magnitude among these. Source: quantize_row_q8_0_ref and quantize_row_q8_K_ref in ggml/src/ggml-quants.c of llama.cpp
0c1e57098. The scale of 32 is stored in half precision, which makes the sum larger by 0.1 to 0.2 %: left out.
"""

from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

from raq_solver.quant_types import INPUT_BLOCKS

_LARGEST: Final = np.float32(127)


def rounding_costs(
    inputs: Float32[np.ndarray, "tokens columns"], gradient: Float32[np.ndarray, "tokens columns"]
) -> Float64[np.ndarray, " blocks"]:
    """Σ (u δ)² over tokens and columns, for the errors δ of inputs rounded in each of `INPUT_BLOCKS`.

    `gradient` is that at the inputs. 0 for blocks that the columns do not divide into.
    """
    return np.array([_cost(inputs, gradient, block) for block in INPUT_BLOCKS])


def _cost(
    inputs: Float32[np.ndarray, "tokens columns"], gradient: Float32[np.ndarray, "tokens columns"], block: int
) -> float:
    if inputs.shape[1] % block:
        return 0.0
    values = inputs.reshape(-1, block)
    largest = np.maximum(values.max(axis=1, keepdims=True), -values.min(axis=1, keepdims=True))
    inverses = np.divide(_LARGEST, largest, out=np.zeros_like(largest), where=largest > 0)
    # In place: of wide layers these arrays are large, and each pass over memory takes as long as the arithmetic.
    errors = values * inverses
    np.rint(errors, out=errors)
    errors *= largest / _LARGEST
    errors -= values
    errors *= gradient.reshape(-1, block)
    return float(np.einsum("tn,tn->", errors, errors, dtype=np.float64))
