"""CUDA does what the CPU does, to the last bit. Skipped, with the reason, where there is no device."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import raq_native
from raq_native import QUANT_TYPES
from support.emulated_cuda import sums_of
from support.hard_rows import hard_rows, importances

NAMES = [quant_type.name for quant_type in QUANT_TYPES]
BLOCKS = [quant_type.name for quant_type in QUANT_TYPES if quant_type.weights_per_block > 1]
HUNDRED_MILLION = (24576, 4096)


@pytest.fixture(autouse=True)
def _device() -> None:
    if not raq_native.cuda_built:
        pytest.skip("built without CUDA")
    if not any(device.usable for device in raq_native.cuda_devices()):
        pytest.skip("no usable CUDA device on this machine")


def devices() -> list[str]:
    """All of them together, and each by its number."""
    return ["cuda", *(f"cuda:{device.number}" for device in raq_native.cuda_devices() if device.usable)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("effort", ["fast", "best"])
@pytest.mark.parametrize("length", [256, 768, 4096])
def test_same_bytes(name: str, effort: str, length: int) -> None:
    weights = hard_rows(length)
    for importance in importances(length):
        expected = raq_native.quantize(name, weights, importance, effort=effort)
        for device in devices():
            found = raq_native.quantize(name, weights, importance, effort=effort, device=device)
            assert np.array_equal(found, expected)


def upper(size: int) -> np.ndarray:
    """A factor for error feedback whose entries beside the diagonal matter."""
    rng = np.random.default_rng(size)
    factor = np.triu(rng.normal(0, 0.03, (size, size)), 1) + np.diag(rng.uniform(0.5, 2, size))
    return factor.astype(np.float32)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("effort", ["fast", "best"])
@pytest.mark.parametrize("length", [256, 2304])
def test_same_bytes_with_feedback(name: str, effort: str, length: int) -> None:
    ordinary = np.random.default_rng(7).standard_t(4, (189, length)).astype(np.float32)
    weights = np.concatenate([hard_rows(length), ordinary])
    for row_factor in (None, upper(len(weights))):
        given = (name, weights, upper(length), row_factor)
        expected = raq_native.quantize_with_feedback(*given, effort=effort)
        for device in devices():
            assert np.array_equal(raq_native.quantize_with_feedback(*given, effort=effort, device=device), expected)


def test_several_matrices_with_feedback_at_once() -> None:
    factor, row_factor = upper(1024), upper(200)
    rows = [np.random.default_rng(seed).standard_normal((200, 1024), np.float32) for seed in range(8)]

    def rounded(weights: np.ndarray, device: str) -> np.ndarray:
        return raq_native.quantize_with_feedback("Q4_K", weights, factor, row_factor, device=device)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda weights: rounded(weights, "cuda"), rows))
    assert all(np.array_equal(blocks, rounded(weights, "cpu")) for blocks, weights in zip(found, rows, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_same_floats_of_any_bytes(name: str) -> None:
    length = 1536
    count = raq_native.quantize(name, np.zeros((1, length), np.float32)).shape[1]
    blocks = np.random.default_rng(3).integers(0, 256, (100, count), np.uint8)
    ours, theirs = (raq_native.dequantize(name, blocks, length, device=device) for device in ("cpu", "cuda"))
    assert np.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("effort", ["fast", "best"])
def test_same_sums(name: str, effort: str) -> None:
    weights = np.random.default_rng(4).standard_t(4, (2000, 1024)).astype(np.float32)
    for importance in importances(1024):
        expected = sums_of(raq_native.measure_error(name, weights, importance, effort=effort))
        for device in devices():
            found = raq_native.measure_error(name, weights, importance, effort=effort, device=device)
            assert sums_of(found) == expected


def test_all_types_of_one_transfer() -> None:
    weights = np.random.default_rng(6).standard_t(4, (5000, 4096)).astype(np.float32)
    ours, theirs = (raq_native.measure_errors(NAMES, weights, device=device) for device in ("cpu", "cuda"))
    assert [sums_of(found) for found in theirs] == [sums_of(found) for found in ours]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_weight_is_named(name: str) -> None:
    weights = np.ones((400, 256), np.float32)
    weights[311, 40] = weights[399, 0] = np.nan
    with pytest.raises(ValueError, match=r"weight \[311, 40\] is NaN or infinite"):
        raq_native.quantize(name, weights, device="cuda")


def test_several_threads_may_ask_at_once() -> None:
    rows = [np.random.default_rng(seed).standard_normal((300 + seed, 1024), np.float32) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda weights: raq_native.quantize("Q4_K", weights, device="cuda"), rows))
    assert all(
        np.array_equal(blocks, raq_native.quantize("Q4_K", weights))
        for blocks, weights in zip(found, rows, strict=True)
    )


def test_memory_is_given_back_and_taken_again() -> None:
    weights = np.ones((3000, 4096), np.float32)
    for _ in range(2):
        assert raq_native.quantize("Q8_0", weights, device="cuda").any()
        raq_native.cuda_release()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_of_a_hundred_million_weights(name: str) -> None:
    """Ordinary rows, and hard ones (zeros, denormals, ±1e30, one outlier) in every thousand."""
    rng = np.random.default_rng(5)
    weights = rng.standard_normal(HUNDRED_MILLION, np.float32)
    hard = hard_rows(HUNDRED_MILLION[1])
    for first in range(0, HUNDRED_MILLION[0] - len(hard), 1000):
        weights[first : first + len(hard)] = hard
    importance = rng.gamma(1.0, 1.0, HUNDRED_MILLION[1]).astype(np.float32)
    ours, theirs = (raq_native.quantize(name, weights, importance, device=device) for device in ("cpu", "cuda"))
    assert np.array_equal(ours, theirs)
