import math

import pytest

from raq_client.cli.against_options import AgainstOptions
from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import TrialSetup
from raq_client.evaluation.perplexity import check
from raq_client.evaluation.prediction import compare_with_mixture, prediction
from raq_client.evaluation.statistics import Estimate
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.file_types import file_type
from raq_client.models.model_file import open_model
from raq_client.models.table import table_of
from raq_client.models.type_choice import chosen_types
from raq_client.planning.build_problem import build_problem
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.plan import Plan, solve_plan
from raq_client.planning.request import Request
from raq_client.quantizing.measure import measure_profile
from raq_client.recipes.mixtures import mixture
from raq_client.solver_client.local import LocalSolver
from raq_solver.allocation import Allocation
from raq_solver.errors import InvalidInput
from support.engine_models import MODEL, TEXT
from support.paths import DATA

IMATRIX = DATA / "wiki-math-4M.gsm8k.fisher.imatrix.gguf"


def _setup() -> TrialSetup:
    return TrialSetup(open_model(MODEL), MODEL, read_importance(IMATRIX), [Text("text", TEXT)], 8, 128, threads=2)


def _plan(loss: str) -> Plan:
    model = open_model(MODEL)
    types = chosen_types(("Q8_0", "Q4_K", "Q2_K"))
    profile = measure_profile(model, read_importance(IMATRIX), types)
    return solve_plan(build_problem(Request("4.2", loss), profile), LocalSolver())


def _mixture(name: str) -> Allocation:
    types = mixture(table_of(open_model(MODEL)), file_type(name))
    return Allocation({tensor.name: quant_type.name for tensor, quant_type in types.items()})


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


def test_a_mixture_against_itself_makes_no_difference() -> None:
    found = compare_with_mixture(_mixture("Q4_K_M"), 2_870_784, "q4_k_m", _setup())
    assert (found.mixture, found.windows) == ("Q4_K_M", 8)
    assert found.allocation_kl == found.mixture_kl > 0
    assert found.allocation_bytes == found.mixture_bytes
    assert found.difference.value == 0
    assert not found.mixture_is_better


def test_the_better_one_is_named() -> None:
    worse = compare_with_mixture(_mixture("Q4_K_M"), 2_870_784, "Q2_K", _setup())
    assert worse.allocation_kl < worse.mixture_kl
    assert not worse.mixture_is_better
    larger = compare_with_mixture(_mixture("Q2_K"), 2_870_783, "Q4_K_M", _setup())
    assert larger.difference.verdict.value == "worse"
    assert not larger.mixture_is_better, "it is a byte over the budget"
    crippled = dict(_mixture("Q6_K").types) | {"output.weight": "Q2_K", "token_embd.weight": "Q2_K"}
    crippled |= {name: "F16" for name in crippled if ".ffn_" in name and "norm" not in name}
    found = compare_with_mixture(Allocation(crippled), 2_870_784, "Q4_K_M", _setup())
    assert found.mixture_bytes == found.capacity
    assert found.mixture_is_better
    with pytest.raises(InvalidInput, match="Q4_K_X"):
        compare_with_mixture(_mixture("Q2_K"), 1, "Q4_K_X", _setup())


def test_run_tells_both(capsys: pytest.CaptureFixture[str]) -> None:
    plan, texts = _plan("fisher"), [Text("text", TEXT[:20000])]
    report = check(MODEL, MODEL, texts, context=128, windows=2, threads=2)
    sources = ModelInputs(MODEL, (str(IMATRIX),), threads=2)
    told = AgainstOptions("Q2_K").report(plan, report, sources, texts, 4, None, as_json=True)
    assert told["prediction"]["predicted"] == plan.outcome.unwrap()[1].loss
    assert told["against"]["mixture"] == "Q2_K"
    assert told["against"]["windows"] == 4
    assert AgainstOptions().report(_plan("prior"), report, sources, texts, 4, None, as_json=True) == {}
    assert capsys.readouterr().out == ""


def test_an_unknown_mixture_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput, match="Q4_K_X"):
        AgainstOptions("Q4_K_X")


def test_people_are_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    plan, texts = _plan("fisher"), [Text("text", TEXT[:20000])]
    report = check(MODEL, MODEL, texts, context=128, windows=2, threads=2)  # nothing lost: the prediction is poor
    AgainstOptions("Q2_K").report(
        plan, report, ModelInputs(MODEL, (str(IMATRIX),), threads=2), texts, 4, None, as_json=False
    )
    out = " ".join(capsys.readouterr().out.split())
    assert "a poor prediction" in out
    assert "compared with Q2_K in memory on 4 windows: better" in out
