"""Speed of CUDA devices beside the processor, in one run; the error table of a model of 27 billion weights.

    just test-gpu

runs this after the tests that need a device, and prints Markdown tables. GB/s are of the weights as BF16 (2 bytes),
though what travels is float32 (4 bytes). "of copying" compares with F32, which the same lanes only copy in and out.
"""

import numpy as np
import pytest

import raq_native
from support.cuda_speed import speeds, table_seconds
from support.machine import header

SHAPE = (16384, 4096)
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


def test_error_table(tensor: tuple[np.ndarray, np.ndarray]) -> None:
    for device in (*_devices(), "cpu"):
        taken = table_seconds(raq_native, NAMES, *tensor, device, 27)
        header(f"{len(NAMES)} types of 27 billion weights on {device}: {taken / 60:.1f} minutes (from {SHAPE} weights)")
