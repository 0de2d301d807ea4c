"""Ladders on a real model: real files, real paired checks, and an end where nothing is gained."""

import hashlib
import json
from pathlib import Path

import pytest

from support.commands import client
from support.gguf_files import Reader

LADDER = {
    "first.toml": 'name = "first"\n[base]\nmixture = "Q2_K"\n',
    "second.toml": 'name = "second"\n[base]\nrecipe = "first.toml"\n[[moves]]\ntensors = ["*ffn*"]\ntype = "Q6_K"\n',
    "third.toml": (
        'name = "third"\n[base]\nrecipe = "second.toml"\n'
        '[[moves]]\ntensors = ["*ffn_gate*"]\nbefore = ["Q6_K"]\ntype = "Q4_K"\n'
    ),
    "fourth.toml": 'name = "fourth"\n[base]\nrecipe = "third.toml"\n[[moves]]\ntensors = ["output.*"]\ntype = "Q8_0"\n',
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Four steps; the third takes back what the second gave."""
    for name, text in LADDER.items():
        (tmp_path / name).write_text('format = "raq-recipe-1"\n' + text)
    return tmp_path / "fourth.toml"


def test_a_ladder_ends_where_nothing_is_gained(
    recipe: Path, tmp_path: Path, model_path: Path, imatrix_path: Path, data: Path
) -> None:
    folder = tmp_path / "out"
    text = ("-t", data / "gsm8k.evaluation.txt", "--windows", 6, "--context", 256)
    result = client("ladder", model_path, "--recipe", recipe, "-i", imatrix_path, *text, "-o", folder, "--json")
    assert result.code == 0, result.err
    first, second, third, fourth = result.json["steps"]
    assert second["against_the_one_before"]["verdict"] == "better"
    assert second["kl"]["value"] < first["kl"]["value"]
    assert third["against_the_one_before"]["verdict"] != "better"
    # Three comparisons hold together with 95 %.
    assert third["against_the_one_before"]["confidence"] == pytest.approx(1 - 0.05 / 3)
    assert "file" not in fourth
    assert "the ladder ends here" in result.err
    for step in (first, second, third):
        written = {t.name: t.tensor_type.name for t in Reader(step["file"]).tensors}
        assert written == step["allocation"]
        assert sum(int(t.n_bytes) for t in Reader(step["file"]).tensors) == step["bytes"]
    assert first["bytes"] + second["spent_bytes"] - second["freed_bytes"] == second["bytes"]
    manifest = json.loads((folder / "ladder.json").read_text())
    digests = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in manifest["outputs"]}
    assert manifest["outputs"] == digests
    assert len(digests) == 3
    assert manifest["inputs"][str(model_path)] == hashlib.sha256(model_path.read_bytes()).hexdigest()
    assert manifest["steps"] == result.json["steps"]
    again = client("ladder", model_path, "--recipe", recipe, *text, "-o", folder)
    assert again.code == 2
    assert "give --force to replace it" in again.err


def test_budgets_make_a_ladder_of_optima(model_path: Path, imatrix_path: Path) -> None:
    found = client("ladder", model_path, "-b", "3.5", "-b", "4.5", "-b", "5.5", "-i", imatrix_path, "--json").json
    losses = [step["predicted_loss"] for step in found["steps"]]
    assert losses == sorted(losses, reverse=True)
    for budget, step in zip(("3.5", "4.5", "5.5"), found["steps"], strict=True):
        alone = client("solve", "-m", model_path, "-i", imatrix_path, "-b", budget, "--json").json
        assert step["allocation"] == alone["allocation"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give either a --recipe or a --budget"),
        (("-r", "ra1", "-b", "5"), "Give either a --recipe or a --budget"),
        (("-b", "0.5", "-b", "5"), "0.5: no allocation fits the budget"),
        (("-r", "Q4_K_M", "-o", "{o}"), "text"),
        (("-b", "5", "--against", "nearest"), "give --folder"),
        (("-b", "5", "--against", "Q9_X", "-o", "{o}"), "Q9_X"),
    ],
)
def test_mistakes_are_named(model_path: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = client("ladder", model_path, *(one.format(o=tmp_path / "out") for one in arguments))
    assert result.code == 2, result.out
    assert words in result.err


def test_nested_budgets_only_promote(model_path: Path, imatrix_path: Path) -> None:
    budgets = ("-b", "5.30", "-b", "5.31", "-b", "5.32", "-b", "5.33")
    free = client("ladder", model_path, *budgets, "-i", imatrix_path, "--json").json["steps"]
    nested = client("ladder", model_path, *budgets, "-i", imatrix_path, "--nested", "--json").json["steps"]
    assert [step["freed_bytes"] for step in nested] == [0] * 4
    assert sum(step["freed_bytes"] for step in free) > 0
    for one, other in zip(nested, free, strict=True):
        assert one["predicted_loss"] >= other["predicted_loss"] - 1e-12


def test_a_ladder_writes_the_card_of_its_steps(
    recipe: Path, tmp_path: Path, model_path: Path, imatrix_path: Path, data: Path
) -> None:
    folder = tmp_path / "out"
    text = ("-t", data / "gsm8k.evaluation.txt", "--windows", 2, "--context", 256)
    second = recipe.with_name("second.toml")
    made = (
        "-i",
        imatrix_path,
        *text,
        "-o",
        folder,
        "--card",
        "org/tiny",
        "--against",
        "Q3_K_M",
        "--against",
        "nearest",
    )
    result = client("ladder", model_path, "-r", second, *made, "--json")
    assert result.code == 0, result.err
    card = (folder / "README.md").read_text()
    for step in result.json["steps"]:
        row = next(line for line in card.splitlines() if line.startswith(f"| `{Path(step['file']).name}`"))
        assert f"{step['kl']['value']:.5f} ± {step['kl']['error']:.5f}" in row
        assert f"{step['bits_per_weight']:.3f}" in row
    assert "gsm8k.evaluation.txt, " in card
    assert str(tmp_path) not in card
    picture = (folder / "README.svg").read_text()
    mixtures = result.json["mixtures"]
    assert (picture.count("<circle"), picture.count("<path")) == (2, len(mixtures))
    sizes = [mixture["bytes"] for mixture in mixtures]
    assert sizes == sorted(sizes)
    for mixture in mixtures:
        assert f"| llama.cpp's {mixture['name']} |" in card
    assert not list(folder.glob(".raq-*"))
    witness = next(mixture for mixture in mixtures if mixture["name"] == "Q3_K_M")
    file_bytes, kl, perplexity = _by_its_own_commands("Q3_K_M", model_path, imatrix_path, text, tmp_path)
    assert (witness["file_bytes"], witness["kl"]["value"], witness["perplexity"]) == (file_bytes, kl, perplexity)
    again = client("ladder", model_path, "-r", second, *text, "-o", folder, "--card", "org/tiny")
    assert again.code == 2
    assert "README.md: exists" in again.err


def _by_its_own_commands(
    name: str, model: Path, imatrix: Path, text: tuple[object, ...], folder: Path
) -> tuple[int, float, float]:
    """File size, KL divergence and perplexity of a mixture, by the commands that make and check one."""
    types, file = folder / "types.json", folder / "mixture.gguf"
    types.write_text(client("base", name, model, "--json").out)
    assert client("quantize", model, "-a", types, "-i", imatrix, "-o", file).code == 0
    checked = client("check", file, "--model", model, *text, "--json").json["overall"]
    return file.stat().st_size, checked["kl"]["value"], checked["perplexity"]["value"]
