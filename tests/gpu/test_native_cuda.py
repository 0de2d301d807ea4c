"""CUDA writes the CPU's bytes. Skipped, with the reason, where there is no device."""

import numpy as np
import pytest

import raq_native
from raq_native import QUANT_TYPES

NAMES = [quant_type.name for quant_type in QUANT_TYPES]


@pytest.fixture(autouse=True)
def _device() -> None:
    if not raq_native.cuda_built:
        pytest.skip("built without CUDA")
    if not raq_native.cuda_devices():
        pytest.skip("no CUDA device on this machine")


def hard_rows(length: int) -> np.ndarray:
    """Zeros, one outlier, denormals, huge, tiny, constant, sparse and ordinary rows, and all of float's exponents."""
    rng = np.random.default_rng(length)
    rows = rng.standard_normal((24, length))
    rows[0] = 0
    rows[1] = -0.0
    rows[2, length // 3] = 1000
    rows[3] *= 1e-42
    rows[4] *= 1e30
    rows[5] *= -1e30
    rows[6] *= 1e-30
    rows[7] = 1
    rows[8] = -1
    rows[9] *= rng.random(length) < 0.02
    rows[10] = np.abs(rows[10])
    rows[11] = -np.abs(rows[11])
    rows[12] *= 10.0 ** rng.uniform(-44, 37, length)
    rows[13] *= 6e4
    rows[14] *= 6e-5
    rows[15] = rng.standard_t(2, length)
    with np.errstate(under="ignore"):
        return rows.astype(np.float32)


def importances(length: int) -> list[np.ndarray | None]:
    rng = np.random.default_rng(length + 1)
    uneven = rng.gamma(0.3, 1.0, length).astype(np.float32)
    half = uneven.copy()
    half[: length // 2] = 0
    return [None, uneven, half]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("effort", ["fast", "best"])
@pytest.mark.parametrize("length", [256, 768, 4096])
def test_same_bytes(name: str, effort: str, length: int) -> None:
    weights = hard_rows(length)
    for importance in importances(length):
        ours = raq_native.quantize(name, weights, importance, effort=effort)
        theirs = raq_native.quantize(name, weights, importance, effort=effort, device="cuda")
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_same_floats_of_any_bytes(name: str) -> None:
    length = 1536
    count = raq_native.quantize(name, np.zeros((1, length), np.float32)).shape[1]
    blocks = np.random.default_rng(3).integers(0, 256, (100, count), np.uint8)
    ours, theirs = (raq_native.dequantize(name, blocks, length, device=device) for device in ("cpu", "cuda"))
    assert np.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_same_errors(name: str) -> None:
    weights = np.random.default_rng(4).standard_t(4, (200, 1024)).astype(np.float32)
    for importance in importances(1024):
        ours, theirs = (
            raq_native.measure_error(name, weights, importance, device=device) for device in ("cpu", "cuda")
        )
        for field in ("weighted_squared_error", "weighted_energy", "squared_error", "energy", "product"):
            assert getattr(theirs, field) == pytest.approx(getattr(ours, field), rel=1e-12, abs=0)
        assert ours.max_error == theirs.max_error


@pytest.mark.parametrize("name", NAMES)
def test_the_same_weight_is_named(name: str) -> None:
    weights = np.ones((400, 256), np.float32)
    weights[311, 40] = weights[399, 0] = np.nan
    with pytest.raises(ValueError, match=r"weight \[311, 40\] is NaN or infinite"):
        raq_native.quantize(name, weights, device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_of_a_hundred_million_weights(name: str) -> None:
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((24576, 4096), np.float32)
    weights[:24] = hard_rows(4096)
    importance = rng.gamma(1.0, 1.0, 4096).astype(np.float32)
    ours, theirs = (raq_native.quantize(name, weights, importance, device=device) for device in ("cpu", "cuda"))
    assert np.array_equal(ours, theirs)
