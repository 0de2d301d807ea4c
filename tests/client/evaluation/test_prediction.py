import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raq_client import pipeline
from raq_client.cli.against_options import AgainstOptions
from raq_client.cli.groups import CheckOptions
from raq_client.cli.trial_options import beside, print_beside
from raq_client.engine.windows import Text
from raq_client.evaluation.comparison import Verdict
from raq_client.evaluation.perplexity import Measurement
from raq_client.evaluation.prediction import Against, prediction
from raq_client.evaluation.statistics import Estimate
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.type_choice import chosen_types
from raq_client.planning.build_problem import build_problem
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.plan import Plan, solve_plan
from raq_client.planning.request import Request
from raq_client.quantizing.measure import measure_profile
from raq_client.refinement.tried import Candidate, Tried
from raq_client.solver_client.local import LocalSolver
from raq_solver.errors import InvalidInput
from raq_solver.loss_models import rounded_inputs_share
from raq_solver.profile import FisherLevels
from support.engine_models import MODEL, TEXT
from support.paths import DATA

IMATRIX = DATA / "wiki-math-4M.gsm8k.fisher.imatrix.gguf"
INPUTS = ModelInputs(MODEL, (str(IMATRIX),), threads=2)
TEXTS = [Text("text", TEXT[:20000])]


def _plan(loss: str) -> Plan:
    model = open_model(MODEL)
    types = chosen_types(("Q8_0", "Q4_K", "Q2_K"))
    profile = measure_profile(model, read_importance(IMATRIX), types)
    return solve_plan(build_problem(Request("4.2", loss), profile), LocalSolver())


def test_only_losses_in_nats_are_set_against_what_was_measured() -> None:
    measured = Estimate(0.02, 0.001, 0.001)
    found = prediction(_plan("fisher").table, 0.025, measured)
    assert found is not None
    assert found.ratio == pytest.approx(1.25)
    assert found.fair
    poor = prediction(_plan("fisher").table, 0.04, measured)
    assert poor is not None
    assert not poor.fair
    assert prediction(_plan("prior").table, 0.025, measured) is None
    nothing = prediction(_plan("fisher").table, 0.0, Estimate(0.0, 0.0, 0.0))
    assert nothing is not None
    assert math.isnan(nothing.ratio)
    assert not nothing.fair


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path, Measurement]:
    """A plan, its file, and the file measured on a little text."""
    plan, target = _plan("fisher"), tmp_path_factory.mktemp("against") / "out.gguf"
    pipeline.quantize(plan, INPUTS, target)
    return plan, target, pipeline.measure(MODEL, target, TEXTS, context=128, windows=4, threads=2)


def _against(checked: tuple[Plan, Path, Measurement], name: str) -> Against:
    plan, target, measured = checked
    return pipeline.against_mixture(plan, INPUTS, measured, name, TEXTS, target.parent, windows=4)


def test_a_mixture_is_measured_as_the_file_was(checked: tuple[Plan, Path, Measurement]) -> None:
    plan, target, measured = checked
    worse = _against(checked, "q2_k")
    assert (worse.mixture, worse.windows, worse.capacity) == ("Q2_K", 4, plan.problem.capacity_bytes)
    assert worse.allocation_kl == pytest.approx(measured.report().overall.kl.value), "one file has one level"
    assert worse.allocation_kl < worse.mixture_kl == worse.mixture_check.kl.value
    assert worse.mixture_check.tokens == measured.report().overall.tokens, "the same windows"
    assert worse.mixture_bytes < worse.mixture_file_bytes < target.stat().st_size
    assert worse.difference.verdict is Verdict.BETTER
    assert not worse.mixture_is_better
    larger = _against(checked, "Q8_0")
    assert larger.difference.verdict is Verdict.WORSE
    assert not larger.mixture_is_better, "it is over the budget"
    assert replace(larger, capacity=larger.mixture_bytes).mixture_is_better
    assert [path.name for path in target.parent.iterdir()] == ["out.gguf"], "nothing is left of the mixtures"


def test_run_reports_both(checked: tuple[Plan, Path, Measurement], capsys: pytest.CaptureFixture[str]) -> None:
    plan, target, measured = checked
    checks = CheckOptions(context=128, windows=4)
    found = AgainstOptions("Q2_K").report(plan, measured, INPUTS, TEXTS, target, checks, as_json=True)
    assert found["prediction"]["predicted"] == plan.outcome.unwrap()[1].loss
    assert (found["against"]["mixture"], found["against"]["windows"]) == ("Q2_K", 4)
    assert AgainstOptions().report(_plan("prior"), measured, INPUTS, TEXTS, target, checks, as_json=True) == {}
    assert capsys.readouterr().out == ""
    AgainstOptions("Q2_K").report(plan, measured, INPUTS, TEXTS, target, checks, as_json=False)
    out = " ".join(capsys.readouterr().out.split())
    assert "prediction" in out
    assert "compared with Q2_K on 4 windows: better" in out


def _with_levels(plan: Plan) -> Plan:
    """The plan as if Fisher information were known by window."""
    levels = FisherLevels(np.ones((len(plan.profile.tensors), 4)), ("a", "a", "b", "b"), np.ones(4))
    return replace(plan, spec=replace(plan.spec, profile=replace(plan.profile, levels=levels)))


@pytest.mark.parametrize(("share", "place"), [(1.0, "within"), (3.0, "above"), (0.3, "below")])
def test_a_trial_says_where_its_file_lies_beside_the_interval(
    share: float, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The prediction has rounded inputs in it, the trial has not: they are added."""
    plan = _with_levels(_plan("fisher"))
    assert plan.predicted is not None
    rounded = rounded_inputs_share(plan.profile, plan.outcome.unwrap()[0].types)
    assert rounded > 0
    windows = np.full(6, share * plan.predicted.value / (1 + rounded))
    tried = Tried(Candidate("the plan", plan.problem, plan.outcome), windows, seconds=1.0)
    found = beside(plan, tried)["predicted"]
    assert found["measured"] == pytest.approx(share * plan.predicted.value)
    assert (found["error"], found["place"]) == (pytest.approx(0, abs=1e-12), place)
    print_beside(plan, tried)
    assert f": {place} the interval" in " ".join(capsys.readouterr().out.split())
    unknown = _plan("fisher")
    print_beside(unknown, tried)
    assert capsys.readouterr().out == ""
    assert beside(unknown, tried) == {"predicted": None}


def test_run_says_where_the_measured_value_lies_beside_the_interval(
    checked: tuple[Plan, Path, Measurement], capsys: pytest.CaptureFixture[str]
) -> None:
    plan, target, measured = checked
    known = _with_levels(plan)
    checks = CheckOptions(context=128, windows=4)
    found = AgainstOptions().report(known, measured, INPUTS, TEXTS, target, checks, as_json=True)["prediction"]
    kl = measured.report().overall.kl
    assert known.predicted is not None
    assert found["interval"]["measured"] == found["measured"]["value"] == kl.value
    place = known.predicted.place(kl)
    assert place is not None
    assert found["interval"]["place"] == place.value
    AgainstOptions().report(known, measured, INPUTS, TEXTS, target, checks, as_json=False)
    assert f": {place.value} the interval" in " ".join(capsys.readouterr().out.split())
    assert (
        AgainstOptions().report(plan, measured, INPUTS, TEXTS, target, checks, as_json=True)["prediction"]["interval"]
        is None
    ), "the importance file has no levels by window"


def test_an_unknown_mixture_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput, match="Q4_K_X"):
        AgainstOptions("Q4_K_X")
