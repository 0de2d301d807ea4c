"""Explaining, auditing, nesting and demands on several tensors, as commands."""

from itertools import pairwise
from pathlib import Path

import pytest

from raq_client.files.profile_file import save_profile
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from support.commands import client


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory, model_path: Path, imatrix_path: Path) -> Path:
    path = tmp_path_factory.mktemp("profile") / "4m.json"
    save_profile(measure_profile(open_model(model_path), read_importance(imatrix_path), chosen_types(("k",))), path)
    return path


def test_reasons_of_a_tensor(profile: Path) -> None:
    result = client("explain", "output.weight", "-b", "5", "-p", profile, "--json")
    assert result.code == 0, result.err
    chosen = client("solve", "-b", "5", "-p", profile, "--json").json
    assert result.json["chosen"] == chosen["allocation"]["output.weight"]
    for other in result.json["alternatives"]:
        if other["loss"] is None:
            continue
        pin = f"output.weight={other['quant_type']}"
        forced = client("solve", "-b", "5", "-p", profile, "--pin", pin, "--json").json
        assert forced["loss"] == pytest.approx(other["loss"], rel=1e-9)
        assert other["rise"] == pytest.approx(forced["loss"] - chosen["loss"], abs=1e-12)


def test_what_constraints_cost(profile: Path) -> None:
    arguments = ("-b", "5", "-p", profile, "--pin", "output.weight=Q8_0", "--floor", "blk.0.*=2")
    found = client("explain", *arguments, "--json").json
    free = client("solve", "-b", "5", "-p", profile, "--json").json["loss"]
    bound = client("solve", *arguments, "--json").json["loss"]
    assert found["total"] == pytest.approx(bound - free)
    assert found["constraints"][1]["cost"] == pytest.approx(0, abs=1e-12)


def test_why_nothing_fits(profile: Path) -> None:
    result = client("explain", "-b", "3", "-p", profile, "--pin", "output.weight=Q8_0", "--floor", "blk.0.*=2")
    assert result.code == 4
    assert "--pin output.weight=Q8_0; the least budget" in result.err
    assert "--floor" not in result.err
    assert client("solve", "-b", result.err.split()[-2].replace(",", "") + "B", "-p", profile,
                  "--pin", "output.weight=Q8_0").code == 0  # fmt: skip


def test_audit_of_a_file_and_of_the_best(profile: Path, model_path: Path, tmp_path: Path) -> None:
    lines = tmp_path / "all.txt"
    lines.write_text(".*=q4_K\n", encoding="utf-8")
    found = client("audit", lines, "-p", profile, "--json").json
    assert found["excess"] > 0
    plan = tmp_path / "plan.json"
    plan.write_text(client("solve", "-b", f"{found['bytes']}B", "-p", profile, "--json").out, encoding="utf-8")
    best = client("audit", plan, "-p", profile, "--json").json
    assert best["loss"] == pytest.approx(found["best_loss"], rel=1e-12)
    out = tmp_path / "out.gguf"
    assert client("quantize", model_path, "-a", lines, "-o", out).code == 0
    assert client("audit", out, "-p", profile, "--json").json["loss"] == found["loss"]


def test_a_nested_ladder_only_promotes(profile: Path) -> None:
    found = client("sweep", "--ladder", "3,3.5,4.5,6", "-p", profile, "--json").json
    assert found["termination"] == "optimal"
    bits = {"F32": 32, "F16": 16, "Q8_0": 8, "Q6_K": 6, "Q5_K": 5, "Q4_K": 4, "Q3_K": 3, "Q2_K": 2}
    rungs = found["rungs"]
    for before, after in pairwise(rungs):
        assert all(bits[after["allocation"][name]] >= bits[was] for name, was in before["allocation"].items())
    assert all(rung["loss"] >= rung["free_loss"] - 1e-15 for rung in rungs)


def test_demands_on_several_tensors_hold(profile: Path) -> None:
    arguments = ("--distinct-types", "4", "--at-most", "*ffn_[gud]*=3:Q4_K", "--region", "blk.0.*=300KB")
    result = client("solve", "-b", "4.5", "-p", profile, *arguments, "--monotone", "blk.*.ffn_down.weight", "--json")
    assert result.code == 0, result.err
    allocation = result.json["allocation"]
    assert len(set(allocation.values())) <= 4
    more = {"Q5_K", "Q6_K", "Q8_0", "F16"}
    above = [name for name, quant_type in allocation.items() if "ffn_" in name and quant_type in more]
    assert len(above) <= 3
    free = client("solve", "-b", "4.5", "-p", profile, "--json").json
    assert result.json["loss"] >= free["loss"]
    impossible = client("solve", "-b", "4.5", "-p", profile, "--at-most", "blk.*=1:Q2_K", "--pin", "blk.*_k.*=Q8_0")
    assert impossible.code == 4
    assert "can't be kept together" in impossible.err


def test_active_bytes_are_kept_and_priced(profile: Path) -> None:
    free = client("solve", "-b", "6", "-p", profile, "--json").json
    limit = int(free["bytes"] * 0.5)
    arguments = ("-b", "6", "-p", profile, "--active-bytes", f"{limit}B")
    kept = client("solve", *arguments, "--json")
    assert kept.code == 0, kept.err
    assert kept.json["loss"] > free["loss"]
    costs = client("explain", *arguments, "--json").json
    assert costs["total"] == pytest.approx(kept.json["loss"] - free["loss"], rel=1e-6)
    assert client("solve", *arguments, "--experts-used", "2", "--json").json["loss"] == kept.json["loss"]


def test_a_memory_target_from_a_profile_is_that_from_the_model(
    profile: Path, model_path: Path, imatrix_path: Path
) -> None:
    flags = ("--vram", "20MB", "--vram-context", "2k", "--json")
    saved, model = client("solve", "-p", profile, *flags), client("solve", "-m", model_path, "-i", imatrix_path, *flags)
    assert saved.code == model.code == 0, saved.err + model.err
    assert saved.json["memory"] == model.json["memory"]
    assert saved.json["allocation"] == model.json["allocation"]


def test_a_ladder_with_demands_on_several_tensors_is_refused_in_a_sentence(profile: Path) -> None:
    result = client("sweep", "--ladder", "4,5", "-p", profile, "--at-most", "blk.*.ffn_up.weight=1:5")
    assert result.code == 2
    assert "can't be nested together with constraints that span tensors" in result.err
