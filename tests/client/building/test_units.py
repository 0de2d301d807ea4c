"""Builds in units: whoever makes which part, on however many stores, the file has the bytes of one process."""

import json
from pathlib import Path
from typing import Any

import pytest

from raq_client.building.build import HowToBuild, build, build_part
from raq_client.building.units import FOUND_ONLY, BuildUnits
from raq_client.building.workshop import Workshop
from raq_client.recipes.build_recipe import BuildRecipe
from raq_client.solver_client.local import LocalSolver
from raq_client.units.journal import work_folder
from raq_client.units.unit import Part
from raq_solver.errors import InvalidInput
from support.builds import built, project, read, recipe, small_importance
from support.commands import client
from support.engine_models import TEXT
from support.tiny_models import CASES, write_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return project(tmp_path / "project")


def _how(store: Path) -> HowToBuild:
    return HowToBuild(Workshop(store, cached=False), threads=1)


def _part(given: BuildRecipe, store: Path, index: int, of: int) -> int:
    return build_part(given, _how(store), LocalSolver(), Part(index, of))


def _lines(output: Path) -> list[dict[str, Any]]:
    """The lines that have been written for the file, whoever wrote them."""
    found = [path.read_text().split("\n")[:-1] for path in work_folder(output).glob("*/*.jsonl")]
    return [json.loads(line) for lines in found for line in lines]


def test_four_parts_with_stores_of_their_own_write_the_bytes_of_one_process(folder: Path, tmp_path: Path) -> None:
    keys = {"pin": ["output.weight=Q6_K"], "auto": [{"unit": "tensor", "type": "Q8_0"}]}
    whole = built(read(folder, "whole", name="same", **keys), tmp_path / "one")
    given = read(folder, "parts", name="same", **keys)
    for index in (3, 0, 2, 1):
        _part(given, tmp_path / f"store {index}", index, 4)
    assert not given.output.file.exists()
    merging = BuildUnits(given.output.file, FOUND_ONLY)
    found = build(given, _how(tmp_path / "merged"), LocalSolver(), units=merging)
    assert given.output.file.read_bytes() == whole.written.path.read_bytes()
    assert (found.written.sha256, found.quantized) == (whole.written.sha256, whole.quantized)
    assert not work_folder(given.output.file).exists()


def test_a_killed_part_goes_on_and_a_build_without_parts_makes_what_is_missing(folder: Path, tmp_path: Path) -> None:
    whole = built(read(folder, "whole", name="same"), tmp_path / "one")
    given = read(folder, "parts", name="same")
    made = _part(given, tmp_path / "store", 1, 2)
    (path,) = (each for each in work_folder(given.output.file).glob("*/1-of-2-*.jsonl") if "sha256" in each.read_text())
    path.write_bytes(path.read_bytes()[:-9])  # killed while it wrote the last line
    assert _part(given, tmp_path / "store", 1, 2) == 1 < made
    found = built(given, tmp_path / "store")
    assert found.written.sha256 == whole.written.sha256
    assert given.output.file.read_bytes() == whole.written.path.read_bytes()
    assert not work_folder(given.output.file).exists()


def test_importance_is_collected_in_parts(tmp_path: Path) -> None:
    write_tiny(tmp_path / "small.gguf", CASES["llama, experts"])
    (tmp_path / "text.txt").write_text(TEXT[:14_000])
    importance = {"texts": ["text.txt"], "context": 32, "windows": 53, "fisher": 3}
    keys = {"imatrix": None, "importance": importance, "types": ["Q8_0", "Q4_0"], "budget": "7.0"}
    whole = built(read(tmp_path, "whole", name="same", **keys), tmp_path / "one")
    given = read(tmp_path, "parts", name="same", **keys)
    for index in range(2):
        _part(given, tmp_path / f"store {index}", index, 2)
    assert {line["unit"].split(" ")[0] for line in _lines(given.output.file)} >= {"windows", "fisher"}
    built(given, tmp_path / "merged")
    assert given.output.file.read_bytes() == whole.written.path.read_bytes()
    kept = [sorted((tmp_path / store / "importance").iterdir()) for store in ("one", "store 0", "merged")]
    assert len({path.read_bytes() for paths in kept for path in paths}) == 1


def test_parts_of_another_recipe_or_other_inputs_are_refused(folder: Path, tmp_path: Path) -> None:
    output = {"file": "out.gguf"}
    first = read(folder, output=output)
    _part(first, tmp_path / "store", 0, 2)
    other = read(folder, output=output, budget="6.0")
    with pytest.raises(InvalidInput, match=r"out\.gguf\.parts: has parts of another recipe; remove it"):
        _part(other, tmp_path / "store", 1, 2)
    small_importance(folder / "small.gguf", folder / "imatrix.gguf", seed=8)
    with pytest.raises(InvalidInput, match="has parts of other inputs"):
        _part(first, tmp_path / "store", 1, 2)
    merged = client("recipe", "build", recipe(folder, output=output), "--store", tmp_path / "store", "--merge")
    assert merged.code == 2
    assert "has parts of other inputs" in " ".join(merged.err.split())
    assert not first.output.file.exists()


def test_what_other_parts_have_left_does_not_stop_a_build(folder: Path, tmp_path: Path) -> None:
    output = {"file": "out.gguf"}
    _part(read(folder, output=output), tmp_path / "store", 0, 2)
    notes: list[str] = []
    given = read(folder, output=output, budget="6.0")
    found = build(given, _how(tmp_path / "store"), LocalSolver(), notes=notes.append)
    assert any("has parts of another recipe, which are not used" in note for note in notes)
    assert (
        found.written.sha256 == built(read(folder, "again", name="small", budget="6.0"), tmp_path / "x").written.sha256
    )


def test_recipes_are_the_same_wherever_they_write_and_their_files_lie(folder: Path, tmp_path: Path) -> None:
    given = read(folder)
    moved = read(project(tmp_path / "elsewhere" / "deep"), output={"file": "other.gguf"})
    assert given.digest() == moved.digest()
    assert given.digest() != read(folder, budget="5.1").digest()
    assert given.digest() != read(folder, pin=["output.weight=Q6_K"]).digest()


def test_the_command_in_parts(folder: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.gguf", tmp_path / "parts.gguf"
    common = ["recipe", "build", recipe(folder), "--store", tmp_path / "store"]
    assert client(*common, "-o", whole).code == 0
    first = client(*common, "-o", output, "--index", 2, "--of", 3, "--json")
    assert (first.code, first.json["index"], first.json["of"]) == (0, 2, 3)
    missing = client(*common, "-o", output, "--merge")
    assert missing.code == 2
    assert "units are not there" in missing.err
    assert "run parts 0, 1 of 3 again" in " ".join(missing.err.split())
    for index in (0, 1):
        assert client(*common, "-o", output, "--index", index, "--of", 3).code == 0
    merged = client(*common, "-o", output, "--merge", "--verify-share", "5%", "--json")
    assert merged.code == 0, merged.err
    assert output.read_bytes() == whole.read_bytes()
    assert client("recipe", "replay", f"{output}.manifest.json", "--store", tmp_path / "store", "--reuse").code == 0
    assert client(*common, "-o", output, "--merge", "--index", 0, "--of", 1).code == 2
