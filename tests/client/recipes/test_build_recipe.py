"""Build recipes: nothing is lost, unknown keys have near misses, and what contradicts itself is refused."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from raq_client.files.user_files import parse_user_text
from raq_client.recipes.build_recipe import (
    FORMAT,
    AutoRule,
    Benchmarks,
    BuildRecipe,
    Card,
    CheckSettings,
    Collecting,
    read_any_recipe,
    read_build_recipe,
    recipe_schema,
)
from raq_client.recipes.new_recipe import new_recipe
from raq_client.recipes.recipe_file import Recipe
from raq_solver.errors import InvalidInput

STATED = {"format": FORMAT, "name": "mine", "model": "m.gguf", "budget": "5.0", "output": {"file": "out.gguf"}}

texts = st.text(min_size=1, max_size=12)
names = st.from_regex(r"[a-z]{1,6}\.(txt|gguf)", fullmatch=True)


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


rules = optional(
    rule=st.sampled_from(["price", "energy", "trace"]),
    unit=st.sampled_from(["block", "tensor", "experts", "role"]),
    most=st.integers(1, 50),
    type=st.sampled_from(["Q4_K", "Q8_0", "IQ2_XXS"]),
    families=st.lists(texts, max_size=2),
    domain=st.lists(names, max_size=2),
)


def _locked(more: dict[str, Any]) -> dict[str, Any]:
    """The keys with a lock, where importance is of benchmarks."""
    asked = more.get("importance", {}).get("benchmarks")
    return {"benchmarks": {"lock": "l.gguf", "folder": "f.gguf"}} | more if asked else more


further = optional(
    description=st.text(max_size=20),
    text=st.lists(names, max_size=2),
    types=st.lists(st.sampled_from(["auto", "k", "Q4_K"]), max_size=2),
    rows=st.integers(2, 500),
    pin=st.lists(texts, max_size=3),
    floor=st.lists(texts, max_size=2),
    region=st.lists(texts, max_size=2),
    distinct_types=st.integers(1, 9),
    memory=optional(vram=st.just("24GiB"), context=st.just("32k"), parallel=st.integers(1, 4)),
    auto=st.lists(rules, max_size=3),
    importance=st.fixed_dictionaries(
        {"texts": st.lists(names, min_size=1, max_size=2)},
        optional={
            "benchmarks": st.lists(texts, max_size=2),
            "answers": st.booleans(),
            "cap": st.integers(1, 9),
            "windows": st.integers(1, 99),
            "output_head": st.booleans(),
            "fisher": st.integers(0, 9),
        },
    ),
    benchmarks=st.fixed_dictionaries(
        {"lock": names, "folder": names},
        optional={"registry": names, "names": st.lists(texts, max_size=2), "limit": st.integers(1, 9)},
    ),
    card=st.fixed_dictionaries({"file": names, "base_model": st.just("org/model")}, optional={"by": texts}),
    check=optional(windows=st.integers(2, 99), max_kl=st.floats(1e-6, 10)),
    demote_below=st.floats(0.01, 1),
    effort=st.sampled_from(["fast", "best"]),
    runtime=st.sampled_from(["llama.cpp", "ds4"]),
    types_from=st.just("solver"),
).map(_locked)


@given(further)
def test_no_key_is_lost_on_the_way_through_toml_and_json(more: dict[str, Any]) -> None:
    recipe = BuildRecipe.model_validate(STATED | more)
    assert recipe.as_data() == json.loads(json.dumps(STATED | more))
    for text, where in ((recipe.as_toml(), "r.toml"), (recipe.as_json(), "r.json")):
        again = parse_user_text(text, BuildRecipe, where, "a recipe")
        assert again == recipe
        assert again.as_data() == recipe.as_data()


@given(further)
def test_a_recipe_moved_to_another_folder_and_back_is_the_same(more: dict[str, Any]) -> None:
    recipe = BuildRecipe.model_validate(STATED | more)
    there = Path("/somewhere/else")
    moved = recipe.beside(there)
    assert moved.model == there / "m.gguf"
    assert moved.relative_to(there).as_data() == recipe.as_data()


def _read(folder: Path, text: str, name: str = "r.toml") -> BuildRecipe:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_build_recipe(path)


HEAD = f'format = "{FORMAT}"\nname = "mine"\nmodel = "m.gguf"\noutput = {{file = "out.gguf"}}\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('budgte = "5"', "budgte: no such key (did you mean budget"),
        ('budget = "5"\n[[auto]]\nfamilis = ["x"]', "auto.0.familis: no such key (did you mean families"),
        ('budget = "5"\n[check]\nmax_kll = 1', "check.max_kll: no such key (did you mean max_kl"),
        ('budget = "5"\n[[auto]]\nrule = "warmth"', "auto.0.rule"),
        ('budget = "5"\n[[auto]]\ntype = "Q4_KK"', "did you mean Q4_K"),
        ('budget = "5"\n[[auto]]\nrule = "contrast"', "give the importance of general text"),
        ('budget = "5"\n[[auto]]\nrule = "sensitivity"', "give its profile"),
        ("", "how large may it be"),
        ('budget = "5"\nprofile = "p.json"', "profile has no weights"),
        ('budget = "5"\nimatrix = ["a"]\nimportance = {texts = ["b"]}', "give one of them"),
        ('types_from = "base"', "needs a base"),
        ('base = "Q4_K_M"\nbudget = "5"\ntypes_from = "base"', "budget: for the solver"),
        ('budget = "5"\nimportance = {texts = []}', "importance.texts"),
        ('budget = "5"\nimportance = {benchmarks = ["gsm8k"]}', "give benchmarks.lock"),
        ('budget = "5"\n[benchmarks]\nlock = "l.json"', "benchmarks.folder"),
        ('budget = "5"\n[card]\nfile = "README.md"', "card.base_model is missing"),
        ("budget = [", "can't be read as a build recipe"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        _read(tmp_path, HEAD + text)
    assert words in str(refused.value)


def test_a_recipe_without_its_model_or_format_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="model is missing"):
        _read(tmp_path, HEAD.replace('model = "m.gguf"\n', 'budget = "5"\n'))
    with pytest.raises(InvalidInput, match="format: not a build recipe: Field required"):
        _read(tmp_path, HEAD.replace(f'format = "{FORMAT}"\n', 'budget = "5"\n'))


def test_both_kinds_of_recipes_are_told_apart(tmp_path: Path) -> None:
    assert isinstance(read_any_recipe("ra4"), Recipe)
    assert isinstance(read_any_recipe("Q4_K_M"), Recipe)
    other = tmp_path / "types.json"
    found = read_any_recipe("ra1")
    assert isinstance(found, Recipe)
    other.write_text(found.as_json())
    assert isinstance(read_any_recipe(other), Recipe)
    with pytest.raises(InvalidInput, match="states types"):
        read_build_recipe(other)
    assert isinstance(read_any_recipe(tmp_path / _name(tmp_path)), BuildRecipe)


def _name(folder: Path) -> str:
    (folder / "build.json").write_text(json.dumps(STATED))
    return "build.json"


@pytest.mark.parametrize("name", ["new.toml", "new.json"])
def test_a_new_recipe_is_valid_and_names_every_key(tmp_path: Path, name: str) -> None:
    text = new_recipe(tmp_path / name, Path("model.gguf"))
    recipe = _read(tmp_path, text, name)
    assert recipe.model == tmp_path / "model.gguf"
    assert recipe.output.file == tmp_path / "new.gguf"
    if name == "new.toml":
        lines = [line.removeprefix("# ") for line in text.splitlines()]
        keys = {line.partition(" = ")[0] for line in lines if " = " in line}
        expected = {*BuildRecipe.model_fields, *Collecting.model_fields, *AutoRule.model_fields}
        expected |= {*CheckSettings.model_fields, *Benchmarks.model_fields, *Card.model_fields}
        assert expected - {"memory", "profile", "importance", "auto", "check", "card", "output"} <= keys


def test_every_example_of_a_new_recipe_can_be_taken_as_it_is() -> None:
    lines = new_recipe(Path("new.toml"), None).splitlines()
    table = ""
    parts: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
        "[importance]": (Collecting, {"texts": ["t"]}),
        "[[auto]]": (AutoRule, {}),
        "[check]": (CheckSettings, {}),
        "[benchmarks]": (Benchmarks, {"lock": "l", "folder": "f"}),
        "[card]": (Card, {"file": "f"}),
    }
    for line in lines:
        bare = line.removeprefix("# ")
        if bare.startswith("["):
            table = bare
        elif line.startswith("# ") and " = " in bare:
            content = tomllib.loads(f"{table}\n{bare}")
            assert content, line
            if table in parts:
                model, needed = parts[table]
                values = content[table.strip("[]")]
                found = values[0] if isinstance(values, list) else values
                model.model_validate(needed | found)


def test_the_schema_has_every_key_and_no_others() -> None:
    schema = recipe_schema()
    assert set(schema["properties"]) == set(BuildRecipe.model_fields)
    assert schema["additionalProperties"] is False
    assert {"format", "name", "output"} <= set(schema["required"])
    assert set(schema["$defs"]["AutoRule"]["properties"]) == set(AutoRule.model_fields)
    assert all(table["additionalProperties"] is False for table in schema["$defs"].values())
    assert all("description" in one for one in schema["properties"].values())
