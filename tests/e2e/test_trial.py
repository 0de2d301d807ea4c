"""`run` tries its plan against others before it writes, and says so."""

import re
from pathlib import Path

import pytest

from support.commands import client


@pytest.fixture
def text(data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text((data / "gsm8k.evaluation.txt").read_text(encoding="utf-8")[:3500], encoding="utf-8")
    return path


def test_what_was_tried_is_told_and_the_lowest_is_no_better_beyond_noise(
    model_path: Path, imatrix_path: Path, text: Path
) -> None:
    result = client(
        "run", model_path, "-b", "4.5", "-i", imatrix_path, "-t", text, "--plan-only", "--types", "k", "--json"
    )
    assert result.code == 0, result.err
    tried = result.json["trial"]["tried"]
    assert [one["name"] for one in tried[:2]] == ["the plan", "mixture Q3_K_M"]
    assert sum(one["taken"] for one in tried) == 1
    assert all(one["kl"] > 0 and one["bytes"] <= result.json["plan"]["capacity_bytes"] for one in tried)
    taken = next(one for one in tried if one["taken"])
    assert taken["bytes"] == result.json["plan"]["bytes"]
    assert result.json["trial"]["left_out"] == []


def test_the_table_names_every_allocation(model_path: Path, imatrix_path: Path, text: Path) -> None:
    result = client("run", model_path, "-b", "4.5", "-i", imatrix_path, "-t", text, "--plan-only", "--types", "k")
    for words in ("Tried in memory on", "the plan", "mixture Q3_K_M", "losses prior", "taken"):
        assert words in result.out
    assert "trying" in result.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--no-trial",), "--no-trial"),
        (("--loss", "prior"), "--loss prior"),
        (("--trial-minutes", "0"), "--trial-minutes"),
    ],
)
def test_why_nothing_was_tried_is_told(
    model_path: Path, imatrix_path: Path, text: Path, arguments: tuple[str, ...], reason: str
) -> None:
    result = client("run", model_path, "-b", "4.5", "-i", imatrix_path, "-t", text, "--plan-only", "--json", *arguments)
    assert result.code == 0, result.err
    assert result.json["trial"]["tried"] == []
    assert reason in result.json["trial"]["reason"]
    assert reason in result.err


def test_without_text_nothing_is_tried_and_that_is_told(model_path: Path, imatrix_path: Path) -> None:
    result = client("run", model_path, "-b", "4.5", "-i", imatrix_path, "--plan-only", "--json")
    assert result.code == 0, result.err
    assert "no text" in result.json["trial"]["reason"]
    assert "no other allocation was tried" in result.err


def test_a_plan_without_fisher_information_says_how_to_get_it(model_path: Path, imatrix_path: Path) -> None:
    result = client("run", model_path, "-b", "4.5", "-i", imatrix_path, "--plan-only", "--json")
    assert "imatrix collect" in result.json["plan"]["missing"]
    assert "no Fisher information" in result.err


def test_a_limit_on_the_loss_is_met_by_measuring(model_path: Path, fisher_path: Path, text: Path) -> None:
    given = ("run", model_path, "--max-loss", "0.02", "-i", fisher_path, "-t", text, "--plan-only", "--types", "k")
    result = client(*given, "--json")
    assert result.code == 0, result.err
    trial, plan = result.json["trial"], result.json["plan"]
    taken = next(one for one in trial["tried"] if one["taken"])
    assert taken["bytes"] == plan["bytes"]
    assert taken["kl"] <= trial["max_loss"] == 0.02
    assert taken["kl"] >= 0.9 * 0.02 or trial["reason"] is not None
    assert all(one["kl"] > 0.02 for one in trial["tried"] if one["bytes"] < taken["bytes"])
    table = client(*given).out
    assert "for a KL divergence of at most 0.02" in table
    assert f"{taken['bytes']:,}" in next(line for line in table.splitlines() if "taken" in line)
    refused = client(*given, "--worst-case")
    assert refused.code == 2
    assert "can't be used together with --worst-case" in refused.err


def test_what_is_measured_is_told_beside_the_interval(model_path: Path, data: Path, text: Path, tmp_path: Path) -> None:
    importance = tmp_path / "m.imatrix.gguf"
    few = ("--windows", 8, "--context", 64, "--fisher", 8, "--threads", 1)
    calibration = data / "gsm8k.calibration.txt"
    assert client("imatrix", "collect", model_path, "-t", calibration, "-o", importance, *few).code == 0
    given = ("run", model_path, "-b", "5.0", "-i", importance, "-t", text, "--plan-only", "--types", "Q4_K,Q5_K")
    result = client(*given)
    assert result.code == 0, result.err
    line = r"^predicted 0\.\d+ to 0\.\d+, measured 0\.\d+ ± 0\.\d+: (within|below|above) the"
    assert re.search(line, result.out, re.MULTILINE), result.out
    told = client(*given, "--json").json["trial"]["predicted"]
    assert told["low"] < told["kl"] < told["high"]
    assert told["place"] in {"within", "below", "above"}


def test_a_limit_below_all_is_refused(model_path: Path, fisher_path: Path, text: Path) -> None:
    given = (
        "run",
        model_path,
        "--max-loss",
        "1e-9",
        "-i",
        fisher_path,
        "-t",
        text,
        "--plan-only",
        "--types",
        "Q4_K,Q6_K",
    )
    result = client(*given, "--exclude", "*=F16")
    assert result.code == 4
    assert "no allocation has a loss of at most 1e-09; the least that can be reached is" in result.err
