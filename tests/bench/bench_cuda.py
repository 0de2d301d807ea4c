"""Speed of CUDA devices beside the processor, in one run; the error table of a model of 27 billion weights.

    just test-gpu

runs this after the tests that need a device, and prints Markdown tables. GB/s are of the weights as BF16 (2 bytes),
though what travels is float32 (4 bytes). "of copying" compares with F32, which the same lanes only copy in and out.
"""

import numpy as np
import pytest

import raq_native
from support.cuda_speed import feedback_speeds, speeds, table_seconds
from support.machine import header

SHAPE = (16384, 4096)
FEEDBACK = ("Q4_0", "Q4_K", "Q3_K", "Q6_K", "Q8_0", "IQ4_XS", "IQ3_S", "IQ2_S")
NAMES = [quant_type.name for quant_type in raq_native.QUANT_TYPES]
pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def tensor() -> tuple[np.ndarray, np.ndarray]:
    """Heavy-tailed weights and importance; skips where there is no device."""
    if not raq_native.cuda_built:
        pytest.skip("built without CUDA")
    if not any(device.usable for device in raq_native.cuda_devices()):
        pytest.skip("no usable CUDA device on this machine")
    rng = np.random.default_rng(0)
    weights = (rng.standard_t(5, SHAPE) * 0.02).astype(np.float32)
    return weights, rng.gamma(1.0, 1.0, SHAPE[1]).astype(np.float32)


def _devices() -> list[str]:
    count = len([device for device in raq_native.cuda_devices() if device.usable])
    return ["cuda"] if count == 1 else ["cuda:0", "cuda"]


@pytest.mark.parametrize("effort", ["fast", "best"])
def test_quantize(tensor: tuple[np.ndarray, np.ndarray], effort: str) -> None:
    for device in _devices():
        header(f"quantize, {effort}, {device} of {raq_native.cuda_devices()}, importance by column")
        print("| type | GB/s | of copying | times the processor |\n| --- | --- | --- | --- |")
        for speed in speeds(raq_native, NAMES, *tensor, device, effort):
            print(f"| {speed.name} | {speed.cuda:.2f} | {speed.of_copying:.2f} | {speed.times_processor:.1f} |")


def _factor(size: int) -> np.ndarray:
    """A factor whose entries beside the diagonal are small."""
    rng = np.random.default_rng(size)
    factor = np.triu(rng.normal(0, 0.01, (size, size)), 1) + np.diag(rng.uniform(0.5, 1.5, size))
    return factor.astype(np.float32)


@pytest.mark.parametrize(("rows", "sides"), [(4096, "columns"), (2048, "columns and rows")])
def test_feedback(tensor: tuple[np.ndarray, np.ndarray], rows: int, sides: str) -> None:
    """Of 4,096 columns; 2,048 rows are the most between which the client feeds errors."""
    weights, device = tensor[0][:rows], _devices()[0]
    row_factor = _factor(rows) if sides == "columns and rows" else None
    header(f"error feedback between {sides}, {weights.shape} weights, {device}")
    print("| type | CUDA, ms | processor, ms | times the processor |\n| --- | --- | --- | --- |")
    for speed in feedback_speeds(raq_native, FEEDBACK, weights, _factor(SHAPE[1]), row_factor, device):
        ratio = speed.processor / speed.cuda
        print(f"| {speed.name} | {speed.cuda:.0f} | {speed.processor:.0f} | {ratio:.1f} |")


def test_error_table(tensor: tuple[np.ndarray, np.ndarray]) -> None:
    for device in (*_devices(), "cpu"):
        taken = table_seconds(raq_native, NAMES, *tensor, device, 27)
        header(f"{len(NAMES)} types of 27 billion weights on {device}: {taken / 60:.1f} minutes (from {SHAPE} weights)")
