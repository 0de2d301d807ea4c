"""Bases and recipes on tables without weights, against published sizes; the largest context beside weights."""

import json
from pathlib import Path

import pytest

from raq_client.recipes.recipe_file import read_recipe
from support.commands import client

QWEN = "qwen36_27b_tensors.csv"


@pytest.mark.parametrize(
    ("name", "table", "size"),
    [
        ("Q4_K_M", QWEN, 16_536_406_016),
        ("q4_k_m", "qwen36_27b.bf16.map", 16_536_406_016),
        ("ra-base", QWEN, 18_299_242_496),
        ("ra4", QWEN, 20_531_070_976),
    ],
)
def test_a_base_has_its_published_size(shapes: Path, name: str, table: str, size: int) -> None:
    assert client("base", name, shapes / table, "--json").json["bytes"] == size


def test_both_ways_of_counting_and_pure(shapes: Path, data: Path) -> None:
    lines = ("--overrides", data / "ra" / "base_195_overrides.txt")
    shifted = client("base", "Q4_K_M", shapes / QWEN, *lines, "--json").json
    resolved = client("base", "Q4_K_M", shapes / QWEN, *lines, "--counting", "resolved", "--json").json
    assert (shifted["bytes"], resolved["bytes"]) == (18_304_649_216, 18_299_242_496)
    pure = client("base", "Q6_K", shapes / QWEN, "--pure")
    assert "6.5650 bpw" in pure.out
    assert pure.code == 0


def test_the_ladder_is_verified_step_by_step(shapes: Path) -> None:
    result = client("recipe", "verify", "ra4", shapes / QWEN, "--json")
    assert result.code == 0
    assert result.json["differs"] == []
    found = {
        step["name"]: (step["spent_bytes"] - step["freed_bytes"], len(step["moves"])) for step in result.json["steps"]
    }
    assert found == {
        "ra-base": (0, 0),
        "ra1": (96_092_160, 20),
        "ra2": (295_526_400, 12),
        "ra3": (424_632_320, 7),
        "ra4": (1_415_577_600, 48),
    }
    text = client("recipe", "verify", "ra4", shapes / QWEN).out
    for bits in ("5.4430", "5.4715", "5.5594", "5.6858", "6.1068"):
        assert bits in text


def test_a_recipe_that_says_something_else_is_not_passed(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    recipe = json.loads(client("recipe", "show", "ra1", "--json").out)
    path.write_text(json.dumps(recipe | {"name": "mine", "expected": {"tensor_bytes": 1}}))
    result = client("recipe", "verify", path, shapes / QWEN)
    assert result.code == 6
    assert "mine: tensor_bytes: expected 1, found 18,395,334,656" in result.err


def test_what_base_prints_is_an_allocation(model_path: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(client("base", "Q5_K_M", model_path, "--json").out)
    again = client("base", plan, model_path, "--json").json
    assert again["allocation"] == json.loads(plan.read_text())["allocation"]
    assert "output" in client("base", "Q5_K_M", model_path).out


def test_recipes_are_listed_and_shown() -> None:
    listed = client("recipe", "list", "--json").json
    assert set(listed["recipes"]) >= {"ra-base", "ra1", "ra2", "ra3", "ra4"}
    assert "Q4_K_M" in listed["mixtures"]
    assert "ra3" in client("recipe", "list").out
    shown = client("recipe", "show", "ra2").out
    for words in ("starts from ra1", "7 overrides laid over it", "blk.63.ffn_down.weight", "Q8_0"):
        assert words in shown
    assert client("recipe", "show", "ra2", "--json").out == read_recipe("ra2").as_json()


def test_the_largest_context_beside_an_allocation(shapes: Path) -> None:
    arguments = ("vram", shapes / QWEN, "--base", "ra3", "--vram", "24GiB", "--kv", "q4_0", "--overhead", "3GiB")
    found = client(*arguments, "--json").json
    terms = {term["name"]: term["size"] for term in found["memory"]["terms"]}
    assert terms["weights on the device"] == 19_115_493_376
    assert terms["keys and values"] == found["context"] * 18_432
    assert terms["recurrent state"] == 156_893_184
    # What is left over would not hold another 256 tokens.
    assert 0 <= found["left"] < 256 * 18_432
    hosted = client(*arguments, "--host", "token_embd.weight", "--json").json
    assert hosted["on_host"] == {"token_embd.weight": 715_161_600}
    assert hosted["context"] - found["context"] == pytest.approx(715_161_600 / 18_432, abs=256)


def test_a_context_is_never_longer_than_the_model_was_made_for(model_path: Path) -> None:
    result = client("vram", model_path, "--vram", "1GiB", "--kv", "q8_0")
    assert "largest context  512 tokens, the longest the model was made for" in result.out
    assert "no context fits" in client("vram", model_path, "--vram", "9MiB").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("base", "Q4_K_X", "{m}"), "did you mean Q4_K_S, Q4_K_M"),
        (("base", "Q4_K_M", "no.gguf"), "no.gguf: can't be opened"),
        (("base", "Q4_K_M", "model.bin"), "not a table of tensors"),
        (("base", "ra1", "{m}", "--pure"), "applied to a mixture only"),
        (("recipe", "show", "ra9"), "no recipe of that name and no such file (did you mean ra4"),
        (("vram", "{m}"), "how much memory is there"),
        (("vram", "{m}", "--vram", "1GiB", "--host", "nothing"), "nothing matches no tensor"),
    ],
)
def test_mistakes_are_named(model_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = client(*(one.format(m=model_path) for one in arguments))
    assert result.code == 2, result.out
    assert words in result.err
