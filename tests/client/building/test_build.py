"""Builds: what is shown is what is written, reuse changes no byte, rules are data, and nothing is lost."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raq_client.building.build import HowToBuild, rules_data
from raq_client.building.inputs import NotMadeError, prepare
from raq_client.building.manifest import build_manifest, read_build_manifest
from raq_client.building.replay import replay
from raq_client.building.resolve import Resolved, changed_types, resolve
from raq_client.building.workshop import Workshop
from raq_client.files.lock import output_lock
from raq_client.files.manifest import file_digest, write_manifest
from raq_client.files.profile_file import save_profile
from raq_client.importance.imatrix_file import read_importance
from raq_client.recipes.build_recipe import BuildRecipe
from raq_client.solver_client.local import LocalSolver
from raq_solver.backends import libraries
from raq_solver.errors import InvalidInput
from raq_solver.profile import Profile
from raq_solver.quant_types import quant_type
from support.builds import built, project, read, small_importance
from support.gguf_files import Reader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return project(tmp_path / "project")


def _types(path: Path) -> dict[str, str]:
    """The types in a file, read by gguf-py."""
    return {tensor.name: tensor.tensor_type.name for tensor in Reader(path).tensors}


def _resolved(recipe: BuildRecipe, store: Path, *, makes: bool = True) -> Resolved:
    return resolve(prepare(recipe, Workshop(store, cached=False), makes=makes), LocalSolver())


def test_what_is_shown_is_what_a_build_writes(folder: Path, tmp_path: Path) -> None:
    recipe = read(folder, pin=["output.weight=Q6_K"], auto=[{"unit": "tensor", "type": "Q8_0"}])
    shown = _resolved(recipe, tmp_path / "store")
    found = built(recipe, tmp_path / "store")
    assert _types(recipe.output.file) == dict(shown.allocation.types)
    assert set(shown.allocation.types) == {tensor.name for tensor in Reader(folder / "small.gguf").tensors}
    assert recipe.output.file.stat().st_size == shown.file_bytes == found.written.size
    assert file_digest(recipe.output.file) == found.written.sha256
    assert shown.ledger.size <= shown.ledger.capacity


def test_showing_runs_nothing(folder: Path, tmp_path: Path) -> None:
    recipe = read(folder)
    with pytest.raises(NotMadeError, match="have not been measured"):
        _resolved(recipe, tmp_path / "store", makes=False)
    first = _resolved(recipe, tmp_path / "store")
    again = _resolved(recipe, tmp_path / "store", makes=False)
    assert again.allocation == first.allocation
    assert not recipe.output.file.exists()


def test_a_library_that_is_missing_is_named_before_any_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda _name: None)
    monkeypatch.setattr("raq_client.building.build.prepare", lambda *_, **__: pytest.fail("work has begun"))
    with pytest.raises(InvalidInput, match=r"need OR-Tools and SciPy: pip install 'raq\[solver\]'"):
        built(read(folder, distinct_types=2), tmp_path / "store")


def test_a_changed_pin_quantizes_only_what_changed_and_equals_a_fresh_build(folder: Path, tmp_path: Path) -> None:
    first = built(read(folder), tmp_path / "store")
    assert (len(first.quantized), len(first.reused)) == (5, 0)
    changed = read(folder, "other", pin=["output.weight=Q8_0"])
    second = built(changed, tmp_path / "store")
    moved = changed_types(first.resolved, second.resolved)
    assert moved["output.weight"][1] == "Q8_0"
    assert set(second.quantized) == set(moved) - {n for n, (_, now) in moved.items() if now == "F16"}
    fresh = built(read(folder, "fresh", name="other", pin=["output.weight=Q8_0"]), tmp_path / "fresh")
    assert fresh.reused == ()
    assert fresh.written.sha256 == second.written.sha256
    assert fresh.written.path.read_bytes() == second.written.path.read_bytes()


def test_tensors_are_shared_by_recipes_but_not_when_their_source_or_importance_changed(
    folder: Path, tmp_path: Path
) -> None:
    built(read(folder), tmp_path / "store")
    again = built(read(folder, "again", output={"file": "again.gguf"}), tmp_path / "store")
    assert again.quantized == ()
    small_importance(folder / "small.gguf", folder / "other.gguf", seed=7)
    pins = [
        f"{name}={chosen}" for name, chosen in again.resolved.allocation.types.items() if chosen not in {"F32", "I32"}
    ]
    other = built(read(folder, "third", imatrix=["other.gguf"], pin=pins), tmp_path / "store")
    # Embedding and output head have no importance, so theirs did not change.
    assert set(other.reused) == {"token_embd.weight", "output.weight"}
    moved = project(tmp_path / "moved", seed=5)
    assert built(read(moved, pin=pins), tmp_path / "store").reused == ()


def test_without_the_store_everything_is_quantized_again(folder: Path, tmp_path: Path) -> None:
    first = built(read(folder), tmp_path / "store")
    again = built(read(folder), tmp_path / "store", reuse=False)
    assert (again.quantized, again.reused) == ((), ())
    assert again.written.sha256 == first.written.sha256


def test_a_build_has_the_same_bytes_in_another_folder(folder: Path, tmp_path: Path) -> None:
    first = built(read(folder), tmp_path / "store")
    elsewhere = tmp_path / "elsewhere" / "deep"
    shutil.copytree(folder, elsewhere)
    (elsewhere / "small.out.gguf").unlink()
    second = built(read(elsewhere), tmp_path / "other")
    assert second.written.sha256 == first.written.sha256


def _traces(path: Path) -> dict[str, float]:
    """Sums of mean squares over all columns, by block, computed here."""
    found: dict[str, float] = {}
    for name, entry in read_importance(path).entries.items():
        means = entry.sums / np.repeat(entry.counts, entry.sums.size // entry.counts.size)
        block = name.split(".")[1]
        found[block] = found.get(block, 0.0) + float(np.sum(means))
    return found


def test_a_rule_raises_the_first_block_of_its_ranking_and_is_kept_as_data(folder: Path, tmp_path: Path) -> None:
    small_importance(folder / "small.gguf", folder / "imatrix.gguf", blk_1=50.0)
    traces = _traces(folder / "imatrix.gguf")
    hottest = max(traces, key=lambda block: traces[block])
    assert hottest == "1"
    rule = {"rule": "trace", "unit": "block", "most": 1, "type": "Q8_0"}
    base = built(read(folder, "plain", base="Q4_K_M", budget=None, types_from="base"), tmp_path / "store")
    found = built(read(folder, base="Q4_K_M", budget=None, types_from="base", auto=[rule]), tmp_path / "store")
    moved = changed_types(base.resolved, found.resolved)
    assert moved == {"blk.1.attn_q.weight": (base.resolved.allocation.types["blk.1.attn_q.weight"], "Q8_0")}
    data = rules_data(found.resolved)
    assert data[0]["units"][0]["types"] == {"blk.1.attn_q.weight": "Q8_0"}
    assert data[0]["units"][0]["unit"] == "block 1"


@pytest.mark.parametrize("rule", ["price", "energy", "trace"])
def test_what_a_rule_raises_is_held_within_the_budget(folder: Path, tmp_path: Path, rule: str) -> None:
    recipe = read(folder, budget="6.5", auto=[{"rule": rule, "unit": "tensor", "most": 2, "type": "Q6_K"}])
    found = _resolved(recipe, tmp_path / "store")
    assert found.ledger.size <= found.ledger.capacity
    for unit in found.rules[0].units:
        for name in (*unit.types, *unit.kept):
            assert quant_type(found.allocation.types[name]).bits_per_weight >= Fraction(6)


def test_the_user_stands_above_a_rule(folder: Path, tmp_path: Path) -> None:
    rule = {"rule": "energy", "unit": "block", "most": 2, "type": "Q8_0"}
    for more in ({"budget": "7.5"}, {"base": "Q4_K_M", "budget": None, "types_from": "base"}):
        recipe = read(folder, pin=["blk.1.*q.weight=Q3_K"], auto=[rule], **more)
        assert _resolved(recipe, tmp_path / "store").allocation.types["blk.1.attn_q.weight"] == "Q3_K"


def test_contrast_and_sensitivity_rules_use_their_own_files(folder: Path, tmp_path: Path) -> None:
    small_importance(folder / "small.gguf", folder / "domain.gguf", blk_1=9.0)
    keys = {"base": "Q4_K_M", "budget": None, "types_from": "base"}
    rule = {"rule": "contrast", "type": "Q8_0", "domain": ["domain.gguf"], "general": ["imatrix.gguf"]}
    recipe = read(folder, auto=[rule], **keys)
    assert {folder / "domain.gguf", folder / "imatrix.gguf"} <= set(prepare(recipe, Workshop(tmp_path)).digests)
    contrast = _resolved(recipe, tmp_path / "store").rules[0].units
    assert [unit.unit for unit in contrast] == ["block 1"]
    profile = _profile(recipe, tmp_path / "store")
    row = [tensor.name for tensor in profile.tensors].index("blk.0.attn_q.weight")
    sensitivities = np.full(len(profile.tensors), 0.1)
    sensitivities[row] = 7.0
    save_profile(replace(profile, sensitivities=sensitivities), folder / "profile.json")
    rule = {"rule": "sensitivity", "unit": "tensor", "type": "Q8_0", "profile": "profile.json"}
    found = _resolved(read(folder, auto=[rule], **keys), tmp_path / "store").rules[0]
    assert [(unit.unit, unit.score) for unit in found.units] == [("blk.0.attn_q.weight", 7.0)]


def _profile(recipe: BuildRecipe, store: Path) -> Profile:
    return prepare(recipe, Workshop(store, cached=False)).inputs.profile()


def test_families_limit_what_a_rule_raises(folder: Path, tmp_path: Path) -> None:
    rule = {"rule": "energy", "unit": "block", "most": 2, "type": "Q8_0", "families": ["*_exps.weight"]}
    recipe = read(folder, base="Q4_K_M", budget=None, types_from="base", auto=[rule])
    assert set(_resolved(recipe, tmp_path / "store").rules[0].types) == {"blk.0.ffn_down_exps.weight"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"budget": "0.5"}, "does not fit its budget"),
        ({"auto": [{"unit": "block", "most": 3, "type": "Q8_0"}], "budget": "4.0"}, "with what its rules raise"),
        ({"auto": [{"type": "Q5_K"}]}, "auto rule 1 (price): Q5_K: is not among the types offered"),
        ({"auto": [{"families": ["blk.9.*"]}]}, "blk.9.* matches no tensor"),
        ({"pin": ["nothing=Q4_K"]}, "nothing matches no tensor"),
        ({"imatrix": ["none.gguf"]}, "none.gguf: can't be read"),
        ({"model": "none.gguf"}, "none.gguf: can't be opened"),
        ({"output": {"file": "small.gguf"}}, "is read by this command too"),
        ({"output": {"file": "no/folder.gguf"}}, "there is no folder"),
        ({"runtime": "ds4"}, "1,328 tensors only"),
    ],
)
def test_bad_recipes_are_refused_and_nothing_is_written(
    folder: Path, tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(InvalidInput) as refused:
        built(read(folder, **keys), tmp_path / "store")
    assert words in str(refused.value)
    assert [path for path in sorted(folder.iterdir()) if path.suffix != ".json"] == [
        path for path in before if path.suffix != ".json"
    ]


def test_importance_of_another_model_is_refused(folder: Path, tmp_path: Path, imatrix_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not a tensor of this model"):
        built(read(folder, imatrix=[str(imatrix_path)]), tmp_path / "store")


def test_only_files_of_this_very_build_are_replaced(folder: Path, tmp_path: Path) -> None:
    recipe = read(folder)
    built(recipe, tmp_path / "store")
    built(recipe, tmp_path / "store")
    with pytest.raises(InvalidInput, match="earlier build of this recipe with other types"):
        built(read(folder, budget="4.5"), tmp_path / "store")
    with pytest.raises(InvalidInput, match="exists"):
        built(read(folder, "new", output={"file": "small.out.gguf"}), tmp_path / "store")
    built(read(folder, budget="4.5"), tmp_path / "store", force=True)


def test_a_second_build_of_one_output_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe = read(folder)
    with output_lock(recipe.output.file), pytest.raises(InvalidInput, match="is being written by process"):
        built(recipe, tmp_path / "store")
    assert not recipe.output.file.exists()
    built(recipe, tmp_path / "store")


def test_a_full_disk_leaves_nothing_and_the_next_build_is_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read(folder)
    expected = built(read(folder, "small", output={"file": "whole.gguf"}), tmp_path / "other").written.sha256
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=50_000))
        with pytest.raises(InvalidInput, match="no room on the disk"):
            built(recipe, tmp_path / "store")
    assert not recipe.output.file.exists()
    assert built(recipe, tmp_path / "store").written.sha256 == expected


def _manifest(folder: Path, store: Path, **keys: Any) -> Path:
    found = built(read(folder, **keys), store, force=True)
    path = found.resolved.recipe.output.manifest_path
    write_manifest(build_manifest(found, ["raq-client", "recipe", "build"], None), path)
    return path


def test_the_manifest_has_every_input_and_the_resolved_plan(folder: Path, tmp_path: Path) -> None:
    path = _manifest(folder, tmp_path / "store", auto=[{"unit": "tensor", "type": "Q8_0"}])
    data = json.loads(path.read_text())
    assert data["inputs"] == {name: file_digest(folder / name) for name in ("small.gguf", "imatrix.gguf")}
    assert data["allocation"] == _types(folder / "small.out.gguf")
    assert data["outputs"]["small.out.gguf"]["sha256"] == file_digest(folder / "small.out.gguf")
    assert data["auto"][0]["units"][0]["types"]
    assert {"raq", "kernels", "effort"} == set(data["quantizer"])
    assert data["host"]["machine"]
    assert {"quantizing", "profile and plan"} <= set(data["seconds"])
    assert data["plan"]["termination"] == "optimal"
    assert read_build_manifest(path).recipe.model == Path("small.gguf")
    assert str(folder) not in path.read_text()


def _replayed(path: Path, store: Path) -> dict[str, bool]:
    how = HowToBuild(Workshop(store, cached=False), threads=1, reuse=False)
    return {one.what: one.equal for one in replay(path, how, LocalSolver()).compared}


def test_a_replay_ends_with_the_same_hashes_also_in_another_folder(folder: Path, tmp_path: Path) -> None:
    path = _manifest(folder, tmp_path / "store", auto=[{"unit": "tensor"}])
    assert all(_replayed(path, tmp_path / "store").values())
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    (elsewhere / "small.out.gguf").unlink()
    before = sorted(path.name for path in elsewhere.iterdir())
    assert all(_replayed(elsewhere / path.name, tmp_path / "none").values())
    assert sorted(path.name for path in elsewhere.iterdir()) == before
    assert not (tmp_path / "none").exists()


def test_a_replay_finds_what_differs(folder: Path, tmp_path: Path) -> None:
    path = _manifest(folder, tmp_path / "store")
    data = json.loads(path.read_text())
    data["outputs"]["small.out.gguf"]["sha256"] = "0" * 64
    path.write_text(json.dumps(data))
    assert [what for what, equal in _replayed(path, tmp_path / "s").items() if not equal] == ["small.out.gguf: SHA-256"]
    data["allocation"]["output.weight"] = "F16"
    path.write_text(json.dumps(data))
    assert "type of output.weight, solved again" in _replayed(path, tmp_path / "s")
    (folder / "imatrix.gguf").write_bytes((folder / "imatrix.gguf").read_bytes() + b"\0")
    with pytest.raises(InvalidInput, match=r"imatrix.gguf: has changed since the build"):
        _replayed(path, tmp_path / "s")
    (folder / "imatrix.gguf").unlink()
    with pytest.raises(InvalidInput, match=r"imatrix.gguf: can't be read"):
        _replayed(path, tmp_path / "s")
