import json
import math
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client import engine
from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import Trial, TrialSetup
from raq_client.evaluation.perplexity import measure
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.quantizing.rounding import Rounding
from raq_client.sensitivity.choices import choices_of
from raq_client.sensitivity.design import Design, expected_of, planned_groups
from raq_client.sensitivity.measure import Sensitivities, measure_sensitivities
from raq_solver.allocation import Allocation
from raq_solver.errors import InvalidInput
from raq_solver.loss_models.role_prior import role_sensitivities
from raq_solver.quant_types import CATALOGUE
from support.engine_models import MODEL, TEXT, write_quantized
from support.paths import DATA


def _bench() -> TrialSetup:
    importance = read_importance(DATA / "wiki-math-4M.gsm8k.imatrix.gguf")
    return TrialSetup(open_model(MODEL), MODEL, importance, [Text("text", TEXT)], windows=2, context=128, threads=2)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sensitivities, Path]:
    folder = tmp_path_factory.mktemp("cache")
    return measure_sensitivities(_bench(), cache=folder), folder


def test_every_quantizable_tensor_gets_a_sensitivity(measured: tuple[Sensitivities, Path]) -> None:
    found, _ = measured
    matrices = [t.name for t in open_model(MODEL).tensors if t.source_type.name == "F16"]
    assert list(found.tensors) == matrices
    assert len(found.evaluations) == len(matrices) == 30
    assert (found.fit.values > 0).all()
    assert (found.fit.errors > 0).all()
    by_name = dict(zip(found.tensors, found.fit.values, strict=True))
    assert max(by_name, key=lambda name: by_name[name]) == "output.weight"


def test_the_untouched_model_is_the_floor_and_losses_add_up(measured: tuple[Sensitivities, Path]) -> None:
    found, _ = measured
    assert found.floor.kl == 0.0
    assert 0.85 < found.additivity < 1.15


def test_a_second_run_is_answered_from_the_journal(
    measured: tuple[Sensitivities, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, folder = measured
    monkeypatch.setattr(engine, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    steps: list[tuple[int, int]] = []
    again = measure_sensitivities(_bench(), cache=folder, progress=lambda done, of: steps.append((done, of)))
    np.testing.assert_array_equal(again.fit.values, found.fit.values)
    assert steps == [(done, 32) for done in range(1, 33)]


def test_an_interrupted_run_goes_on(measured: tuple[Sensitivities, Path], tmp_path: Path) -> None:
    found, folder = measured
    (journal,) = folder.iterdir()
    lines = journal.read_text().splitlines()
    cut = tmp_path / journal.name
    cut.write_text("\n".join(lines[:20]) + "\n" + lines[20][:15] + "\n")
    again = measure_sensitivities(_bench(), cache=tmp_path)
    np.testing.assert_array_equal(again.fit.values, found.fit.values)
    assert len(cut.read_text().splitlines()) == len(lines) + 1


def test_few_evaluations_go_to_roles_first_where_something_is_foreseen(
    measured: tuple[Sensitivities, Path], tmp_path: Path
) -> None:
    found, _ = measured
    bench = _bench()
    profile = measure_profile(bench.model, bench.importance, chosen_types(("Q6_K", "Q3_K")))
    foreseen, choices = expected_of(profile), choices_of(profile)
    few = measure_sensitivities(bench, evaluations=12, choices=choices, expected=foreseen, cache=tmp_path)
    assert [len(e.tensors) for e in few.evaluations] == [1, *[4] * 7, 1, *[1] * 3]
    blind = measure_sensitivities(bench, evaluations=6, choices=choices, cache=tmp_path)
    assert [len(e.tensors) for e in blind.evaluations] == [1] * 6
    assert {("output.weight",), ("token_embd.weight",)} < {e.tensors for e in blind.evaluations}
    miss = np.log(few.fit.values / found.fit.values)
    assert np.sqrt(np.square(miss).mean()) < np.log(found.fit.values).std()
    fewer = measure_sensitivities(bench, evaluations=3, expected=foreseen, cache=tmp_path)
    assert [len(e.tensors) for e in fewer.evaluations] == [10, 10, 10]


@pytest.mark.parametrize(("design", "sizes"), [("single", [1] * 4), ("groups", [8, 8, 7, 7]), ("balanced", [15] * 4)])
def test_designs_by_name(design: Design, sizes: list[int]) -> None:
    names = open_model(MODEL).tensors
    quantizable = [tensor.name for tensor in names if tensor.source_type.name == "F16"]
    assert [len(group) for group in planned_groups(design, quantizable, 4, foreseen=True)] == sizes


def test_a_profile_takes_the_sensitivities_over(measured: tuple[Sensitivities, Path]) -> None:
    found, _ = measured
    profile = measure_profile(_bench().model, None, chosen_types(("Q8_0",)))
    filled = found.applied_to(profile)
    column = {tensor.name: row for row, tensor in enumerate(filled.tensors)}
    assert filled.sensitivities[column["output.weight"]] == found.fit.values[found.tensors.index("output.weight")]
    assert math.isnan(filled.sensitivities[column["output_norm.weight"]])
    assert "30 evaluations at Q4_K, 2 windows of 128 tokens" in filled.provenance["sensitivity"]


def test_a_trial_in_memory_equals_a_check_of_the_file(tmp_path: Path) -> None:
    """But for the activations, which the kernels of quantized files round to 8 bits: a few percent of the KL."""
    text = Text("text", TEXT[:4000])
    bench = replace(_bench(), texts=[text], windows=1000)
    names = [t.name for t in bench.model.tensors if t.source_type.name == "F16"]
    with Trial(bench) as model:
        tried = model.run(dict.fromkeys(names, CATALOGUE["Q4_K"])).scores
        untouched = model.run({}).scores
    assert not untouched.kl.any()
    types = {t.name: "Q4_K" if t.name in names else t.source_type.name for t in bench.model.tensors}
    quantize_model(
        Quantization(bench.model, Allocation(types), tmp_path / "q4_k.gguf", Rounding(bench.importance, threads=2))
    )
    real = measure(MODEL, tmp_path / "q4_k.gguf", [text], context=128, threads=2).scores()
    assert tried.kl.shape == real.kl.shape
    assert math.isclose(tried.kl.mean(), real.kl.mean(), rel_tol=0.1)
    assert np.corrcoef(np.log(tried.kl.ravel() + 1e-6), np.log(real.kl.ravel() + 1e-6))[0, 1] > 0.95


def test_what_cannot_be_perturbed_is_refused(tmp_path: Path) -> None:
    path = write_quantized(tmp_path / "q4.gguf", gguf.GGMLQuantizationType.Q4_0)
    stuck = replace(_bench(), model=open_model(path), path=path)
    with pytest.raises(InvalidInput, match="has no tensor to perturb"):
        measure_sensitivities(stuck)
    with (
        Trial(stuck) as model,
        pytest.raises(InvalidInput, match=r"can't be tried in memory: output\.weight"),
    ):
        model.run({"output.weight": CATALOGUE["Q4_K"]})
    with pytest.raises(InvalidInput, match="there is none to measure on"):
        replace(_bench(), texts=[])
    with pytest.raises(InvalidInput, match="evaluations: must be at least 1"):
        measure_sensitivities(_bench(), evaluations=0)


def test_torn_and_foreign_lines_of_a_journal_are_measured_again(tmp_path: Path) -> None:
    from raq_client.sensitivity.journal import Journal

    path = tmp_path / "j.jsonl"
    good = {"tensors": ["a"], "errors": [0.1], "kl": 1.0, "kl_error": 0.1}
    path.write_text("\n".join([json.dumps(good), "{", "[]", json.dumps({"uses": ["a", "b"]})]))
    journal = Journal(path)
    assert journal.tensors == ("a", "b")
    known = journal.get(("a",))
    assert known is not None
    assert known.kl == 1.0
    assert journal.get(("b",)) is None


@pytest.mark.slow
def test_losses_add_up_on_the_larger_model(shared_data: Path) -> None:
    path = shared_data / "models" / "wiki-math-18M-f16.gguf"
    importance = read_importance(shared_data / "imatrix" / "wiki-math-18M.wiki.imatrix.gguf")
    text = Text("wiki", (shared_data / "text" / "wikitext2.test.raw.txt").read_text())
    bench = TrialSetup(open_model(path), path, importance, [text], windows=4, threads=2)
    found = measure_sensitivities(bench)
    assert 0.9 < found.additivity < 1.1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_the_residual_stream_foresees_makes_few_evaluations_better(tmp_path: Path) -> None:
    bench = replace(
        _bench(), texts=[Text("text", (DATA / "gsm8k.calibration.txt").read_text())], windows=8, context=512
    )
    types = chosen_types(("k",))
    profile = measure_profile(bench.model, bench.importance, types)
    probe = CATALOGUE["Q3_K"]
    full = np.log(measure_sensitivities(bench, probe=probe, cache=tmp_path).fit.values)
    blind = measure_sensitivities(bench, probe=probe, evaluations=12, cache=tmp_path)
    led = measure_sensitivities(
        bench,
        probe=probe,
        evaluations=12,
        expected=expected_of(profile),
        choices=choices_of(profile),
        cache=tmp_path,
    )
    misses = [float(np.sqrt(np.square(np.log(found.fit.values) - full).mean())) for found in (blind, led)]
    print(f"\nspread of ln(12 evaluations / all 30): {misses[0]:.3f} without, {misses[1]:.3f} with what is foreseen")
    assert misses[1] < 0.85 * misses[0]


def test_a_profile_foresees_and_offers_only_what_it_can() -> None:
    types = chosen_types(("Q8_0", "Q2_K"))
    with_importance = measure_profile(_bench().model, _bench().importance, types)
    assert max(expected := expected_of(with_importance), key=lambda name: expected[name]) == "output.weight"
    without = measure_profile(_bench().model, None, types)
    assert list(expected_of(without).values()) == pytest.approx(role_sensitivities(without.tensors).tolist())
    choices = choices_of(with_importance)
    assert "output_norm.weight" not in choices.names
    assert len(choices.names) == 30
