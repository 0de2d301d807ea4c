"""Estimates of error feedback follow its steps: factors by cubes, rounding by rows and columns; nothing is written."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raq_client.compensation.compensate import Compensation
from raq_client.compensation.gram import Gram, output_entry
from raq_client.compensation.gram_file import read_gram
from raq_client.estimates.feedback import FeedbackSeconds, Kind, TypePace, at_once_of
from raq_client.estimates.in_turn import in_turn_at_once, passing
from raq_client.models.model_file import ModelFile, open_model
from raq_client.quantizing import sequential
from raq_client.quantizing.rounding import Rounding
from raq_solver.quant_types import QuantType, quant_type
from raq_solver.tensor_names import block_of
from raq_solver.tensors import Tensor
from support.commands import client
from support.in_turn import BLOCKS, WINDOWS, in_turn_project
from support.tiny_models import CASES

Q4_0, Q8_0 = quant_type("Q4_0"), quant_type("Q8_0")
PACE = TypePace(weight=3.0, step=0.5, test_weight=2.0, test_step=0.25, helps=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three blocks with Gram statistics."""
    made = in_turn_project(tmp_path_factory.mktemp("feedback"))
    model = open_model(made / "small.gguf")
    (made / "types.txt").write_text("".join(f"{each.name}=Q4_0\n" for each in _of_blocks(model)))
    return made


@pytest.fixture
def model(folder: Path) -> ModelFile:
    return open_model(folder / "small.gguf")


@pytest.fixture
def gram(folder: Path) -> Gram:
    return read_gram(folder / "small.gram")


@pytest.fixture
def _even(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every factor takes a second and reading none, every type has the same pace."""

    def timed(_self: object, work: Callable[[], Any]) -> tuple[Any, float]:
        found = work()
        return found, 0.0 if hasattr(found, "held_out") else 1.0

    monkeypatch.setattr(FeedbackSeconds, "_timed", timed)
    monkeypatch.setattr(FeedbackSeconds, "_measured", lambda *_: PACE)


def _of_blocks(model: ModelFile) -> list[Tensor]:
    return [each for each in model.tensors if block_of(each.name) >= 0 and "norm" not in each.name]


def of(model: ModelFile, types: Sequence[QuantType]) -> Mapping[Tensor, Sequence[QuantType]]:
    return dict.fromkeys(_of_blocks(model), types)


def one(_tensor: Tensor) -> int:
    return 1


def test_steps_count_columns_for_each_row_and_rows_for_each_column() -> None:
    alone = Kind("r", 8, (4, 2), ())
    fed = Kind("r", 8, (4, 2), (5, 3))
    assert alone.steps() == sum(1 for width in (4, 2) for _ in range(8 * width * width))
    assert fed.steps() == alone.steps() + sum(height * height * width for width in (4, 2) for height in (5, 3))
    assert fed.steps(2) == 2 * (16 + 4)
    assert PACE.seconds(fed) == 3 * 48 + 0.5 * fed.steps()
    assert replace(PACE, helps=False).seconds(fed) == 3 * 48
    assert PACE.test_seconds(fed) == 2 * 48 + 0.25 * fed.steps(8)


@pytest.mark.usefixtures("_even")
def test_writing_takes_factors_tests_and_rounding(model: ModelFile, gram: Gram) -> None:
    seconds = FeedbackSeconds(model, Rounding(compensation=Compensation(gram), threads=1))
    tensors = _of_blocks(model)
    entries = {gram.shared[each.name] for each in tensors}
    found = seconds.writing(of(model, [Q4_0]), one)
    # Widths of tiny models are below that of the factors that are timed: a second each, of rows where they are tried.
    factors = len(entries) + sum(
        gram.entries[output_entry(each.name)].tokens[0] >= 0.25 * each.rows
        for each in tensors
        if each.name in gram.outputs
    )
    rounding = 0.0
    for each in tensors:
        part = seconds._part(each)
        kind = seconds.kind(each, with_rows=part.outputs is not None)
        rounding += PACE.seconds(kind) + PACE.test_seconds(kind)
    assert found == pytest.approx(factors + rounding)
    assert seconds.writing(of(model, [Q4_0, Q8_0]), one) == pytest.approx(found)
    assert seconds.writing(of(model, [Q4_0]), lambda _: 2) < found


@pytest.mark.usefixtures("_even")
def test_testing_takes_every_type(model: ModelFile, gram: Gram) -> None:
    seconds = FeedbackSeconds(model, Rounding(compensation=Compensation(gram), threads=1))
    single, both = seconds.testing(of(model, [Q4_0])), seconds.testing(of(model, [Q4_0, Q8_0]))
    tests = sum(PACE.test_seconds(seconds.kind(each)) for each in _of_blocks(model))
    assert both - single == pytest.approx(tests)


def test_feedback_is_for_tensors_with_statistics_and_other_types(model: ModelFile, gram: Gram) -> None:
    seconds = FeedbackSeconds(model, Rounding(compensation=Compensation(gram)))
    tensor = _of_blocks(model)[0]
    assert seconds.has(tensor, Q4_0)
    assert not seconds.has(tensor, tensor.source_type)
    assert not seconds.has(tensor, quant_type("BF16"))
    assert not seconds.has(next(each for each in model.tensors if "norm" in each.name), Q4_0)


def test_a_moment_of_feedback_has_a_pace(model: ModelFile, gram: Gram) -> None:
    ticks = iter(range(10**6))
    rounding = Rounding(compensation=Compensation(gram), threads=2)
    seconds = FeedbackSeconds(model, rounding, clock=lambda: next(ticks))
    assert seconds.writing(of(model, [Q4_0]), lambda tensor: at_once_of(rounding, tensor)) > 0
    assert seconds.memory(_of_blocks(model)) > 0


def test_passing_text_grows_with_blocks(model: ModelFile, gram: Gram) -> None:
    rounding = Rounding(compensation=Compensation(gram), threads=1, sequential=True)
    ticks = iter(range(10**6))
    stage = passing(model, rounding, _of_blocks(model), clock=lambda: next(ticks))
    assert stage.seconds > WINDOWS * BLOCKS * 2
    assert f"{WINDOWS} windows, {BLOCKS} blocks" in stage.by
    at_once = in_turn_at_once(_of_blocks(model), replace(rounding, threads=8))
    counts = {each.name: at_once(each) for each in _of_blocks(model)}
    assert counts["blk.1.attn_q.weight"] == 3
    assert counts["blk.1.ffn_gate.weight"] == counts["blk.1.ffn_up.weight"] == 2
    assert counts["blk.1.ffn_down.weight"] == 1


def test_experts_are_passed_for_and_rounded_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = in_turn_project(tmp_path, CASES["llama, experts"])
    model, gram = open_model(made / "small.gguf"), read_gram(made / "small.gram")
    tensors = _of_blocks(model)
    rounding = Rounding(compensation=Compensation(gram), threads=8, sequential=True)
    at_once = in_turn_at_once(tensors, rounding)
    assert {at_once(each) for each in tensors if each.matrices > 1} == {1}

    def seconds() -> float:
        ticks = iter(range(10**6))
        return passing(model, rounding, tensors, clock=lambda: next(ticks)).seconds

    together = seconds()
    monkeypatch.setattr(sequential, "EXPERT_BYTES", 0)  # each expert needs passes of its own
    assert seconds() > together


@pytest.mark.parametrize("sequential", [False, True])
def test_quantize_estimates_feedback_and_writes_nothing(folder: Path, tmp_path: Path, *, sequential: bool) -> None:
    command = ("quantize", folder / "small.gguf", "-a", folder / "types.txt", "-o", tmp_path / "o.gguf", "--estimate")
    options = ("--gram", folder / "small.gram", "--threads", 1, "--json", *(["--sequential"] if sequential else []))
    said = client(*command, *options).json
    names = ["quantizing"]
    assert [each["name"] for each in said["stages"]] == (["passing text through blocks"] * sequential) + names
    assert all(each["seconds"] > 0 for each in said["stages"])
    assert "error feedback" in said["stages"][-1]["by"]
    assert said["left_out"] == []
    assert list(tmp_path.iterdir()) == []
    plainly = client(*command, "--json").json
    assert plainly["disk_bytes"] == said["disk_bytes"] > 0


def test_run_estimates_the_measurement_of_feedback(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ("--budget", 6, "--types", "Q8_0,Q4_0", "--gram", folder / "small.gram", "--threads", 1)
    found = client("run", folder / "small.gguf", *options, "-o", tmp_path / "o.gguf", "--estimate", "--json")
    said = json.loads(found.out)
    assert [each["name"] for each in said["stages"]] == ["measuring errors", "measuring error feedback", "quantizing"]
    assert said["left_out"] == []
    assert list(tmp_path.iterdir()) == []
