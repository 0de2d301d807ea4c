"""Codes chosen again after error feedback: time of feedback on both sides and of a sweep, beside a product of matrices.

    OMP_NUM_THREADS=1 pytest -m bench -p no:randomly -s tests/bench/bench_refine.py

prints a Markdown table, of one thread's processor time. A sweep multiplies and adds rows² × columns times and little
more; feedback between columns and rows together (rows × columns² + rows² × columns) / 2 times. NumPy's float32 product
is timed in turns with them, for each row of the table. The search for scales, which plain rounding has too, takes the
same time for each weight whatever the shape: feedback is also compared without it.
"""

import time
from collections.abc import Callable

import numpy as np
import pytest

from raq_native import QUANT_TYPES, feedback_factor, quantize, quantize_with_feedback, refine_codes
from support.machine import header

SHAPES = ((576, 576), (1536, 576), (576, 1536), (896, 4864), (4864, 896))
NAMES = ("Q4_0", "Q4_K", "Q3_K", "IQ3_S")
BLOCKS = {quant_type.name: quant_type.weights_per_block for quant_type in QUANT_TYPES}
pytestmark = pytest.mark.bench


def least_seconds(*works: Callable[[], object]) -> list[float]:
    """Least processor time of each of some works, in three turns."""
    turns = []
    for _ in range(3):
        times = []
        for work in works:
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        turns.append(times)
    return [min(times) for times in zip(*turns, strict=True)]


def metric(size: int) -> np.ndarray:
    """The damped mean of x xᵀ over inputs some of which are larger than others."""
    random = np.random.default_rng(size)
    inputs = random.standard_normal((2 * size, size), dtype=np.float32)
    inputs *= (np.arange(1, size + 1) ** -0.3).astype(np.float32)
    gram = inputs.T @ inputs / np.float32(len(inputs))
    found: np.ndarray = gram + np.float32(0.05 * np.mean(np.diagonal(gram))) * np.eye(size, dtype=np.float32)
    return found


def row_of(name: str, weights: np.ndarray, metrics: list[np.ndarray], factors: list[np.ndarray]) -> str:
    (rows, columns), (inputs, outputs) = weights.shape, metrics
    fed = quantize_with_feedback(name, weights, *factors)
    importance = np.ascontiguousarray(1 / np.square(np.diagonal(factors[0])))
    product, plain, both, one, three = least_seconds(
        lambda: outputs @ weights,
        lambda: quantize(name, weights, importance, threads=1),
        lambda: quantize_with_feedback(name, weights, *factors, threads=1),
        lambda: refine_codes(name, weights, fed, inputs, outputs, sweeps=1, threads=1),
        lambda: refine_codes(name, weights, fed, inputs, outputs, sweeps=3, threads=1),
    )
    speed = rows**2 * columns / product
    sweep, of_sweep, of_both = (three - one) / 2, rows**2 * columns, (rows * columns**2 + rows**2 * columns) / 2
    cells = (
        *(f"{each:.1f}" for each in (speed / 1e9, 1000 * plain, 1000 * both, of_both / both / 1e9)),
        *(f"{each * speed / of_both:.1f}" for each in (both, both - plain)),
        *(f"{each:.1f}" for each in (1000 * sweep, of_sweep / sweep / 1e9, sweep * speed / of_sweep)),
    )
    return f"| {rows} × {columns} | {name} | {' | '.join(cells)} |"


@pytest.mark.timeout(3600)
def test_time_of_a_sweep() -> None:
    header("Codes chosen again: G multiply-adds a second, and times relative to a product of matrices")
    print(
        "| shape | type | product, G / s | plain, ms | feedback, ms | G / s | feedback / product | without the search "
        "| a sweep, ms | G / s | sweep / product |"
    )
    print("|" + " --- |" * 11)
    for rows, columns in SHAPES:
        metrics = [metric(columns), metric(rows)]
        factors = [feedback_factor(each, 0.0) for each in metrics]
        weights = (np.random.default_rng(0).standard_t(5, (rows, columns)) * 0.02).astype(np.float32)
        for name in NAMES:
            if columns % BLOCKS[name] == 0:
                print(row_of(name, weights, metrics, factors), flush=True)
