"""How fast CUDA devices quantize and measure, beside the processor and beside copying, in one run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

import raq_native
from support.emulated_cuda import Machine

BF16_BYTES = 2
Native = ModuleType | Machine
"""raq_native, or its emulation where there is no device."""


@dataclass(frozen=True)
class Speed:
    """GB/s of the input as BF16 would hold it; shares of the copying rate and of the processor's speed."""

    name: str
    cuda: float
    of_copying: float
    times_processor: float


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The shortest of some runs by the clock on the wall; one more before them sets up what is kept."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def speeds(
    native: Native, names: Sequence[str], weights: np.ndarray, importance: np.ndarray, device: str, effort: str
) -> list[Speed]:
    """Every type; copying is F32, which goes through the same lanes and is only copied in and out."""

    def cuda(name: str) -> float:
        return seconds(lambda: native.quantize(name, weights, importance, device=device, effort=effort))

    def processor(name: str) -> float:
        return seconds(lambda: raq_native.quantize(name, weights, importance, effort=effort), 1)

    size = weights.size * BF16_BYTES / 1e9
    copying = cuda("F32")
    found = []
    for name in names:
        taken = cuda(name)
        found.append(Speed(name, size / taken, copying / taken, processor(name) / taken))
    return found


def table_seconds(
    native: Native, names: Sequence[str], weights: np.ndarray, importance: np.ndarray, device: str, billions: float
) -> float:
    """Seconds for the error table of a model of this many billion weights, extrapolated from one tensor."""
    taken = seconds(lambda: native.measure_errors(names, weights, importance, device=device), 1)
    return taken * billions * 1e9 / weights.size


@dataclass(frozen=True)
class FeedbackSpeed:
    """Milliseconds of rounding one matrix with error feedback, by device and by processor."""

    name: str
    cuda: float
    processor: float


def feedback_speeds(
    native: Native,
    names: Sequence[str],
    weights: np.ndarray,
    factor: np.ndarray,
    row_factor: np.ndarray | None,
    device: str,
) -> list[FeedbackSpeed]:
    """Every type, with errors fed forward between rows too if there is a row factor."""

    def taken(work: Native, name: str, device: str, repeats: int) -> float:
        given = (name, weights, factor, row_factor)
        return 1000 * seconds(lambda: work.quantize_with_feedback(*given, device=device), repeats)

    return [FeedbackSpeed(name, taken(native, name, device, 3), taken(raq_native, name, "cpu", 1)) for name in names]
