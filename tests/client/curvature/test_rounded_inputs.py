"""Errors of rounded inputs are those of ggml's 8-bit types."""

import gguf
import numpy as np
import pytest

from raq_client.curvature.rounded_inputs import rounding_costs
from raq_solver.quant_types import CATALOGUE, INPUT_BLOCKS


def _drawn(columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs with tails, and gradients."""
    random = np.random.default_rng(seed)
    inputs = random.standard_t(3, (6, columns)).astype(np.float32)
    inputs[2] = 0
    return inputs, random.standard_normal((6, columns)).astype(np.float32)


def test_those_with_a_scale_for_32_are_those_of_q8_0() -> None:
    inputs, gradient = _drawn(96, seed=1)
    read = gguf.dequantize(gguf.quantize(inputs, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0)
    expected = np.square((read - inputs) * gradient).sum()
    assert rounding_costs(inputs, gradient)[0] == pytest.approx(expected, rel=0.02)  # ggml's scales are halves


def test_those_with_a_scale_for_256_are_by_the_largest_of_256() -> None:
    inputs, gradient = _drawn(512, seed=2)
    expected = 0.0
    for row, at_row in zip(inputs.astype(np.float64), gradient, strict=True):
        for first in (0, 256):
            values = row[first : first + 256]
            scale = np.abs(values).max() / 127
            rounded = scale * np.rint(values / scale) if scale else values
            expected += np.square((rounded - values) * at_row[first : first + 256]).sum()
    narrow, wide = rounding_costs(inputs, gradient)
    assert wide == pytest.approx(expected, rel=1e-4)
    assert wide > 2 * narrow


def test_rows_that_are_not_of_such_blocks_cost_nothing() -> None:
    narrow, wide = rounding_costs(*_drawn(288, seed=3))
    assert (narrow > 0, wide) == (True, 0)
    assert rounding_costs(*_drawn(16, seed=3)).tolist() == [0, 0]


def test_every_type_has_the_block_of_its_kernel() -> None:
    """Facts: `vec_dot_type` of ggml-cpu.c, 8 bits by 32 for blocks below 256 weights, by 256 for others."""
    narrow = {"Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL", "MXFP4", "NVFP4", "Q2_0", "Q1_0"}
    found = {name: quant_type.input_block for name, quant_type in CATALOGUE.items()}
    assert {name for name, block in found.items() if block == INPUT_BLOCKS[0]} == narrow
    assert {name for name, block in found.items() if block == 0} == {"F32", "F16", "BF16"}
    assert set(found.values()) == {0, *INPUT_BLOCKS}
