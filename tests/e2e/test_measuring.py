"""Sensitivity, sweep and comparison on the real model, as commands."""

import csv
import io
from pathlib import Path

import pytest
from commands import client

from raq_client.imatrix_files import read_importance
from raq_client.profile_file import load_profile


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def text(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((data / "gsm8k.calibration.txt").read_text(encoding="utf-8")[:8000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, model_path: Path, imatrix_path: Path, text: Path) -> Path:
    out = tmp_path_factory.mktemp("measured") / "4m.json"
    arguments = ("--evaluations", "10", "--windows", "2", "--json")
    result = client("sensitivity", model_path, "-i", imatrix_path, "-t", text, "-o", out, *arguments)
    assert result.code == 0, result.err
    found = result.json
    assert found["evaluations"] == 10
    assert len(found["sensitivities"]) == 30
    most = max(found["sensitivities"], key=lambda name: found["sensitivities"][name]["value"])
    assert most == "output.weight"
    return out


def test_a_measured_profile_predicts_by_what_was_measured(measured: Path) -> None:
    profile = load_profile(measured)
    assert profile.provenance["sensitivity"].startswith("10 evaluations")
    result = client("solve", "-b", "4.5", "-p", measured, "--json")
    assert "measured sensitivity" in result.json["loss_source"]
    by_prior = client("solve", "-b", "4.5", "-p", measured, "--json", "--loss", "residual")
    assert by_prior.json["loss_source"] != result.json["loss_source"]


def test_a_sweep_never_gets_worse_with_more_bytes(measured: Path, tmp_path: Path) -> None:
    plot = tmp_path / "frontier.svg"
    arguments = ("sweep", "--from", "2.7", "--to", "8", "--points", "30", "-p", measured)
    result = client(*arguments, "--json", "--plot", plot)
    assert result.code == 0, result.err
    points = result.json["points"]
    losses = [point["loss"] for point in points]
    assert losses == sorted(losses, reverse=True)
    assert all(point["bytes"] <= point["capacity_bytes"] and point["gap"] <= 1e-9 for point in points)
    single = client("solve", "-b", f"{points[7]['capacity_bytes']}B", "-p", measured, "--json").json
    assert single["loss"] == pytest.approx(points[7]["loss"], rel=1e-12)
    assert "Q4_K_M" in plot.read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(client(*arguments, "--csv").out)))
    assert [int(row["bytes"]) for row in rows] == [point["bytes"] for point in points]


def test_better_worse_and_the_same(model_path: Path, tmp_path: Path, text: Path) -> None:
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    for budget, out in (("3.2", small), ("6", large)):
        assert client("run", model_path, "-b", budget, "-o", out).code == 0
    result = client("compare", small, large, large, "-m", model_path, "-t", text, "--json")
    assert result.code == 0, result.err
    assert [step["verdict"] for step in result.json] == ["better", "no difference beyond noise"]
    back = client("compare", large, small, "-m", model_path, "-t", text)
    assert "worse" in back.out


def test_importance_is_collected_and_resumed(model_path: Path, data: Path, tmp_path: Path) -> None:
    text, out, again = data / "gsm8k.calibration.txt", tmp_path / "i.gguf", tmp_path / "again.gguf"
    arguments = ("imatrix", "collect", model_path, "-t", text)
    assert client(*arguments, "-o", out, "--windows", "4", "--json").json["entries"] == 28
    # As after an interrupt: two windows are counted in the partial file.
    assert client(*arguments, "-o", tmp_path / "again.partial.gguf", "--windows", "2").code == 0
    resumed = client(*arguments, "-o", again, "--windows", "4")
    assert resumed.code == 0, resumed.err
    assert "going on" in resumed.err
    assert not (tmp_path / "again.partial.gguf").exists()
    first, second = (read_importance(path) for path in (out, again))
    for name, entry in first.entries.items():
        assert entry.mean_squares == pytest.approx(second.entries[name].mean_squares, rel=1e-4)
    assert client("solve", "-b", "5", "-m", model_path, "-i", out, "--types", "Q8_0,Q4_0").code == 0
