import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from raq_client.models.file_types import file_type
from raq_client.models.read_table import read_table
from raq_client.models.table import ModelTable
from raq_client.recipes.mixtures import mixture, tensor_bytes
from raq_client.recipes.overrides import override_text, overrides_for, read_overrides, resolve
from raq_client.recipes.recipe_file import Recipe, ladder, presets, read_recipe
from raq_client.recipes.steps import carry_out, types_in, verify
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import quant_type
from support.gguf_files import MODEL_4M
from support.paths import DATA

HEAD = 'format = "raq-recipe-1"\nname = "mine"\n'


def _write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(HEAD + text)
    return path


@pytest.fixture
def table() -> ModelTable:
    return read_table(MODEL_4M)


@pytest.fixture
def qwen36(shapes: Path) -> ModelTable:
    return read_table(shapes / "qwen36_27b_tensors.csv")


@pytest.mark.parametrize(
    ("name", "size", "bits", "moves"),
    [
        ("ra-base", 18_299_242_496, 5.4430, 0),
        ("ra1", 18_395_334_656, 5.4715, 20),
        ("ra2", 18_690_861_056, 5.5594, 12),
        ("ra3", 19_115_493_376, 5.6858, 7),
        ("ra4", 20_531_070_976, 6.1068, 48),
    ],
)
def test_the_shipped_ladder_is_the_article_recomputed(
    qwen36: ModelTable, name: str, size: int, bits: float, moves: int
) -> None:
    step, differences = verify(read_recipe(name), qwen36)
    assert differences == ()
    assert (step.size, round(float(step.bits_per_weight), 4), len(step.moves)) == (size, bits, moves)


def test_steps_cost_what_the_article_should_have_said(qwen36: ModelTable) -> None:
    steps = carry_out(read_recipe("ra4"), qwen36)
    assert [step.name for step in steps] == ["ra-base", "ra1", "ra2", "ra3", "ra4"]
    deltas = [round(float(two.bits_per_weight - one.bits_per_weight), 5) for one, two in pairwise(steps)]
    assert deltas == [0.02858, 0.08790, 0.12630, 0.42105]
    assert (steps[1].freed, steps[1].spent) == (111_411_200, 207_503_360)
    assert all(two.size - one.size == two.spent - two.freed for one, two in pairwise(steps))


def test_as_llama_quantize_lays_it_the_ladder_is_larger(qwen36: ModelTable) -> None:
    recipe = read_recipe("ra-base")
    shifted = recipe.model_copy(update={"base": recipe.base.model_copy(update={"counting": "llama.cpp"})})
    assert carry_out(shifted, qwen36)[-1].size == 18_304_649_216


def test_the_shipped_base_is_the_witness(qwen36: ModelTable) -> None:
    names = [tensor.name for tensor in qwen36.tensors]
    witness = read_overrides((DATA / "ra" / "base_195_overrides.txt").read_text())
    shipped = read_overrides("\n".join(read_recipe("ra-base").base.overrides))
    assert resolve(shipped, names) == resolve(witness, names)


def test_the_shipped_moves_are_the_witness(qwen36: ModelTable) -> None:
    rows = list(csv.DictReader((DATA / "ra" / "ra_steps.csv").read_text().splitlines()))
    moved = [(step.name.upper(), move) for step in carry_out(read_recipe("ra4"), qwen36) for move in step.moves]
    assert {(name, move.tensor, move.after) for name, move in moved} == {
        (row["step"].split("-")[0], row["tensor"], row["to"]) for row in rows
    }


def test_every_mixture_is_a_recipe(table: ModelTable) -> None:
    (step,) = carry_out(read_recipe("q4_k_m"), table)
    assert step.types == mixture(table, file_type("Q4_K_M"))
    assert step.size == tensor_bytes(step.types)


def test_presets_are_described() -> None:
    assert set(presets()) == {"ra-base", "ra1", "ra2", "ra3", "ra4"}
    assert all(presets().values())


def test_a_recipe_of_ones_own(tmp_path: Path, table: ModelTable) -> None:
    _write(tmp_path, '[base]\nmixture = "Q4_K_M"\npure = true\n[[moves]]\ntensors = ["output.weight"]\ntype = "Q8_0"\n')
    child = tmp_path / "child.toml"
    child.write_text(
        'format = "raq-recipe-1"\nname = "child"\n[base]\nrecipe = "mine.toml"\n'
        '[[moves]]\ntensors = ["blk.{0..1}.ffn_*.weight"]\nbefore = ["Q4_K"]\ntype = "Q3_K"\nreason = "try"\n'
        '[expected]\nbits_per_weight = "5.1"\n'
    )
    base, last = carry_out(read_recipe(child), table)
    assert [move.tensor for move in base.moves] == ["output.weight"]
    assert base.spent > 0 == base.freed
    assert len(last.moves) == 6
    assert last.freed == base.size - last.size > 0
    assert {move.reason for move in last.moves} == {"try"}
    _, (difference,) = verify(read_recipe(child), table)
    assert difference.where == "bits_per_weight"


def test_a_base_can_be_a_file(tmp_path: Path, table: ModelTable) -> None:
    (tmp_path / "types.txt").write_text(override_text(overrides_for(mixture(table, file_type("Q3_K_S")))))
    recipe = read_recipe(_write(tmp_path, '[base]\nfile = "types.txt"\n'))
    assert carry_out(recipe, table)[0].types == mixture(table, file_type("Q3_K_S"))
    own = read_recipe(_write(tmp_path, f'[base]\nfile = "{MODEL_4M}"\n', "own.toml"))
    assert carry_out(own, table)[0].types == {tensor: tensor.source_type for tensor in table.tensors}


def test_a_base_of_another_model_is_refused(table: ModelTable) -> None:
    others = tuple(replace(tensor, name=f"other.{tensor.name}") for tensor in table.tensors)
    with pytest.raises(InvalidInput) as error:
        types_in(DATA / "wiki-math-4M-f16.gguf", replace(table, tensors=others))
    assert len(error.value.faults) == len(table.tensors)


def test_json_says_the_same(tmp_path: Path) -> None:
    recipe = read_recipe("ra2")
    path = tmp_path / "again.json"
    path.write_text(recipe.as_json())
    assert read_recipe(path) == recipe


def test_a_recipe_for_another_model_is_refused(table: ModelTable) -> None:
    with pytest.raises(InvalidInput) as error:
        carry_out(read_recipe("ra4"), table)
    assert len(error.value.faults) == 3
    assert "architecture qwen35; wiki-math-4M has llama" in str(error.value)


def test_every_impossible_move_is_named(tmp_path: Path, table: ModelTable) -> None:
    moves = [
        ("blk.0.attn_q.weight", "Q6_K", '["Q8_0"]'),
        ("blk.{3..4}.attn_q.weight", "Q6_K", "[]"),
        ("blk.0.attn_norm.weight", "Q6_K", "[]"),
    ]
    text = "".join(
        f'[[moves]]\ntensors = ["{tensors}"]\ntype = "{name}"\nbefore = {before}\n' for tensors, name, before in moves
    )
    with pytest.raises(InvalidInput) as error:
        carry_out(read_recipe(_write(tmp_path, '[base]\nmixture = "Q4_K_M"\n' + text)), table)
    assert [fault.where for fault in error.value.faults] == ["mine, move 1", "mine, move 2", "mine, move 3"]
    assert "is Q4_K until then, expected Q8_0" in str(error.value)
    assert "blk.4.attn_q.weight matches no tensor" in str(error.value)
    assert "stays F32" in str(error.value)


def test_every_fault_of_a_file_is_named(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        'descripton = "x"\n[base]\nmixture = "Q4_K_X"\n[[moves]]\ntensors = ["a"]\ntype = "Q9_K"\n'
        "[[moves]]\ntensors = []\ntype = 'Q4_K'\ntypo = 1\n",
    )
    with pytest.raises(InvalidInput) as error:
        read_recipe(path)
    text = str(error.value)
    assert "descripton: no such key (did you mean description?)" in text
    assert "moves.1.typo: no such key (did you mean type?)" in text
    assert "Q4_K_X: no such mixture" in text
    assert "Q9_K: no such quant type" in text


@pytest.mark.parametrize(
    "base",
    ['mixture = "Q4_K"\nrecipe = "ra1"', "importance = true", 'file = "x.gguf"\noverrides = ["a=Q4_K"]'],
)
def test_a_base_is_exactly_one_thing(tmp_path: Path, base: str) -> None:
    with pytest.raises(InvalidInput, match=r"exactly one of|to a mixture only"):
        read_recipe(_write(tmp_path, f"[base]\n{base}\n"))


def test_a_circle_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, '[base]\nrecipe = "mine.toml"\n')
    with pytest.raises(InvalidInput, match="leads back to it"):
        ladder(read_recipe(path))


def test_an_unknown_name_is_told_its_neighbours() -> None:
    with pytest.raises(InvalidInput, match="did you mean ra1"):
        read_recipe("ra11")
    with pytest.raises(InvalidInput, match="can't be read"):
        read_recipe("absent.toml")


def test_recipes_are_values() -> None:
    assert read_recipe("ra1") == read_recipe("ra1") != read_recipe("ra2")
    assert isinstance(read_recipe("ra1"), Recipe)
    assert quant_type(read_recipe("ra3").moves[0].type).name == "F16"
