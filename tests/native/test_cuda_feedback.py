"""Rounding with error feedback on emulated CUDA devices: the bytes and refusals of the processor.

As in test_cuda_emulated.py, this proves the logic, not the hardware: that is for tests/gpu.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import raq_native
from raq_native import QUANT_TYPES, quantize_with_feedback
from support.cuda_speed import feedback_speeds
from support.emulated_cuda import OUT_OF_MEMORY, Device, Machine
from support.hard_rows import hard_rows

BLOCKS = {
    quant_type.name: quant_type.weights_per_block for quant_type in QUANT_TYPES if quant_type.weights_per_block > 1
}
KIB, MIB = 2**10, 2**20
SPAN, GROUP, TASK_ROWS = 256, 16, 32
"""Columns and rows that are rounded together: with a factor of rows, and without."""
pytestmark = pytest.mark.timeout(900)  # the first test builds the library: 20 seconds of a processor


def upper(size: int, seed: int = 0) -> np.ndarray:
    """A factor whose entries beside the diagonal matter."""
    rng = np.random.default_rng(seed)
    factor = np.triu(rng.normal(0, 0.03, (size, size)), 1) + np.diag(rng.uniform(0.5, 2, size))
    return factor.astype(np.float32)


def ordinary(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    weights: np.ndarray = np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32)
    return weights


def rows_of_all_kinds(columns: int) -> np.ndarray:
    """Hard rows and ordinary ones: 37, no multiple of anything."""
    return np.concatenate([hard_rows(columns), ordinary(13, columns)])


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("name", BLOCKS)
def test_the_bytes_of_the_processor(machine: Machine, name: str, sides: int) -> None:
    columns = SPAN + max(BLOCKS[name], 64)  # the last span is short where blocks let it be
    factor, row_factor = upper(columns), upper(37, seed=1) if sides == 2 else None
    for weights in (rows_of_all_kinds(columns), ordinary(37, columns)):
        found = machine.quantize_with_feedback(name, weights, factor, row_factor)
        assert np.array_equal(found, quantize_with_feedback(name, weights, factor, row_factor))


@pytest.mark.parametrize("name", ["Q4_0", "Q3_K", "IQ3_S", "Q1_0"])
def test_best_effort_too(machine: Machine, name: str) -> None:
    weights, factor, row_factor = ordinary(20, 512), upper(512), upper(20)
    expected = quantize_with_feedback(name, weights, factor, row_factor, effort="best")
    assert np.array_equal(machine.quantize_with_feedback(name, weights, factor, row_factor, effort="best"), expected)


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 32), (16, 256), (17, 288), (33, 1024), (100, 32), (100, 256), (100, 544), (5, 1312)]
)
def test_waves_of_any_shape(machine: Machine, rows: int, columns: int) -> None:
    """More groups of rows than spans of columns, and fewer; one of each."""
    weights, factor, row_factor = ordinary(rows, columns), upper(columns), upper(rows, seed=1)
    for of_rows in (None, row_factor):
        expected = quantize_with_feedback("Q4_0", weights, factor, of_rows)
        assert np.array_equal(machine.quantize_with_feedback("Q4_0", weights, factor, of_rows), expected)


def test_nothing_is_done_for_nothing(machine: Machine) -> None:
    for rows, columns in ((0, 32), (3, 0)):
        factors = upper(columns), upper(rows)
        assert machine.quantize_with_feedback("Q8_0", np.zeros((rows, columns), np.float32), *factors).size == 0
    assert machine.counts().launches[0] == 0


@pytest.mark.parametrize("eagerness", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("count", [1, 3])
def test_the_order_in_which_devices_get_on_does_not_matter(machine: Machine, count: int, eagerness: float) -> None:
    weights, factor = ordinary(300, 288), upper(288)
    machine.reset(*[Device(memory=MIB)] * count, seed=count, eagerness=eagerness, together=True)
    found = machine.quantize_with_feedback("Q5_0", weights, factor)
    assert np.array_equal(found, quantize_with_feedback("Q5_0", weights, factor))
    parts = {1: 3, 3: 5}[count]  # of 10 tasks for 3 and for 9 lanes
    assert sum(machine.counts().launches) == parts * 2 * 2  # two spans, two kernels each


def test_rows_that_depend_on_each_other_stay_on_one_device(machine: Machine) -> None:
    weights, factor, row_factor = ordinary(40, 288), upper(288), upper(40)
    expected = quantize_with_feedback("Q8_0", weights, factor, row_factor)
    machine.reset(Device(), Device(61), Device(), seed=1)
    busy = []
    for _ in range(2):
        before = machine.counts().launches
        assert np.array_equal(machine.quantize_with_feedback("Q8_0", weights, factor, row_factor), expected)
        busy.append(tuple(after - seen for after, seen in zip(machine.counts().launches, before, strict=True)))
    waves = 2 + 3 - 1
    # Each wave has three kernels, but rows of the last group are followed by none.
    assert sorted(busy) == [(0, 0, 3 * waves - 1, 0), (3 * waves - 1, 0, 0, 0)]
    assert np.array_equal(
        machine.quantize_with_feedback("Q8_0", weights, factor, row_factor, device="cuda:2"), expected
    )


def test_short_of_memory_parts_become_smaller(machine: Machine) -> None:
    weights, factor = ordinary(3 * 256, 256), upper(256)
    expected = quantize_with_feedback("Q8_0", weights, factor)
    launches = []
    for memory in (64 * MIB, 2 * MIB, 800 * KIB, 500 * KIB):
        machine.reset(Device(memory=memory))
        assert np.array_equal(machine.quantize_with_feedback("Q8_0", weights, factor), expected)
        launches.append(machine.counts().launches[0])
    assert launches == sorted(launches)
    assert (launches[0], launches[-1]) == (3 * 2, 3 * 256 // TASK_ROWS * 2)


@pytest.mark.parametrize("sides", [1, 2])
def test_without_memory_there_is_one_sentence(machine: Machine, sides: int) -> None:
    weights, factor, row_factor = ordinary(64, 256), upper(256), upper(64) if sides == 2 else None
    machine.reset(Device(memory=300 * KIB))
    with pytest.raises(MemoryError, match=r"^CUDA: cudaMalloc: out of memory$"):
        machine.quantize_with_feedback("Q8_0", weights, factor, row_factor)
    assert machine.counts().launches[0] == 0
    assert machine.counts().allocations == 0


def test_a_device_without_memory_leaves_the_rows_to_another(machine: Machine) -> None:
    weights, factor, row_factor = ordinary(64, 256), upper(256), upper(64)
    machine.reset(Device(memory=100 * KIB), Device())
    for of_rows in (None, row_factor, row_factor):
        expected = quantize_with_feedback("Q8_0", weights, factor, of_rows)
        assert np.array_equal(machine.quantize_with_feedback("Q8_0", weights, factor, of_rows), expected)
    assert machine.counts().launches[0] == 0


def outcome(
    work: Machine | None, name: str, weights: np.ndarray, factor: np.ndarray, row_factor: np.ndarray | None
) -> object:
    """The bytes, or the sentence that refuses them."""
    rounded = quantize_with_feedback if work is None else work.quantize_with_feedback
    try:
        return rounded(name, weights, factor, row_factor).tobytes()
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    "value",
    [np.nan, pytest.param(np.inf, marks=pytest.mark.exhaustive), pytest.param(-np.inf, marks=pytest.mark.exhaustive)],
)
@pytest.mark.parametrize("places", [[(0, 0)], [(99, 543)], [(50, 10), (40, 500)], [(20, 300), (21, 0)]])
@pytest.mark.parametrize("sides", [1, 2])
def test_the_first_weight_that_is_not_finite_is_named(
    machine: Machine, value: float, places: list[tuple[int, int]], sides: int
) -> None:
    weights, factor, row_factor = ordinary(100, 544), upper(544), upper(100) if sides == 2 else None
    for place in places:
        weights[place] = value
    row, column = min(places)
    found = outcome(machine, "Q4_0", weights, factor, row_factor)
    assert found == f"weight [{row}, {column}] is NaN or infinite"
    assert found == outcome(None, "Q4_0", weights, factor, row_factor)


@pytest.mark.parametrize(
    "seed", [0, 1, pytest.param(2, marks=pytest.mark.exhaustive), pytest.param(3, marks=pytest.mark.exhaustive)]
)
def test_weights_that_feedback_makes_infinite(machine: Machine, seed: int) -> None:
    """Near the largest float errors overflow, within a row and between rows; the processor says where."""
    rng = np.random.default_rng(seed)
    weights = ordinary(60, 320)
    weights[rng.integers(0, 60, 5), rng.integers(0, 320, 5)] = 3e38
    factor, row_factor = upper(320), (10 * upper(60)).astype(np.float32)
    np.fill_diagonal(row_factor, 0.5)
    for of_rows in (None, row_factor):
        with np.errstate(over="ignore"):
            expected = outcome(None, "Q4_0", weights, factor, of_rows)
        assert outcome(machine, "Q4_0", weights, factor, of_rows) == expected


@pytest.mark.parametrize(
    ("name", "factor", "row_factor"),
    [
        ("F32", upper(64), None),
        ("BF16", upper(64), upper(20)),
        ("Q8_0", upper(64).T.copy(), None),
        ("Q8_0", -upper(64), upper(20)),
        ("Q8_0", upper(64), np.full((20, 20), np.nan, np.float32)),
        ("Q8_0", upper(64), np.zeros((20, 20), np.float32)),
    ],
)
def test_what_is_refused(machine: Machine, name: str, factor: np.ndarray, row_factor: np.ndarray | None) -> None:
    expected = outcome(None, name, ordinary(20, 64), factor, row_factor)
    assert isinstance(expected, str)
    assert outcome(machine, name, ordinary(20, 64), factor, row_factor) == expected


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("code", [OUT_OF_MEMORY, 700])
def test_whatever_call_fails_nothing_stays_behind(machine: Machine, code: int, sides: int) -> None:
    """Each call of the runtime in turn fails: one sentence or the right bytes, then the next call is as ever."""
    weights, factor, row_factor = ordinary(70, 64), upper(64), upper(70) if sides == 2 else None
    expected = quantize_with_feedback("Q8_0", weights, factor, row_factor)
    machine.reset(Device())
    machine.quantize_with_feedback("Q8_0", weights, factor, row_factor)
    calls = machine.counts().calls
    sentences = []
    for n in range(1, calls + 1):
        machine.reset(Device(), seed=n, eagerness=0.2)
        machine.fail("any", n, code)
        try:
            assert np.array_equal(machine.quantize_with_feedback("Q8_0", weights, factor, row_factor), expected)
        except (RuntimeError, MemoryError) as error:
            sentences.append(str(error))
        counts = machine.counts()
        assert (counts.queued, counts.freed_in_use) == (0, 0)
        machine.fail("none", 0)
        assert np.array_equal(machine.quantize_with_feedback("Q8_0", weights, factor, row_factor), expected)
    assert len(sentences) > calls // 4
    assert all(text.startswith(("CUDA: cuda", "no CUDA device")) for text in sentences)


def test_what_is_kept_serves_the_next_call(machine: Machine) -> None:
    weights, factor, row_factor = ordinary(40, 288), upper(288), upper(40)
    machine.quantize_with_feedback("Q8_0", weights, factor, row_factor)
    before = machine.counts()
    machine.quantize_with_feedback("Q4_0", weights, factor, row_factor)
    assert machine.counts().allocations == before.allocations == 6


def test_the_figures_for_devices_can_be_taken(machine: Machine) -> None:
    """The code of tests/bench/bench_cuda.py runs; the numbers mean nothing here."""
    given = ordinary(20, 64), upper(64), upper(20), "cuda"
    found = feedback_speeds(machine, ["Q8_0", "Q4_0"], *given)
    assert [speed.name for speed in found] == ["Q8_0", "Q4_0"]
    assert all(min(speed.cuda, speed.processor) > 0 for speed in found)


def test_calls_share_a_device(machine: Machine) -> None:
    """More at once than a device has places for, with factors and without, and plain rounding beside them."""
    factor, row_factor = upper(288), upper(40)
    machine.reset(Device(), eagerness=0.2)

    def work(seed: int) -> bool:
        weights = ordinary(40, 288, seed)
        if seed % 3 == 0:
            return np.array_equal(machine.quantize("Q8_0", weights), raq_native.quantize("Q8_0", weights))
        of_rows = row_factor if seed % 3 == 1 else None
        expected = quantize_with_feedback("Q8_0", weights, factor, of_rows)
        return np.array_equal(machine.quantize_with_feedback("Q8_0", weights, factor, of_rows), expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(18)))
