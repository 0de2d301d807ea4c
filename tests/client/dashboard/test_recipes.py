"""Recipes written by the form: no key is lost, nothing leads out of the folder, raq reads it before it is saved."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.dashboard.folder import Folder
from raq_client.dashboard.recipes import recipe_command, recipe_text, require_inside
from raq_client.dashboard.refusal import Refusal
from raq_client.recipes.build_recipe import read_build_recipe
from support.dashboards import Dashboard, running
from support.gguf_files import named_model
from support.paths import DATA

KEYS = st.sampled_from(["format", "name", "pin", "check", "output", "unknown"])
PLAIN = st.one_of(st.text("ab*=.\"'é", max_size=5), st.integers(0, 9), st.booleans(), st.floats(0, 9))
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=2), st.dictionaries(KEYS, PLAIN, max_size=2))
CONTENT = st.dictionaries(KEYS, VALUES, max_size=5)


@given(CONTENT, CONTENT)
def test_whatever_was_there_the_text_has_exactly_these_keys(before: dict[str, Any], data: dict[str, Any]) -> None:
    text = recipe_text("r.toml", "", before)
    assert tomllib.loads(text) == before
    assert tomllib.loads(recipe_text("r.toml", text, data)) == data
    assert json.loads(recipe_text("r.json", "", data)) == data


def test_a_real_recipe_keeps_its_comments_where_nothing_changes() -> None:
    text = (DATA / "wiki-math-4M.recipe.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    assert recipe_text("r.toml", text, data) == text
    changed = recipe_text("r.toml", text, data | {"budget": "4.5"})
    assert changed == text.replace('budget = "5.0"', 'budget = "4.5"')


@pytest.mark.parametrize(
    "data",
    [
        {"model": "/etc/passwd"}, {"output": {"file": "../x.gguf"}}, {"importance": {"texts": ["../../secret.txt"]}},
        {"auto": [{"general": ["/x.gguf"]}]}, {"base": "away/x.gguf"}, {"text": ["a\0b"]}, {"model": "-o"},
    ],
)  # fmt: skip
def test_what_leads_out_of_the_folder_is_refused(tmp_path: Path, data: dict[str, Any]) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "away").symlink_to(tmp_path)
    with pytest.raises(Refusal):
        require_inside(Folder(tmp_path / "root"), "r.toml", data)


def test_what_recipes_say_otherwise_is_not(tmp_path: Path) -> None:
    data = tomllib.loads((DATA / "wiki-math-4M.recipe.toml").read_text(encoding="utf-8"))
    require_inside(Folder(tmp_path), "r.toml", data | {"pin": ["blk.{0..3}.*=Q6_K"], "description": "1\n2 / ../3"})


def test_the_files_of_a_build_are_those_that_the_recipe_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    recipe = tmp_path / "sub" / "r.toml"
    recipe.write_text((DATA / "wiki-math-4M.recipe.toml").read_text())
    (tmp_path / "sub" / "wiki-math-4M-f16.gguf").write_bytes(b"")
    outputs = read_build_recipe(recipe).output
    command = recipe_command(Folder(tmp_path), "sub/r.toml", force=False)
    assert [tmp_path / name for name in command.writes] == [outputs.file, outputs.manifest_path]
    assert command.reasons == ()
    outputs.file.write_bytes(b"")
    assert "exists" in recipe_command(Folder(tmp_path), "sub/r.toml", force=False).reasons[0]
    assert recipe_command(Folder(tmp_path), "sub/r.toml", force=True).reasons == ()
    recipe.write_text("output = 3")
    assert "not a build recipe" in recipe_command(Folder(tmp_path), "sub/r.toml", force=False).reasons[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("recipes") / "models"
    found.mkdir()
    named_model(found / "m.gguf", "m")
    return found


@pytest.fixture(scope="module")
def dashboard(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with running(root, tmp_path_factory.mktemp("cache")) as found:
        yield found


def test_a_recipe_is_saved_once_raq_reads_it_and_replaced_only_when_told_to(dashboard: Dashboard, root: Path) -> None:
    data = {"format": "raq-recipe-2", "name": "x", "model": "m.gguf", "budget": "8", "output": {"file": "o.gguf"}}
    wrong = dashboard.post("/api/recipe", {"name": "r.toml", "data": data | {"bugdet": "5"}})
    assert wrong.status == 400
    assert wrong.json["error"].startswith("r.toml: bugdet: no such key (did you mean budget?)")
    assert [each["file"] for each in dashboard.get("/api/folder")] == ["m.gguf"]
    assert dashboard.post("/api/recipe", {"name": "r.toml", "data": data}).json["saved"]
    other = data | {"budget": "9"}
    asked = dashboard.post("/api/recipe", {"name": "r.toml", "data": other}).json
    assert (asked["saved"], '+budget = "9"' in asked["difference"]) == (False, True)
    assert dashboard.post("/api/recipe", {"name": "r.toml", "data": other, "replace": True}).json["saved"]
    text = (root / "r.toml").read_text(encoding="utf-8")
    assert "# PATTERN=TYPE" in text  # a new file has the comments of `recipe new`
    assert (
        text.index('model = "m.gguf"')
        < text.index('budget = "9"')
        < text.index("# imatrix = ")
        < text.index("[output]")
    )
    found = {each["file"]: each for each in dashboard.get("/api/folder")}["r.toml"]
    assert (found["is_build"], found["recipe"]["budget"]) == (True, "9")
    assert dashboard.get("/api/schema")["properties"].keys() >= set(data)
    command = dashboard.post("/api/preflight", {"actions": {"recipe": {"recipe": "r.toml"}}}).json["recipe"]
    assert command["command"] == "raq-client recipe build r.toml --json"
    assert command["writes"] == ["o.gguf", "o.gguf.manifest.json"]
