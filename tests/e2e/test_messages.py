"""Messages as users see them: one line for a fault at many places, with its reason and the way out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raq_client.files.profile_file import save_profile
from raq_client.importance.imatrix import Entry
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_client.models.model_file import open_model
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from support.commands import client


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    """Without importance, of four types."""
    path = tmp_path_factory.mktemp("profile") / "4m.json"
    save_profile(measure_profile(open_model(model_path), None, chosen_types(("Q8_0", "Q6_K", "Q4_K", "Q4_0"))), path)
    return path


def refusal(*arguments: object, code: int = 2) -> list[str]:
    result = client(*arguments)
    assert result.code == code, result.out + result.err
    return result.err.splitlines()


def test_globs_of_pins_pass_over_norms_and_say_so(profile: Path) -> None:
    result = client("solve", "-p", profile, "-b", "5", "--pin", "blk.0.*=Q6_K", "--json")
    assert result.code == 0, result.err
    types = result.json["allocation"]
    assert {types[name] for name in types if name.startswith("blk.0.")} == {"Q6_K", "F32"}
    assert "patterns pass over what is never quantized: blk.0.attn_norm.weight, blk.0.ffn_norm.weight" in result.err


def test_a_norm_that_is_named_is_refused(profile: Path) -> None:
    lines = refusal("solve", "-p", profile, "-b", "5", "--pin", "blk.0.attn_norm.weight=Q6_K")
    assert lines == ["raq-client: blk.0.attn_norm.weight: no quant type is left by constraint 1 (Pin)"]


def test_a_fault_at_many_tensors_is_one_line(profile: Path) -> None:
    lines = refusal("solve", "-p", profile, "-b", "5", "--pin", "blk.*.ffn_*=Q4_0", "--floor", "*=6")
    (line,) = lines
    assert (
        "blk.0.ffn_down.weight and 9 more: no quant type is left by constraint 1 (Pin) and constraint 2 (Floor)" in line
    )


def test_a_type_that_was_not_measured_is_said_once(profile: Path, tmp_path: Path) -> None:
    types = tmp_path / "types.txt"
    types.write_text(".*=q4_1\n")
    (line,) = refusal("audit", types, "-p", profile)
    assert "and 27 more: Q4_1 was not measured: the types of the table are F32, F16, Q8_0, Q6_K, Q4_0, Q4_K" in line


def test_an_imatrix_of_another_model_is_one_line(model_path: Path, imatrix_path: Path, tmp_path: Path) -> None:
    found, other = read_importance(imatrix_path), tmp_path / "other.gguf"
    entries = {f"blk.{number}.none.weight": entry for number, entry in enumerate(found.entries.values())}
    write_importance(replace(found, entries=entries), other)
    (line,) = refusal("solve", model_path, "-b", "5", "-i", other)
    assert f"and 25 more: in {other}, but not a tensor of this model" in line


def test_an_imatrix_of_other_widths_is_a_line_for_each_width(
    model_path: Path, imatrix_path: Path, tmp_path: Path
) -> None:
    found, other = read_importance(imatrix_path), tmp_path / "other.dat"
    short = Entry(np.ones(7, np.float32), np.ones(1, np.float32))
    write_importance(replace(found, entries=dict.fromkeys(found.entries, short), fisher={}), other)
    lines = refusal("solve", model_path, "-b", "5", "-i", other)
    assert len(lines) <= 7  # shapes, and four that are too few to be put together
    assert all("the importance of another model?" in line for line in lines)


def test_a_budget_that_needs_importance_says_so(model_path: Path, imatrix_path: Path) -> None:
    (line,) = refusal("solve", model_path, "-b", "1.9", code=4)
    assert line.endswith("smaller types (IQ3_XXS and below) need importance: give it with -i IMATRIX")
    (line,) = refusal("solve", model_path, "-b", "1.9", "-i", imatrix_path, code=4)
    assert line.endswith("the budget is 1.9 bpw")
    (line,) = refusal("solve", model_path, "-b", "4", "--types", "Q4_K,Q5_K", code=4)  # importance would not help
    assert line.endswith("the budget is 4 bpw")


def test_lines_of_types_that_match_nothing_and_tensors_that_are_left(model_path: Path, tmp_path: Path) -> None:
    types, out = tmp_path / "types.txt", tmp_path / "out.gguf"
    types.write_text("nothing=q4_k\nblk\\.0\\.ffn_down=q4_k\n")
    result = client("quantize", model_path, "-a", types, "-o", out)
    assert result.code == 0, result.err
    assert f"no tensor matches nothing=Q4_K in {types}; 29 of 30 tensors are in none of its lines" in result.err
    types.write_text(".*=q4_k\n")
    assert client("quantize", model_path, "-a", types, "-o", out, "--force").err.count("note:") == 0


def test_a_pinned_tensor_is_explained_in_a_sentence(profile: Path) -> None:
    name = "blk.0.ffn_up.weight"
    result = client("explain", name, "-p", profile, "-b", "5", "--pin", f"{name}=Q6_K")
    assert " ".join(result.out.split()) == (
        f"{name} is Q6_K: a constraint allows no other type, or the tensor is never quantized"
    )


def test_brackets_of_patterns_are_printed(profile: Path) -> None:
    result = client("explain", "-p", profile, "-b", "6", "--tie", "blk.0.ffn_[gu]*")
    assert result.code == 0, result.err
    assert "--tie blk.0.ffn_[gu]*" in result.out


def test_a_type_is_held_from_the_budget_that_is_said(profile: Path) -> None:
    """Types are looked at for evenly spaced budgets, so that a change may be earlier, and the text says `by`."""
    name = "blk.0.ffn_up.weight"
    asked = ("explain", name, "-p", profile, "-b", "6")
    found = client(*asked, "--json").json["flips"]
    assert len(found) > 2
    for flip in found[:4]:
        solved = client("solve", "-p", profile, "-b", f"{flip['capacity_bytes']}B", "--json").json
        assert solved["allocation"][name] == flip["after"]
    shown = " ".join(client(*asked).out.split())
    assert f"by a budget of {found[0]['before']} → {found[0]['after']} {found[0]['capacity_bytes']:,} bytes" in shown
    loss = client("solve", "-p", profile, "-b", "6", "--json").json["loss"]
    assert f"{name} is {client(*asked, '--json').json['chosen']}: loss of the whole {loss:.6g}" in shown


def test_an_audit_that_breaks_a_constraint_has_less_loss_never_a_negative_share_more(
    profile: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    solved = client("solve", "-p", profile, "-b", "5.5", "--json")
    plan.write_text(solved.out, encoding="utf-8")
    other = "Q4_0" if solved.json["allocation"]["output.weight"] == "Q8_0" else "Q8_0"
    result = client("audit", plan, "-p", profile, "--pin", f"output.weight={other}")
    assert result.code == 0, result.err
    shown = " ".join(result.out.split())
    assert "% less loss than the best that keeps the constraints" in shown
    assert "breaks constraint 1" in shown
