"""Predictions in files: written by a plan, read for a check, refused where they are of something else."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from raq_client.models.model_file import open_model
from raq_client.planning.predicted_file import read_planned_kl
from raq_client.planning.predicted_kl import PredictedKl
from raq_client.reports.predicted import predicted_dict
from raq_solver.errors import InvalidInput
from support.commands import client
from support.engine_models import MODEL, TEXT

EXPECTED = PredictedKl(0.02, 0.016, 0.025, {"math": 0.02})


def file_of(folder: Path, content: object) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def plan(predicted: PredictedKl | None = EXPECTED, types: dict[str, str] | None = None) -> dict[str, Any]:
    """What a plan's JSON holds of it; by default of the model as it is."""
    own = {tensor.name: tensor.source_type.name for tensor in open_model(MODEL).tensors}
    return {"allocation": types or own, "predicted": predicted_dict(predicted), "bytes": 5}


@pytest.mark.parametrize("within", ["", "plan"])
def test_a_prediction_survives_its_file(tmp_path: Path, within: str) -> None:
    """Of a plan alone, and of a run with its plan."""
    content = {within: plan(), "format": "raq-manifest-1"} if within else plan()
    found = read_planned_kl(file_of(tmp_path, content))
    assert found.predicted == EXPECTED
    found.require_of(open_model(MODEL))


def test_an_unknown_interval_stays_unknown(tmp_path: Path) -> None:
    unknown = PredictedKl(0.02, 0.0, math.inf, {})
    assert read_planned_kl(file_of(tmp_path, plan(unknown))).predicted == unknown


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (plan(None), "holds no predicted KL divergence"),
        ({"predicted": predicted_dict(EXPECTED)}, "holds no predicted KL divergence"),
        ({}, "holds no predicted KL divergence"),
        ([1], "a plan"),
        ({"plan": 5}, "a plan"),
        (plan() | {"predicted": {"kl": -1}}, "kl"),
        (plan() | {"predicted": {"kl": "much"}}, "kl"),
        (plan() | {"predicted": {"kl": 0.02, "low": 0.03, "high": 0.04}}, "in this order"),
    ],
)
def test_what_holds_no_prediction_is_refused(tmp_path: Path, content: object, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        read_planned_kl(file_of(tmp_path, content))


def test_a_plan_of_another_file_is_refused(tmp_path: Path) -> None:
    own = plan()["allocation"]
    other = read_planned_kl(file_of(tmp_path, plan(types=own | {"output.weight": "Q4_K", "new.weight": "F16"})))
    with pytest.raises(InvalidInput, match=r"output\.weight is Q4_K in the plan and F16 in the file, and 1 more"):
        other.require_of(open_model(MODEL))


def test_check_sets_both_side_by_side(tmp_path: Path) -> None:
    """A model beside itself measures 0, of which nothing is said; a plan of another file is refused at once."""
    text, found = tmp_path / "text.txt", file_of(tmp_path, plan())
    text.write_text(TEXT[:3000], encoding="utf-8")
    arguments = ("check", MODEL, "-m", MODEL, "-t", text, "--context", "128", "--windows", "2", "--plan")
    result = client(*arguments, found, "--json")
    assert result.code == 0, result.err
    assert (result.json["predicted"]["kl"], result.json["predicted"]["place"]) == (0.02, None)
    assert "predicted 0.0200" in client(*arguments, found).out
    refused = client(*arguments, file_of(tmp_path, plan(types={"output.weight": "Q2_K"})))
    assert (refused.code, refused.out) == (2, "")
    assert "is not made by this plan" in refused.err
    alone = client("check", "-m", MODEL, "-t", text, "--save-baseline", tmp_path / "base.kld", "--plan", found)
    assert alone.code == 2
    assert not (tmp_path / "base.kld").exists()
