"""Rounding with error feedback: time beside plain rounding and beside the machine's products of matrices; its factor.

    OMP_NUM_THREADS=1 pytest -m bench -p no:randomly -s tests/bench/bench_feedback.py

prints a Markdown table. Feedback multiplies and adds rows × columns² / 2 times; the time of as many multiplications and
additions in NumPy's float32 product of matrices, on one thread in the same run, is what it is compared with. Times are
the processor's, of all threads together, so that other work on the machine counts little.

The factor takes 2/3 columns³ operations and is compared with LAPACK's dpotrf and dtrtri in turns, each on two threads
and its least time of five. Elapsed times flatter the factor where other work runs, because threads of OpenBLAS wait for
each other more often; so processor times stand beside them. LAPACK takes its threads from OPENBLAS_NUM_THREADS=2,
without OMP_NUM_THREADS.
"""

import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy.linalg import lapack

from raq_native import QUANT_TYPES, feedback_factor, quantize, quantize_with_feedback
from support.machine import header

SHAPES = ((576, 1536), (1536, 576), (4096, 4096))
FACTORED = (576, 1536, 4864)
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


def elapsed_and_processor(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one run."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def factor_of_lapack(gram: np.ndarray) -> np.ndarray:
    """What remains of the same work if LAPACK does it: W of a matrix = W Wᵀ, and its inverse, in place."""
    lower, fault = lapack.dpotrf(gram.astype(np.float64, order="F"), lower=1, overwrite_a=1)
    assert fault == 0
    inverse, fault = lapack.dtrtri(lower, lower=1, overwrite_c=1)
    assert fault == 0
    return np.asarray(inverse)


def factor_row(columns: int) -> str:
    inputs = np.random.default_rng(columns).standard_normal((2 * columns, columns), dtype=np.float32)
    gram = inputs.T @ inputs / np.float32(2 * columns)
    peers, own = [], []
    for _ in range(5):
        peers.append(elapsed_and_processor(lambda: factor_of_lapack(gram)))
        own.append(elapsed_and_processor(lambda: feedback_factor(gram, 0.05, threads=2)))
    cells = [str(columns)]
    for peer, ours in zip(map(min, zip(*peers, strict=True)), map(min, zip(*own, strict=True)), strict=True):
        speed = 2 / 3 * columns**3 / ours / 1e9
        cells += [f"{1000 * peer:.0f}", f"{1000 * ours:.0f}", f"{ours / peer:.1f}", f"{speed:.1f}"]
    return f"| {' | '.join(cells)} |"


@pytest.mark.timeout(3600)
def test_time_of_the_factor() -> None:
    header("The factor of a Gram matrix, two threads: elapsed, then the processor's time")
    print("| columns | LAPACK, ms | factor, ms | ratio | GFLOP/s | LAPACK, ms | factor, ms | ratio | GFLOP/s |")
    print("|" + " --- |" * 9)
    for columns in FACTORED:
        print(factor_row(columns), flush=True)
