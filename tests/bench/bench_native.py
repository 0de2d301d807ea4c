"""Speed and error of the native quantizer beside ggml's, in one run with the same threads.

Speeds are per processor core: MB of float32 weights per second of processor time.

    pytest -m bench -s tests/bench/bench_native.py

prints a Markdown table. ggml has no threads of its own for this call, so its rows are divided among Python threads
(ctypes releases the interpreter lock), as llama-quantize does.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from raq_native import QUANT_TYPES, dequantize, instruction_sets, measure_error, measure_errors, quantize
from support.machine import header
from support.oracles import ggml

THREADS = min(2, os.cpu_count() or 1)
SHAPE = (256, 4096)
NAMES = [quant_type.name for quant_type in QUANT_TYPES]
pytestmark = pytest.mark.bench


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Least processor time of some runs, of all threads: other work on the machine does not count."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def ggml_in_threads(name: str, weights: np.ndarray, importance: np.ndarray | None) -> None:
    """Quantize all rows with ggml on THREADS threads."""
    parts = np.array_split(weights, THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda part: ggml.quantize(name, part, importance), parts))


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for row in (titles, ["---"] * len(titles), *rows):
        print("| " + " | ".join(row) + " |")


def row_of(name: str, weights: np.ndarray, importance: np.ndarray | None) -> list[str]:
    """Speeds, their ratios to ggml's, and ratios of weighted errors."""
    megabytes = weights.nbytes / 1e6
    ggml.quantize(name, weights[:1], importance)  # builds ggml's tables, which take seconds
    theirs = seconds(lambda: ggml_in_threads(name, weights, importance), 1)
    restored = dequantize(name, ggml.quantize(name, weights[:32], importance), SHAPE[1])
    their_error = ggml.squared_error(weights[:32], restored, importance)
    row = [name, f"{megabytes / theirs:.0f}"]
    for effort in ("fast", "best"):
        ours = seconds(lambda effort=effort: quantize(name, weights, importance, threads=THREADS, effort=effort))
        error = measure_error(name, weights[:32], importance, effort=effort).weighted_squared_error
        ratio = f"{error / their_error:.3f}" if their_error else "equal"
        row += [f"{megabytes / ours:.0f}", f"{theirs / ours:.1f}", ratio]
    return row


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("columns", ["by importance", "alike"])
def test_against_ggml(columns: str) -> None:
    rng = np.random.default_rng(0)
    weights = (rng.standard_t(5, SHAPE) * 0.02).astype(np.float32)
    importance = rng.gamma(1.0, 1.0, SHAPE[1]).astype(np.float32) if columns == "by importance" else None
    names = [name for name in NAMES if importance is not None or name not in ggml.NEEDS_IMPORTANCE]
    rows = [row_of(name, weights, importance) for name in names]
    header(f"MB/s of F32 input per core, columns {columns}, {THREADS} threads, {instruction_sets()[-1]}")
    table(["type", "ggml", "fast", "ratio", "error ratio", "best", "ratio", "error ratio"], rows)


@pytest.mark.parametrize("effort", ["fast", "best"])
def test_error_table(effort: str) -> None:
    """The whole row of a loss table: every type of one tensor."""
    weights = np.random.default_rng(1).standard_normal(SHAPE, np.float32)
    taken = seconds(lambda: measure_errors(NAMES, weights, threads=THREADS, effort=effort), 1)
    rate = weights.size / taken / 1e6
    header(f"{len(NAMES)} types measured ({effort}): {rate:.2f} million weights/s per core")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", instruction_sets())
def test_dequantize(name: str, level: str) -> None:
    blocks = quantize(name, np.random.default_rng(2).standard_normal((64, 4096), np.float32))
    taken = seconds(lambda: dequantize(name, blocks, 4096, threads=THREADS, instruction_set=level))
    print(f"dequantize {name} {level}: {64 * 4096 * 4 / taken / 1e6:.0f} MB/s of F32")
