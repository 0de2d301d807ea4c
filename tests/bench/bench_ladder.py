"""A ladder on a real model: base, ratio moves, optima, and a step by hand, each written and told from the one before.

    pytest -m bench -s tests/bench/bench_ladder.py

GSM8K is the domain, WikiText general text; checked on GSM8K's test split, which nothing has seen.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.machine import header

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

WINDOWS = 24


def client(*arguments: object) -> str:
    """`raq-client ARGUMENTS`; what it prints."""
    command = [sys.executable, "-c", "from raq_client.cli.app import main; main()", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_a_ladder_of_the_larger_model(shared_data: Path, tmp_path: Path) -> None:
    model = shared_data / "models" / "wiki-math-18M-f16.gguf"
    domain, general = (shared_data / "imatrix" / f"wiki-math-18M.{name}.imatrix.gguf" for name in ("gsm8k", "wiki"))
    facts = ("-m", model, "-i", domain)
    ratio = ("--moves", "ratio", "--domain", domain, "--general", general)
    size = json.loads(client("base", "Q4_K_M", model, "--json"))["bytes"]
    _keep(tmp_path, "0-base", '{"format": "raq-recipe-1", "base": {"mixture": "Q4_K_M"}}')
    steps = (
        ("1-ratio", ("--base", "0-base", *ratio, "-b", f"{size * 101 // 100}B")),
        ("2-optimum", ("--base", "1-ratio", "-b", f"{size * 101 // 100}B")),
        ("3-more", ("--base", "2-optimum", "-b", f"{size * 105 // 100}B")),
    )
    for name, arguments in steps:
        _keep(tmp_path, name, client("solve", *facts, *_paths(tmp_path, arguments), "--format", "recipe"))
    by_hand = {
        "format": "raq-recipe-1",
        "base": {"recipe": "3-more.json"},
        "moves": [{"tensors": ["blk.*.attn_output.weight"], "type": "F16", "reason": "as RA4 does with ssm_out"}],
    }
    _keep(tmp_path, "4-by-hand", json.dumps(by_hand))
    text = shared_data / "text" / "gsm8k.test.txt"
    header(f"wiki-math-18M, {WINDOWS} windows of 512 tokens of GSM8K test")
    hand, files = tmp_path / "4-by-hand.json", tmp_path / "files"
    checked = ("-t", text, "--windows", WINDOWS, "--threads", 2)
    print(client("ladder", model, "--recipe", hand, "-i", domain, *checked, "-o", files, "--all"))
    print("the optimum of the last step's bytes against it:")
    hand_size = json.loads(client("base", hand, model, "--json"))["bytes"]
    plan, optimum = tmp_path / "plan.json", files / "4-optimum.gguf"
    plan.write_text(client("solve", *facts, "-b", f"{hand_size}B", "--json"))
    client("quantize", model, "-a", plan, "-i", domain, "-o", optimum, "--threads", 2)
    print(client("compare", files / "wiki-math-18M-f16-4-by-hand.gguf", optimum, "-m", model, *checked))
    manifest = json.loads((files / "ladder.json").read_text())
    assert [step["name"] for step in manifest["steps"]] == ["0-base", "1-ratio", "2-optimum", "3-more", "4-by-hand"]


def _keep(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.json").write_text(json.dumps(json.loads(text) | {"name": name}))


def _paths(folder: Path, arguments: tuple[object, ...]) -> tuple[object, ...]:
    """The arguments with names of recipes as their files."""
    files = {path.stem: path for path in folder.glob("*.json")}
    return tuple(files.get(str(argument), argument) for argument in arguments)
