"""`import raq`: the road as objects, as README shows it; progress, cancelling, notebooks, mistakes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import raq
from raq_client.files.profile_file import save_profile
from raq_solver.errors import InvalidInput
from support.services import serving

TYPES = ("Q8_0", "Q6_K", "Q4_K", "Q2_K")


@pytest.fixture(scope="module")
def model(model_path: Path, fisher_path: Path) -> raq.Model:
    return raq.open(model_path, imatrix=fisher_path, types=TYPES)


def test_the_whole_road(model_path: Path, fisher_path: Path, tmp_path: Path, data: Path) -> None:
    model = raq.open(model_path, imatrix=fisher_path, types=TYPES)  # its own: a model is measured once
    steps: list[raq.Step] = []
    plan = model.plan(budget="5.0", pin={"output.weight": "Q6_K"}, progress=steps.append)
    assert plan.proven
    assert plan.types["output.weight"] == "Q6_K"
    assert plan.size <= 5 * model.weights // 8
    assert plan.loss >= plan.bound * (1 - 1e-9)
    written = plan.quantize(tmp_path / "out.gguf", progress=steps.append)
    assert written.tensor_bytes == plan.size
    found = raq.check(
        tmp_path / "out.gguf",
        model,
        texts=[data / "gsm8k.evaluation.txt"],
        context=64,
        windows=2,
        progress=steps.append,
    )
    assert 0 < found.kl < 0.1
    assert found.to_dict()["overall"]["kl"]["value"] == found.kl
    assert {step.stage for step in steps} == {"measuring errors", "quantizing", "checking"}
    assert all(0 <= step.share <= 1 for step in steps)


def test_a_frontier_is_arrays(model: raq.Model, tmp_path: Path) -> None:
    frontier = model.plan("5", pin=["output.weight=Q6_K"]).sweep("4", "8", points=12)
    assert len(frontier) == 12
    assert frontier.sizes.dtype == np.int64
    assert (np.diff(frontier.losses) <= 0).all()
    assert (frontier.sizes <= frontier.capacities).all()
    assert frontier.proven.all()
    frontier.plot(tmp_path / "frontier.svg")
    assert (tmp_path / "frontier.svg").stat().st_size > 1000


def test_a_server_gives_the_same_plan(model: raq.Model) -> None:
    here = model.plan("4.5", architecture="default")
    with serving() as running, raq.connect(running.address) as solver:
        there = model.plan("4.5", architecture="default", solver=solver)
        assert there.types == here.types
        assert there.loss == here.loss
        assert there.sweep(4, 5, points=3).losses.tolist() == here.sweep(4, 5, points=3).losses.tolist()


def test_the_smallest_size_for_a_loss(model: raq.Model) -> None:
    plan = model.plan(max_loss=0.01)
    assert plan.loss <= 0.01
    smaller = model.plan(f"{plan.size - 1}B")
    assert smaller.loss > 0.01


def test_an_exception_in_the_callback_cancels(model: raq.Model, tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop(step: raq.Step) -> None:
        if step.done:
            raise Enough

    plan = model.plan("5.0")
    with pytest.raises(Enough):
        plan.quantize(tmp_path / "out.gguf", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_sentence(model: raq.Model, model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(raq.Infeasible, match="even the smallest types need") as small:
        model.plan("1.0")
    assert small.value.least_bytes > model.weights // 8
    with pytest.raises(InvalidInput, match=r"blk\.9\.\* matches no tensor"):
        model.plan("5", floor={"blk.9.*": 4})
    with pytest.raises(InvalidInput, match="how large may it be"):
        model.plan()
    with pytest.raises(InvalidInput, match=r"none\.gguf"):
        raq.open(tmp_path / "none.gguf")
    with pytest.raises(InvalidInput, match="did you mean Q4_K"):
        raq.open(model_path, types=["Q4_KK"])
    save_profile(model.profile(), tmp_path / "p.json")
    planned = raq.load_profile(tmp_path / "p.json").plan("5")
    with pytest.raises(InvalidInput, match="no model is named"):
        planned.quantize(tmp_path / "x.gguf")


def test_notebooks_show_tables(model: raq.Model) -> None:
    plan = model.plan("5.0")
    for shown in (model, plan, plan.sweep(4, 6, points=30)):
        html = shown._repr_html_()
        assert "<table>" in html
        assert html.count("<tr>") == html.count("</tr>") <= 18
        assert repr(shown).startswith("<raq.")
    assert f"{plan.size:,}" in plan._repr_html_()
    assert "<script>" not in raq.Model(model.inputs.with_imatrix(["<script>"]))._repr_html_()


def test_importance_may_be_blended(model_path: Path, imatrix_path: Path, fisher_path: Path) -> None:
    blended = raq.open(model_path, imatrix={imatrix_path: 0.5, fisher_path: 0.5}, types=TYPES)
    assert blended.inputs.imatrix == (f"{imatrix_path}:0.5", f"{fisher_path}:0.5")
    assert blended.plan("5").proven


def test_arrays_of_a_caller_stay_writable(model: raq.Model) -> None:
    profile = model.profile()
    errors = profile.relative_errors.copy()
    replace(profile, relative_errors=errors)
    errors[0, 0] = 1.0  # raises if the profile made it read-only
