"""Numbers that are not finite, importance that has holes: said by every command, and never an exit code of 0."""

import math
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import typer

from raq_client.cli.check import EXIT_NOT_PASSED, _tell
from raq_client.engine.windows import Text
from raq_client.evaluation.statistics import Estimate
from raq_client.importance.imatrix_file import read_importance, write_importance
from support.checks import check
from support.commands import client

TENSOR = "blk.0.attn_norm.weight"


@pytest.fixture(scope="module")
def text(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((data / "gsm8k.calibration.txt").read_text(encoding="utf-8")[:4000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def spoiled(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a NaN in a norm."""
    path = tmp_path_factory.mktemp("spoiled") / "spoiled.gguf"
    path.write_bytes(model_path.read_bytes())
    reader = gguf.GGUFReader(path, "r+")
    next(each for each in reader.tensors if each.name == TENSOR).data[5] = np.nan
    reader.data.flush()
    return path


@pytest.mark.parametrize(
    "command",
    [
        "check SPOILED -m MODEL -t TEXT --context 64 --windows 2 --max-kl 100",
        "check MODEL -m SPOILED -t TEXT --context 64 --windows 2 --json",
        "check -m SPOILED --save-baseline OUT -t TEXT --context 64 --windows 2",
        "compare MODEL SPOILED -m MODEL -t TEXT --context 64 --windows 2",
        "imatrix collect SPOILED -t TEXT --context 64 --windows 2 -o OUT",
        "run SPOILED -b 5 -t TEXT --types Q4_K,Q8_0 -o OUT",
        "sensitivity SPOILED -t TEXT --context 64 --windows 2 -o OUT",
    ],
)
def test_a_norm_that_is_not_a_number_ends_every_command(
    command: str, spoiled: Path, model_path: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.gguf"
    names = {"SPOILED": spoiled, "MODEL": model_path, "TEXT": text, "OUT": out}
    result = client(*(names.get(word, word) for word in command.split()))
    assert result.code == 2, result.err
    assert f"raq-client: {spoiled}: its predictions are not finite, because weight 5 of row 0 of {TENSOR}" in result.err
    assert not out.exists()


def test_a_gate_has_to_be_passed(model_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("check", model_path, "-m", model_path, "-t", text, "--context", "64", "--windows", "2", "--max-kl")
    assert client(*arguments, "0").code == 0
    assert client(*arguments, "nan").code == 2
    report = check(model_path, model_path, [Text("text", text.read_text())], context=64, windows=2)
    nothing = replace(report.overall, kl=Estimate(math.nan, math.nan, math.nan))
    with pytest.raises(typer.Exit) as end:
        _tell(replace(report, overall=nothing), 100.0, (), None, as_json=True)
    assert end.value.exit_code == EXIT_NOT_PASSED
    assert "mean KL divergence nan is not at most 100.0" in capsys.readouterr().err


def test_tensors_that_the_importance_does_not_know_are_listed_once(
    model_path: Path, imatrix_path: Path, tmp_path: Path
) -> None:
    known = read_importance(imatrix_path)
    partly = tmp_path / "part.gguf"
    entries = {name: entry for name, entry in known.entries.items() if "ffn_down" not in name}
    write_importance(replace(known, entries=entries, fisher={}, fisher_windows=0), partly)
    arguments = ("solve", "-m", model_path, "-b", "5", "--types", "Q4_K,Q8_0")
    result = client(*arguments, "-i", partly)
    assert result.code == 0, result.err
    named = "(blk.0.ffn_down.weight, blk.1.ffn_down.weight, blk.2.ffn_down.weight and 1 more)"
    assert result.err.count(f"{partly} has no data for 4 of 28 tensors {named}") == 1
    assert "has no data for" not in client(*arguments, "-i", imatrix_path).err

    types = tmp_path / "types.txt"
    types.write_text(r"blk\.1\.ffn_down=iq2_s" + "\n")
    result = client("quantize", model_path, "-a", types, "-i", partly, "-o", tmp_path / "out.gguf")
    assert result.code == 2
    assert f"blk.1.ffn_down.weight: IQ2_S needs importance, and {partly} has none of this tensor" in result.err


def test_a_source_that_is_quantized_already_is_said(model_path: Path, tmp_path: Path) -> None:
    types, once, twice = tmp_path / "types.txt", tmp_path / "once.gguf", tmp_path / "twice.gguf"
    types.write_text("attn_q=q8_0\n")
    first = client("quantize", model_path, "-a", types, "-o", once)
    assert first.code == 0
    assert "quantized already" not in first.err
    types.write_text("attn_q=q4_k\nffn_up=q4_k\n")
    again = client("quantize", once, "-a", types, "-o", twice)
    assert again.code == 0
    assert f"note: {once} is quantized already (4 Q8_0 of 8 tensors)" in again.err
    planned = client("solve", "-m", once, "-b", "5", "--types", "Q4_K,Q8_0")
    assert planned.code == 0, planned.err
    assert planned.err.count(f"note: {once} is quantized already (4 Q8_0 of 39 tensors)") == 1
    assert "quantized already" not in client("solve", "-m", model_path, "-b", "5", "--types", "Q4_K,Q8_0").err
