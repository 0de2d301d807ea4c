"""Codes chosen again after error feedback: time of feedback on both sides and of a sweep, beside a product of matrices.

    OMP_NUM_THREADS=1 pytest -m bench -p no:randomly -s tests/bench/bench_refine.py

prints a Markdown table, of one thread's processor time. A sweep multiplies and adds rows² × columns times and little
more; feedback between columns and rows together (rows × columns² + rows² × columns) / 2 times.
"""

import time
from collections.abc import Callable

import numpy as np
import pytest

from raq_native import feedback_factor, quantize_with_feedback, refine_codes
from support.machine import header

SHAPES = ((1536, 576), (576, 1536), (2048, 2048))
NAMES = ("Q4_0", "Q3_K", "IQ3_S")
pytestmark = pytest.mark.bench


def seconds(work: Callable[[], object]) -> float:
    """Least processor time of some runs."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def metric(size: int) -> np.ndarray:
    """The damped mean of x xᵀ over inputs some of which are larger than others."""
    random = np.random.default_rng(size)
    inputs = random.standard_normal((2 * size, size)) * np.arange(1, size + 1) ** -0.3
    gram = inputs.T @ inputs / len(inputs)
    found: np.ndarray = (gram + 0.05 * np.mean(np.diagonal(gram)) * np.eye(size)).astype(np.float32)
    return found


@pytest.mark.timeout(3600)
def test_time_of_a_sweep() -> None:
    header("Codes chosen again")
    print("| shape | type | feedback, ms | G multiply-adds / s | a sweep, ms | G / s | product of matrices, G / s |")
    print("|" + " --- |" * 7)
    for rows, columns in SHAPES:
        inputs, outputs = metric(columns), metric(rows)
        factors = [feedback_factor(each, 0.0) for each in (inputs, outputs)]
        weights = (np.random.default_rng(0).standard_t(5, (rows, columns)) * 0.02).astype(np.float32)
        product = rows**2 * columns / seconds(lambda a=outputs, b=weights: a @ b) / 1e9
        for name in NAMES:
            if columns % (32 if name == "Q4_0" else 256):
                continue
            fed = quantize_with_feedback(name, weights, *factors)
            both = seconds(lambda n=name, w=weights, f=factors: quantize_with_feedback(n, w, *f, threads=1))
            one, three = (
                seconds(
                    lambda n=name, w=weights, b=fed, g=inputs, m=outputs, s=sweeps: refine_codes(
                        n, w, b, g, m, sweeps=s, threads=1
                    )
                )
                for sweeps in (1, 3)
            )
            sweep, work = (three - one) / 2, (rows * columns**2 + rows**2 * columns) / 2
            cells = (1000 * both, work / both / 1e9, 1000 * sweep, rows**2 * columns / sweep / 1e9, product)
            print(f"| {rows} × {columns} | {name} | {' | '.join(f'{each:.1f}' for each in cells)} |", flush=True)
