"""Estimates of rounding follow weights and types; a run's estimate writes nothing."""

import json
from pathlib import Path

import pytest

from raq_client.estimates.run import file_size
from raq_client.estimates.stages import RoundingSeconds
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
