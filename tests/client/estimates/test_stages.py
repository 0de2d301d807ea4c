"""Estimates of rounding follow weights and types; a run's estimate writes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from raq_client.estimates.rounding import RoundingSeconds
from raq_client.estimates.run import file_size
from raq_client.estimates.stages import gram_size
from raq_client.models.model_file import open_model
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.request import Request
from raq_client.quantizing.measure import Method
from raq_solver.quant_types import quant_type
from support.commands import client
from support.paths import DATA

PER_WEIGHT = 1e-9


@pytest.fixture
def _even(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that take a nanosecond for each weight and type."""
    monkeypatch.setattr(RoundingSeconds, "_sampled", lambda _self, _tensor, types: PER_WEIGHT * len(types))


@pytest.mark.usefixtures("_even")
def test_rounding_grows_with_weights_and_types(model_path: Path) -> None:
    model = open_model(model_path)
    one, two = [quant_type("Q8_0")], [quant_type("Q8_0"), quant_type("Q4_0")]
    for method in (Method(), Method(rows=4)):
        made = RoundingSeconds(model, None, method)
        once = made.of({tensor.name: one for tensor in model.tensors})
        twice = made.of({tensor.name: two for tensor in model.tensors})
        for tensor in model.tensors:
            rows = tensor.rows if method.rows is None else min(tensor.rows, 4 * tensor.matrices)
            assert once[tensor.name] == pytest.approx(PER_WEIGHT * rows * tensor.row_length)
            assert twice[tensor.name] == pytest.approx(2 * once[tensor.name])


def test_tensors_that_keep_their_type_take_no_time(model_path: Path) -> None:
    model = open_model(model_path)
    found = RoundingSeconds(model, None, Method()).of({each.name: [each.source_type] for each in model.tensors})
    assert set(found.values()) == {0.0}


def test_a_larger_budget_takes_more_disk(model_path: Path) -> None:
    inputs = ModelInputs(model_path)
    sizes = [file_size(inputs, Request(budget=budget)) for budget in ("3", "4.5", "8", None)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == model_path.stat().st_size
    assert file_size(inputs, Request(budget="2MiB")) == 2 << 20


def test_an_estimate_writes_nothing(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = DATA / "gsm8k.evaluation.txt"
    arguments = ("--budget", "5", "-t", text, "--types", "Q8_0,Q4_0", "--windows", 4, "--context", 64)
    found = client("run", model_path, *arguments, "-o", tmp_path / "out.gguf", "--estimate", "--json")
    assert (found.code, list(tmp_path.iterdir())) == (0, [])
    said = json.loads(found.out)
    stages = {each["name"]: each for each in said["stages"]}
    assert list(stages) == ["measuring errors", "trying", "quantizing", "checking"]
    assert stages["trying"]["at_most"]
    assert said["seconds"] == pytest.approx(sum(each["seconds"] for each in stages.values()), abs=0.01)
    assert said["disk_bytes"] == stages["quantizing"]["disk_bytes"] > 2_000_000
    assert said["memory_bytes"] > model_path.stat().st_size


def stages_of(*arguments: object) -> dict[str, dict[str, Any]]:
    """The stages of a command's estimate by name, whose sums are its totals."""
    found = client(*arguments, "--estimate", "--json").json
    stages = {each["name"]: each for each in found["stages"]}
    assert found["seconds"] == pytest.approx(sum(each["seconds"] for each in stages.values()), abs=0.01)
    assert found["disk_bytes"] == sum(each["disk_bytes"] for each in stages.values())
    assert found["memory_bytes"] == max(each["memory_bytes"] for each in stages.values())
    return stages


def test_writing_takes_the_bytes_of_the_tensors_that_are_written(model_path: Path, tmp_path: Path) -> None:
    types = {"attn": "Q8_0", "ffn": "Q4_0"}
    chosen = {
        tensor.name: next((kind for part, kind in types.items() if f"{part}_" in tensor.name), tensor.source_type.name)
        for tensor in open_model(model_path).tensors
        if "norm" not in tensor.name
    }
    (tmp_path / "types.txt").write_text("".join(f"{name}={kind}\n" for name, kind in chosen.items()))
    command = ("quantize", model_path, "-a", tmp_path / "types.txt", "-o", tmp_path / "out.gguf")
    stages = stages_of(*command)
    assert [path.name for path in tmp_path.iterdir()] == ["types.txt"]
    assert list(stages) == ["quantizing"]
    written = client(*command, "--json").json
    assert stages["quantizing"]["disk_bytes"] == written["tensor_bytes"]
    assert stages["quantizing"]["seconds"] > 0


def test_sensitivity_takes_a_run_for_each_evaluation(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ("-t", DATA / "gsm8k.evaluation.txt", "--types", "Q8_0,Q4_0", "--windows", 2, "--context", 32)
    command = ("sensitivity", model_path, *options, "--design", "single", "-o", tmp_path / "out.json")
    few, more = (stages_of(*command, "--evaluations", count) for count in (4, 8))
    assert list(tmp_path.iterdir()) == []
    for count, stages in ((4, few), (8, more)):
        assert list(stages) == ["measuring errors", "measuring sensitivity"]
        # Two more runs measure the floor and the ceiling of the divergence.
        assert stages["measuring sensitivity"]["by"].startswith(f"{count + 2} runs")
        assert stages["measuring sensitivity"]["memory_bytes"] > model_path.stat().st_size


def test_a_collection_takes_the_bytes_of_its_files(model_path: Path, tmp_path: Path) -> None:
    outputs = ("-o", tmp_path / "i.gguf", "--gram", tmp_path / "g.gram")
    options = ("-t", DATA / "gsm8k.evaluation.txt", "--windows", 8, "--context", 32, "--fisher", 8)
    command = ("imatrix", "collect", model_path, *options, *outputs)
    stages = stages_of(*command)
    assert list(tmp_path.iterdir()) == []
    assert list(stages) == ["importance and Gram statistics", "Fisher information and outputs"]
    assert client(*command).code == 0
    # A file holds names and metadata too; of so short a text fewer inputs are held out than of a usual one.
    gram = gram_size(open_model(model_path), outputs=True)
    assert gram / 4 < (tmp_path / "g.gram").stat().st_size < 1.02 * gram
    importance = sum(each["disk_bytes"] for each in stages.values()) - gram
    assert (tmp_path / "i.gguf").stat().st_size == pytest.approx(importance, rel=0.2)
