"""The client on CUDA devices (emulated): the same files and profiles, and what it says when a device will not do."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raq_client.quantizing.devices
import raq_native
from raq_client.compensation.column_block import ColumnBlock
from raq_client.compensation.compensate import MatrixFactor
from raq_client.compensation.gram import Columns, MatrixGram
from raq_client.compensation.row_feedback import RowBlock, RowFactor
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.quantizable import is_quantizable
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.devices import CPU, chosen_device
from raq_client.quantizing.measure import measure_profile
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.quantizing.rounding import MatrixRounding, Rounding
from raq_solver.allocation import Allocation
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from support.emulated_cuda import ILLEGAL_ADDRESS, MIB, Device, Machine, compiler
from support.gguf_files import small_model
from support.paths import DATA

MODEL, IMATRIX = DATA / "wiki-math-4M-f16.gguf", DATA / "wiki-math-4M.gsm8k.imatrix.gguf"
pytestmark = pytest.mark.timeout(900)  # the first test builds the library: 20 seconds of a processor


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """raq_native, with an emulated machine behind every device that is not the processor."""
    if compiler() is None:
        pytest.skip("no C++ compiler to build the CUDA sources for this processor")
    made = Machine()
    made.reset(Device())

    def routed(name: str) -> Callable[..., Any]:
        real, emulated = getattr(raq_native, name), getattr(made, name)
        return lambda *a, device="cpu", **o: (real if device == "cpu" else emulated)(*a, device=device, **o)

    for name in ("quantize", "quantize_with_feedback", "measure_errors"):
        monkeypatch.setattr(raq_native, name, routed(name))
    monkeypatch.setattr(raq_native, "cuda_release", made.cuda_release)
    monkeypatch.setattr(raq_native, "cuda_devices", made.cuda_devices)
    yield made
    made.cuda_release()


def q8_of(model_path: Path) -> Allocation:
    """Q8_0 wherever it can be."""
    model = open_model(model_path)
    return Allocation({t.name: "Q8_0" if is_quantizable(t) else t.source_type.name for t in model.tensors})


def test_the_same_file(machine: Machine, tmp_path: Path) -> None:
    model, importance = open_model(MODEL), read_importance(IMATRIX)
    files = []
    for number, device in enumerate((CPU, chosen_device("cuda", pytest.fail), chosen_device("cuda:0", pytest.fail))):
        out = tmp_path / f"{number}.gguf"
        quantize_model(Quantization(model, q8_of(MODEL), out, Rounding(importance, device=device)))
        files.append(out.read_bytes())
    assert files[0] == files[1] == files[2]
    assert machine.counts().launches[0] > len(model.tensors)
    assert machine.counts().allocations == 0  # given back


def test_the_same_profile(machine: Machine, tmp_path: Path) -> None:
    model, types = open_model(small_model(tmp_path / "m.gguf")), chosen_types(("Q8_0", "Q4_0", "Q4_K"))
    device = chosen_device("cuda", pytest.fail)
    assert measure_profile(model, None, types, device=device).digest() == measure_profile(model, None, types).digest()
    assert machine.counts().launches[0] > 0


def correlated(rank: int, columns: int, seed: int) -> np.ndarray:
    """Inputs whose columns vary together."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(4 * columns, rank)) @ rng.normal(size=(rank, columns))).astype(np.float32)


@pytest.mark.parametrize("of_rows", [False, True])
def test_the_same_blocks_with_feedback(machine: Machine, *, of_rows: bool) -> None:
    inputs, outputs = (correlated(8, size, seed) for size, seed in ((256, 1), (40, 2)))
    factor = MatrixFactor(
        MatrixGram((inputs.T @ inputs,), len(inputs), inputs),
        (ColumnBlock.of(Columns(0, 256), inputs.T @ inputs, 256),),
    )
    rows = RowFactor((RowBlock.of(Columns(0, 40), outputs.T @ outputs),), 0.5) if of_rows else None
    weights = np.random.default_rng(3).normal(size=(40, 256)).astype(np.float32)
    found = []
    for device in (CPU, chosen_device("cuda", pytest.fail)):
        by = MatrixRounding(Rounding(device=device), CATALOGUE["Q4_K"], None, factor, rows)
        before = machine.counts().launches[0]
        found.append(by.blocks(weights))
        assert (machine.counts().launches[0] > before) == (device is not CPU)
    assert np.array_equal(*found)


def test_short_of_memory_the_processor_goes_on_and_says_so_once(machine: Machine, tmp_path: Path) -> None:
    model, importance = open_model(MODEL), read_importance(IMATRIX)
    machine.reset(Device(memory=MIB // 2))
    said: list[str] = []
    device = chosen_device("cuda", said.append)
    quantize_model(Quantization(model, q8_of(MODEL), tmp_path / "a.gguf", Rounding(importance, device=device)))
    quantize_model(Quantization(model, q8_of(MODEL), tmp_path / "b.gguf", Rounding(importance)))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert said == ["cuda: too little free memory (CUDA: cudaMalloc: out of memory); continuing on the CPU"]
    assert machine.counts().allocations == 0


def test_a_device_that_fails_is_a_sentence(machine: Machine, tmp_path: Path) -> None:
    device = chosen_device("cuda:0", pytest.fail)
    machine.fail("cudaStreamSynchronize", 2, ILLEGAL_ADDRESS)
    with pytest.raises(InvalidInput, match=r"--device cuda:0: CUDA: cudaStreamSynchronize: an illegal .*--device cpu"):
        quantize_model(Quantization(open_model(MODEL), q8_of(MODEL), tmp_path / "out.gguf", Rounding(device=device)))
    assert not list(tmp_path.iterdir())


def test_a_weight_that_is_not_finite_is_named_as_ever(machine: Machine) -> None:
    weights = np.ones((3, 32), np.float32)
    weights[2, 5] = np.nan
    with pytest.raises(ValueError, match=r"weight \[2, 5\]"):
        chosen_device("cuda", pytest.fail).call(raq_native.quantize, "Q8_0", weights)


@pytest.mark.parametrize(
    ("devices", "name", "chosen"),
    [
        ([], "cpu", "cpu"),
        ([], "auto", "cpu"),
        ([90], "auto", "cuda"),
        ([61], "auto", "cpu"),
        ([90], "cuda:0", "cuda:0"),
    ],
)
def test_names(machine: Machine, devices: list[int], name: str, chosen: str) -> None:
    machine.reset(*map(Device, devices))
    assert chosen_device(name, pytest.fail).name == chosen


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cuda", "--device cuda: no CUDA device"),
        ("cuda:7", "--device cuda:7: no CUDA device"),
        ("gpu", "--device gpu: unknown device 'gpu'"),
    ],
)
def test_a_device_that_is_not_there_is_a_sentence(machine: Machine, name: str, sentence: str) -> None:
    machine.reset()
    with pytest.raises(InvalidInput, match=sentence):
        chosen_device(name, pytest.fail)


def test_auto_says_why_a_device_is_not_used(machine: Machine) -> None:
    said: list[str] = []
    machine.fail("cudaSetDevice")
    assert chosen_device("auto", said.append) is raq_client.quantizing.devices.CPU
    assert said == ["CUDA: cudaSetDevice: an illegal memory access was encountered; using the CPU"]
