"""The CUDA sources on emulated devices: kernels, parts, lanes, devices, memory and failures, by this processor.

What is compiled is what nvcc compiles; only the CUDA runtime is ours (tests/support/cuda_host). It proves the
logic, not the hardware: that is for tests/gpu.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import raq_native
from raq_native import QUANT_TYPES
from support.cuda_speed import speeds, table_seconds
from support.emulated_cuda import OUT_OF_MEMORY, Device, Found, Machine, sums_of
from support.hard_rows import hard_rows, importances

NAMES = [quant_type.name for quant_type in QUANT_TYPES]
KIB, MIB = 2**10, 2**20
CHUNK = 65536
LENGTH = 1024
"""64 rows are a chunk."""
ONE_CHUNK = 1280 * KIB
"""Memory for one chunk, in and out, in each of three lanes, but not for two."""
pytestmark = pytest.mark.timeout(900)  # the first test builds the library: 20 seconds of a processor


def ordinary(rows: int, length: int = LENGTH, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights and importance."""
    rng = np.random.default_rng(seed)
    return rng.standard_t(4, (rows, length)).astype(np.float32), rng.gamma(1.0, 1.0, length).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_a_group_of_threads_does_what_the_cpu_does(machine: Machine, name: str) -> None:
    weights = hard_rows(768)
    for importance in importances(768):
        blocks = raq_native.quantize(name, weights, importance)
        assert np.array_equal(blocks, machine.quantize(name, weights, importance))
        with np.errstate(over="ignore"):
            expected = sums_of(raq_native.measure_error(name, weights, importance))
        assert machine.measure_errors([name], weights, importance) == [expected]


@pytest.mark.parametrize("name", ["Q3_K", "IQ3_S", "NVFP4", "Q8_0"])
def test_best_effort_too(machine: Machine, name: str) -> None:
    weights, importance = ordinary(5)
    expected = raq_native.quantize(name, weights, importance, effort="best")
    assert np.array_equal(machine.quantize(name, weights, importance, effort="best"), expected)


@pytest.mark.parametrize("name", NAMES)
def test_any_bytes_give_the_same_floats(machine: Machine, name: str) -> None:
    length = 1536
    count = raq_native.quantize(name, np.zeros((1, length), np.float32)).shape[1]
    blocks = np.random.default_rng(3).integers(0, 256, (43, count), np.uint8)
    expected = raq_native.dequantize(name, blocks, length)
    assert np.array_equal(machine.dequantize(name, blocks, length), expected, equal_nan=True)


@pytest.mark.parametrize("eagerness", [0.0, 0.5, 0.95])
@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.exhaustive), pytest.param(2, marks=pytest.mark.exhaustive)]
)
def test_the_order_in_which_devices_get_on_does_not_matter(machine: Machine, seed: int, eagerness: float) -> None:
    weights, importance = ordinary(11 * 64 + 17, seed=seed)
    machine.reset(Device(memory=ONE_CHUNK), seed=seed, eagerness=eagerness)
    blocks = machine.quantize("Q8_0", weights, importance)
    counts = machine.counts()
    assert counts.launches[0] == 12
    assert eagerness > 0 or counts.busiest == 3  # three lanes have work at the same time
    assert np.array_equal(blocks, raq_native.quantize("Q8_0", weights, importance))
    assert np.array_equal(machine.dequantize("Q8_0", blocks, LENGTH), raq_native.dequantize("Q8_0", blocks, LENGTH))
    names = ["Q4_0", "Q8_0"]
    expected = [sums_of(found) for found in raq_native.measure_errors(names, weights, importance)]
    assert machine.measure_errors(names, weights, importance) == expected


@pytest.mark.parametrize("length", [32, 96, 65536, 3 * 65536 + 32])
def test_rows_of_any_length(machine: Machine, length: int) -> None:
    weights, importance = ordinary(4 * CHUNK // length + 3, length)
    machine.reset(Device(memory=8 * MIB))
    for columns in (None, importance):
        assert np.array_equal(machine.quantize("Q4_0", weights, columns), raq_native.quantize("Q4_0", weights, columns))
        expected = [sums_of(found) for found in raq_native.measure_errors(["Q4_0", "Q8_0"], weights, columns)]
        assert machine.measure_errors(["Q4_0", "Q8_0"], weights, columns) == expected


def test_nothing_is_done_for_nothing(machine: Machine) -> None:
    assert machine.quantize("Q8_0", np.zeros((0, 32), np.float32)).shape == (0, 34)
    assert machine.measure_errors(["Q8_0"], np.zeros((3, 0), np.float32))[0].weighted_energy == 0
    assert machine.measure_errors([], ordinary(3)[0]) == []


@pytest.mark.parametrize(
    ("memory", "launches"), [(64 * MIB, 3), (6 * MIB, 7), (3 * MIB, 13), (2 * MIB, 13), (ONE_CHUNK, 25)]
)
def test_short_of_memory_parts_become_smaller(machine: Machine, memory: int, launches: int) -> None:
    weights, importance = ordinary(24 * 64 + 1)
    machine.reset(Device(memory=memory))
    blocks = machine.quantize("Q8_0", weights, importance)
    assert machine.counts().launches[0] == launches
    assert np.array_equal(blocks, raq_native.quantize("Q8_0", weights, importance))


def test_without_memory_for_a_chunk_there_is_one_sentence(machine: Machine) -> None:
    machine.reset(Device(memory=512 * KIB))
    weights, _ = ordinary(3 * 64)
    with pytest.raises(MemoryError, match=r"^CUDA: cudaMalloc: out of memory$"):
        machine.quantize("Q8_0", weights)
    assert machine.counts().launches[0] == 0
    assert machine.counts().allocations == 0


def test_what_is_kept_serves_the_next_call(machine: Machine) -> None:
    weights, _ = ordinary(3 * 64)
    machine.quantize("Q8_0", weights)
    before = machine.counts()
    machine.quantize("Q4_0", weights)
    after = machine.counts()
    assert before.allocations == after.allocations == 12
    assert after.calls - before.calls < 3 * 8 + 6  # copies, kernels and waits; no allocation


@pytest.mark.parametrize(
    "value",
    [np.nan, pytest.param(np.inf, marks=pytest.mark.exhaustive), pytest.param(-np.inf, marks=pytest.mark.exhaustive)],
)
@pytest.mark.parametrize("places", [[(0, 0)], [(701, 1023)], [(311, 40), (312, 0)], [(650, 3), (80, 9)]])
@pytest.mark.parametrize("devices", [1, 3])
def test_the_first_weight_that_is_not_finite_is_named(
    machine: Machine, value: float, places: list[tuple[int, int]], devices: int
) -> None:
    weights, importance = ordinary(702)
    for place in places:
        weights[place] = value
    machine.reset(*[Device(memory=ONE_CHUNK)] * devices, seed=devices)
    row, column = min(places)
    sentence = rf"^weight \[{row}, {column}\] is NaN or infinite$"
    with pytest.raises(ValueError, match=sentence):
        machine.quantize("Q8_0", weights, importance)
    with pytest.raises(ValueError, match=sentence):
        machine.measure_errors(["Q4_0", "Q8_0"], weights)


@pytest.mark.parametrize("count", [2, 3])
def test_devices_share_the_rows(machine: Machine, count: int) -> None:
    weights, importance = ordinary(20 * 64 + 5)
    for seed in range(3):
        machine.reset(*[Device(memory=ONE_CHUNK)] * count, seed=seed, together=True)
        blocks = machine.quantize("Q4_0", weights, importance)
        assert np.array_equal(blocks, raq_native.quantize("Q4_0", weights, importance))
        launches = machine.counts().launches
        assert all(launches[:count])
        assert sum(launches) == 21
        expected = [sums_of(found) for found in raq_native.measure_errors(["Q4_0"], weights, importance)]
        assert machine.measure_errors(["Q4_0"], weights, importance) == expected


def test_one_device_by_its_number(machine: Machine) -> None:
    weights, _ = ordinary(200)
    machine.reset(Device(), Device())
    assert np.array_equal(machine.quantize("Q8_0", weights, device="cuda:1"), raq_native.quantize("Q8_0", weights))
    assert machine.counts().launches[:2] == (0, machine.counts().launches[1])


def test_a_device_without_memory_leaves_the_rows_to_the_others(machine: Machine) -> None:
    weights, _ = ordinary(500)
    machine.reset(Device(memory=100 * KIB), Device())
    assert np.array_equal(machine.quantize("Q8_0", weights), raq_native.quantize("Q8_0", weights))
    assert machine.counts().launches[0] == 0
    with pytest.raises(MemoryError, match="out of memory"):
        machine.quantize("Q8_0", weights, device="cuda:0")


@pytest.mark.parametrize(
    ("devices", "name", "sentence"),
    [
        ([], "cuda", r"^no CUDA device \(no CUDA-capable device is detected\): use device='cpu'$"),
        ([], "cuda:0", "^no CUDA device .*: use device='cpu'$"),
        ([90, 90], "cuda:2", "^no CUDA device 2: this machine has 2, numbered from 0$"),
        (
            [90, 61],
            "cuda:1",
            r"^CUDA device 1 \(Emulated\) has compute capability 6.1, but 7.5 or more is needed: use device='cpu'$",
        ),
        ([70], "cuda", r"^CUDA device 0 \(Emulated\) has compute capability 7.0, but"),
    ],
)
def test_a_device_that_will_not_do_is_named(machine: Machine, devices: list[int], name: str, sentence: str) -> None:
    machine.reset(*map(Device, devices))
    with pytest.raises(RuntimeError, match=sentence):
        machine.quantize("Q8_0", np.zeros((1, 32), np.float32), device=name)


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1 ", "CUDA", "cuda:99999999999"])
def test_unknown_names_of_devices(machine: Machine, name: str) -> None:
    for native in (machine, raq_native):
        with pytest.raises(ValueError, match=f"^unknown device '{name}': it is 'cpu', 'cuda' .*or 'cuda:N'"):
            native.quantize("Q8_0", np.zeros((1, 32), np.float32), device=name)


def test_old_devices_are_left_out(machine: Machine) -> None:
    machine.reset(Device(61), Device(75))
    weights, _ = ordinary(100)
    assert np.array_equal(machine.quantize("Q8_0", weights), raq_native.quantize("Q8_0", weights))
    assert machine.counts().launches[0] == 0
    assert machine.cuda_devices() == [
        Found(0, "Emulated", (6, 1), 64 * MIB, usable=False),
        Found(1, "Emulated", (7, 5), 64 * MIB, usable=True),
    ]


@pytest.mark.parametrize("code", [OUT_OF_MEMORY, 700])
def test_whatever_call_fails_nothing_stays_behind(machine: Machine, code: int) -> None:
    """Each call of the runtime in turn fails: one sentence or the right bytes, then the next call is as ever."""
    weights, _ = ordinary(5 * 64 + 3)
    expected = raq_native.quantize("Q8_0", weights)
    machine.reset(Device(memory=ONE_CHUNK), Device(memory=ONE_CHUNK))
    machine.quantize("Q8_0", weights)
    calls = machine.counts().calls
    sentences = []
    for n in range(1, calls + 1):
        machine.reset(Device(memory=ONE_CHUNK), Device(memory=ONE_CHUNK), seed=n, eagerness=0.2)
        machine.fail("any", n, code)
        try:
            assert np.array_equal(machine.quantize("Q8_0", weights), expected)
        except (RuntimeError, MemoryError) as error:
            sentences.append(str(error))
        counts = machine.counts()
        assert (counts.queued, counts.freed_in_use) == (0, 0)
        machine.fail("none", 0)
        assert np.array_equal(machine.quantize("Q8_0", weights), expected)
    assert len(sentences) > calls // 4
    assert all(text.startswith(("CUDA: cuda", "no CUDA device")) for text in sentences)


def test_a_failed_call_is_named(machine: Machine) -> None:
    weights, _ = ordinary(100)
    for call in ("cudaSetDevice", "cudaMemcpyAsync", "cudaMemsetAsync", "cudaLaunchKernelEx", "cudaStreamSynchronize"):
        machine.fail(call)
        with pytest.raises(RuntimeError, match=f"^CUDA: {call}: an illegal memory access was encountered$"):
            machine.quantize("Q8_0", weights)


def test_the_figures_for_devices_can_be_taken(machine: Machine) -> None:
    """The code of tests/bench/bench_cuda.py runs; the numbers mean nothing here."""
    weights, importance = ordinary(70)
    found = speeds(machine, ["F32", "Q8_0"], weights, importance, "cuda", "fast")
    assert [speed.name for speed in found] == ["F32", "Q8_0"]
    assert all(min(speed.cuda, speed.of_copying, speed.times_processor) > 0 for speed in found)
    assert table_seconds(machine, ["Q8_0", "Q4_0"], weights, importance, "cuda:0", 27) > 0


def test_threads_share_a_machine(machine: Machine) -> None:
    rows = [ordinary(150 + seed, seed=seed)[0] for seed in range(4)]
    machine.reset(Device(), Device(), eagerness=0.2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda weights: machine.quantize("Q8_0", weights), rows))
    for blocks, weights in zip(found, rows, strict=True):
        assert np.array_equal(blocks, raq_native.quantize("Q8_0", weights))
