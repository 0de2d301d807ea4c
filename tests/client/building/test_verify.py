"""Verifying: everything that would make a build fail is found before it, and nothing is measured or written."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from raq_client.building.verify import Finding, Level, verify_recipe
from raq_client.building.workshop import Workshop
from raq_client.files.manifest import file_digest
from raq_client.recipes.build_recipe import BuildRecipe
from raq_client.solver_client.local import LocalSolver
from support.builds import built, project, read, small_importance


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return project(tmp_path / "project")


def _verified(recipe: BuildRecipe, store: Path) -> dict[str, Finding]:
    return {one.what: one for one in verify_recipe(recipe, Workshop(store, cached=False), LocalSolver())}


def _failed(recipe: BuildRecipe, store: Path) -> list[Finding]:
    return [one for one in _verified(recipe, store).values() if one.level is Level.FAIL]


def test_a_good_recipe_passes_with_its_inputs_hashed(folder: Path, tmp_path: Path) -> None:
    recipe = read(folder)
    found = _verified(recipe, tmp_path / "store")
    assert _failed(recipe, tmp_path / "store") == []
    assert file_digest(folder / "small.gguf") in found[str(folder / "small.gguf")].text
    assert file_digest(folder / "imatrix.gguf") in found[str(folder / "imatrix.gguf")].text
    assert "at most" in found["disk"].text
    assert sorted(path.name for path in folder.iterdir()) == ["imatrix.gguf", "small.gguf", "small.json"]


def test_after_a_build_sizes_are_exact(folder: Path, tmp_path: Path) -> None:
    recipe = read(folder)
    size = built(recipe, tmp_path / "store").written.size
    found = _verified(recipe, tmp_path / "store")
    assert found["disk"].text.startswith(f"{size:,} bytes are needed")
    assert found["runtime"].text == "llama.cpp accepts the type of every tensor"


@pytest.mark.parametrize(
    ("keys", "what", "words"),
    [
        ({"imatrix": ["none.gguf"]}, "none.gguf", "can't be read"),
        ({"model": "none.gguf"}, "none.gguf", "can't be opened"),
        ({"budget": "0.5"}, "budget", "the smallest types take"),
        (
            {"pin": ["token_embd.weight=Q3_K"], "floor": ["token_embd.weight=Q4_K"]},
            "token_embd.weight",
            "no quant type",
        ),
        ({"pin": ["blk.0.attn_norm.weight=Q4_K"]}, "blk.0.attn_norm.weight", "can't use such tensors as Q4_K"),
        ({"pin": ["blk.0.attn_qq.weight=Q4_K"]}, "pin blk.0.attn_qq.weight=Q4_K", "matches no tensor"),
        (
            {"types": ["IQ2_XXS", "Q4_K"], "imatrix": None, "pin": ["blk.0.attn_q.weight=IQ2_XXS"]},
            "",
            "needs importance",
        ),
        ({"output": {"file": "no/out.gguf"}}, "no/out.gguf", "there is no folder"),
        ({"output": {"file": "small.gguf"}}, "small.gguf", "is read by this command too"),
        ({"text": ["none.txt"]}, "none.txt", "can't be read"),
        ({"base": "Q9"}, "Q9", "no recipe of that name"),
    ],
)
def test_every_fault_is_found(folder: Path, tmp_path: Path, keys: dict[str, Any], what: str, words: str) -> None:
    failed = _failed(read(folder, **keys), tmp_path / "store")
    assert failed
    assert any(one.what.endswith(what) and words in one.text for one in failed), failed


def test_importance_that_does_not_reach_every_tensor_is_counted(folder: Path, tmp_path: Path) -> None:
    found = _verified(read(folder), tmp_path / "store")["importance"]
    assert found.text.startswith("of 3 of 5 tensors")
    assert _verified(read(folder, imatrix=None), tmp_path / "store")["importance"].level is Level.WARN


def test_importance_of_another_model_fails(folder: Path, tmp_path: Path, imatrix_path: Path) -> None:
    failed = _failed(read(folder, imatrix=[str(imatrix_path)]), tmp_path / "store")
    assert any("of another model" in one.text or "not a tensor" in one.text for one in failed)


def test_too_little_disk_fails(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    assert [one.what for one in _failed(read(folder), tmp_path / "store")] == ["disk"]


def test_a_runtime_that_cannot_load_the_file_fails_as_soon_as_types_are_known(folder: Path, tmp_path: Path) -> None:
    built(read(folder), tmp_path / "store")
    failed = _failed(read(folder, "other", runtime="ds4"), tmp_path / "store")
    assert [one.what for one in failed] == ["ds4"]


def test_importance_still_to_be_collected_is_said(folder: Path, tmp_path: Path, model_path: Path) -> None:
    (folder / "text.txt").write_text("words " * 500)
    recipe = read(folder, model=str(model_path), imatrix=None, importance={"texts": ["text.txt"]})
    found = _verified(recipe, tmp_path / "store")
    assert found["importance"].text.startswith("will be collected")
    assert found["importance"].level is Level.OK
    small_importance(folder / "small.gguf", folder / "imatrix.gguf")
    refused = _failed(read(folder, imatrix=None, importance={"texts": ["text.txt"]}), tmp_path / "store")
    assert any("has no tokenizer" in one.text for one in refused)
