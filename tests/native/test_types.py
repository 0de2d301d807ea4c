from typing import Any

import gguf
import numpy as np
import pytest

import raq_native
from raq_native import QUANT_TYPES
from support.oracles.ggml import BY_NAME, row_bytes

NAMES = [quant_type.name for quant_type in QUANT_TYPES]
AFTER_GGUF = {"Q1_0": (41, 128, 18), "Q2_0": (42, 64, 18)}
"""Types that the installed gguf package has no sizes for; from ggml's type table."""


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_ggufs(name: str) -> None:
    row = BY_NAME[name]
    found = (row.ggml_id, row.weights_per_block, row.bytes_per_block)
    if name in AFTER_GGUF:
        assert found == AFTER_GGUF[name]
    else:
        known = gguf.GGMLQuantizationType[name]
        assert found == (known.value, *gguf.GGML_QUANT_SIZES[known])


def test_the_table_is_in_the_order_of_ids() -> None:
    assert list(QUANT_TYPES) == sorted(QUANT_TYPES, key=lambda row: row.ggml_id)


def test_all_is_what_is_exported() -> None:
    public = {name for name in vars(raq_native) if not name.startswith("_")}
    assert public == set(raq_native.__all__)
    assert sorted(raq_native.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)) == list(
        raq_native.__all__
    )


def test_unknown_type() -> None:
    with pytest.raises(ValueError, match="unknown quant type 'Q4_Z'"):
        raq_native.quantize("Q4_Z", np.zeros((1, 256), np.float32))


def test_row_that_the_block_does_not_divide() -> None:
    with pytest.raises(ValueError, match="row length 288 is not a multiple of 256, the block of Q4_K"):
        raq_native.quantize("Q4_K", np.zeros((1, 288), np.float32))


def test_importance_of_another_length() -> None:
    with pytest.raises(ValueError, match="importance has 128 values for a row length of 256"):
        raq_native.quantize("Q4_K", np.zeros((1, 256), np.float32), np.ones(128, np.float32))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_importance_that_is_none(bad: float) -> None:
    importance = np.ones(256, np.float32)
    importance[7] = bad
    with pytest.raises(ValueError, match=r"importance \[7\] is negative, NaN or infinite"):
        raq_native.measure_error("Q8_0", np.zeros((1, 256), np.float32), importance)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_weight_that_is_not_finite_is_named(name: str, bad: float) -> None:
    weights = np.ones((900, 256), np.float32)
    weights[700, 3] = weights[533, 17] = weights[533, 200] = bad
    for threads in (1, 2):
        with pytest.raises(ValueError, match=r"weight \[533, 17\] is NaN or infinite"):
            raq_native.quantize(name, weights, threads=threads)
        with pytest.raises(ValueError, match=r"weight \[533, 17\] is NaN or infinite"):
            raq_native.measure_errors([name], weights, threads=threads)


def test_blocks_of_another_length() -> None:
    with pytest.raises(ValueError, match="rows of 140 bytes, but 256 weights of Q4_K take 144"):
        raq_native.dequantize("Q4_K", np.zeros((1, 140), np.uint8), 256)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("effort", "most", "unknown effort 'most'"),
        ("device", "tpu", "unknown device 'tpu'"),
        ("threads", -1, "threads is negative"),
        ("instruction_set", "v9", "unknown instruction set 'v9'"),
    ],
)
def test_unknown_options(option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        raq_native.quantize("Q8_0", np.zeros((1, 32), np.float32), **{option: value})


@pytest.mark.parametrize(
    "weights",
    [
        np.zeros((1, 256), np.float64),
        np.zeros((1, 256), np.float16),
        np.zeros((256, 2), np.float32).T,
        np.zeros(256, np.float32),
    ],
)
def test_arrays_are_never_converted(weights: np.ndarray) -> None:
    with pytest.raises(TypeError):
        raq_native.quantize("Q8_0", weights)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_and_no_columns(name: str) -> None:
    for shape in ((0, 256), (3, 0)):
        blocks = raq_native.quantize(name, np.zeros(shape, np.float32))
        assert blocks.shape == (shape[0], row_bytes(BY_NAME[name], shape[1]))
        assert raq_native.dequantize(name, blocks, shape[1]).shape == shape
        found = raq_native.measure_error(name, np.zeros(shape, np.float32))
        assert (found.weighted_squared_error, found.weighted_energy) == (0.0, 0.0)


def test_without_a_device_cuda_is_refused_in_words() -> None:
    if raq_native.cuda_devices():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(RuntimeError, match="use device='cpu'"):
        raq_native.quantize("Q8_0", np.zeros((1, 32), np.float32), device="cuda")
