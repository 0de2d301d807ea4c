"""Rounding with error feedback: time beside plain rounding and beside the machine's products of matrices.

    OMP_NUM_THREADS=1 pytest -m bench -p no:randomly -s tests/bench/bench_feedback.py

prints a Markdown table. Feedback multiplies and adds rows × columns² / 2 times; the time of as many multiplications and
additions in NumPy's float32 product of matrices, on one thread in the same run, is what it is compared with. Times are
the processor's, of all threads together, so that other work on the machine counts little.
"""

import time
from collections.abc import Callable

import numpy as np
import pytest

from raq_native import QUANT_TYPES, quantize, quantize_with_feedback
from support.machine import header

SHAPES = ((576, 1536), (1536, 576), (4096, 4096))
NAMES = ("Q4_0", "Q4_K", "Q3_K", "Q6_K", "Q8_0", "IQ4_XS", "IQ3_S", "IQ2_S")
pytestmark = pytest.mark.bench


def seconds(work: Callable[[], object]) -> float:
    """Least processor time of some runs."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def matrices(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Heavy-tailed weights, and a factor whose entries beside the diagonal are small."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_t(5, (rows, columns)) * 0.02).astype(np.float32)
    factor = np.triu(rng.normal(0, 0.01, (columns, columns)), 1) + np.diag(rng.uniform(0.5, 1.5, columns))
    return weights, factor.astype(np.float32)


def row_of(name: str, weights: np.ndarray, factor: np.ndarray, product: float) -> str:
    importance = np.ascontiguousarray(1 / np.square(np.diagonal(factor)))
    plain = seconds(lambda: quantize(name, weights, importance, threads=1))
    alone = seconds(lambda: quantize_with_feedback(name, weights, factor, threads=1))
    both = seconds(lambda: quantize_with_feedback(name, weights, factor, threads=2))
    times = " | ".join(f"{1000 * each:.0f}" for each in (product, plain, alone))
    shape = " × ".join(map(str, weights.shape))
    return f"| {shape} | {name} | {times} | {alone / product:.1f} | {1000 * both:.0f} |"


@pytest.mark.timeout(3600)
def test_time_of_feedback() -> None:
    header("Rounding with error feedback")
    print(
        "| shape | type | product of matrices, ms | plain, ms | feedback, ms | feedback / product | two threads, ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    blocks = {quant_type.name: quant_type.weights_per_block for quant_type in QUANT_TYPES}
    for rows, columns in SHAPES:
        weights, factor = matrices(rows, columns)
        product = seconds(lambda weights=weights, factor=factor: weights @ factor) / 2
        for name in NAMES:
            if columns % blocks[name] == 0:
                print(row_of(name, weights, factor, product), flush=True)
