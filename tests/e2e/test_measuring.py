"""Sensitivity, sweep and comparison on the real model, as commands."""

import csv
import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raq_client.files.profile_file import load_profile
from raq_client.importance.imatrix import Importance
from raq_client.importance.imatrix_file import read_importance
from support.commands import client


@pytest.fixture(scope="module")
def text(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((data / "gsm8k.calibration.txt").read_text(encoding="utf-8")[:5000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, model_path: Path, imatrix_path: Path, text: Path) -> Path:
    out = tmp_path_factory.mktemp("measured") / "4m.json"
    arguments = ("--evaluations", "10", "--windows", "4", "--context", "128", "--json")
    result = client("sensitivity", model_path, "-i", imatrix_path, "-t", text, "-o", out, *arguments)
    assert result.code == 0, result.err
    found = result.json
    assert found["evaluations"] == 10
    assert len(found["sensitivities"]) == 30
    most = max(found["sensitivities"], key=lambda name: found["sensitivities"][name]["value"])
    assert most == "output.weight"
    return out


def test_a_limit_on_the_time_says_how_far_it_came(
    model_path: Path, imatrix_path: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "timed.json"
    usual = ("sensitivity", model_path, "-i", imatrix_path, "-t", text, "-o", out, "--windows", "2", "--context", "64")
    for time_limit, more, why in (("soon", (), "is no time"), ("5min", ("--index", "0", "--of", "2"), "--evaluations")):
        refused = client(*usual, "--measure-for", time_limit, *more)
        assert (refused.code, out.exists()) == (2, False)
        assert why in " ".join(refused.err.split())
    result = client(*usual, "--measure-for", "0.001s")
    assert result.code == 0, result.err
    assert "1 of 30 tensors measured in time" in " ".join(result.err.split())
    assert load_profile(out).provenance["sensitivity"].startswith("1 evaluations")


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


@pytest.fixture(scope="module")
def files(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model quantized to few bits and to many."""
    folder = tmp_path_factory.mktemp("files")
    found = folder / "small.gguf", folder / "large.gguf"
    for budget, out in zip(("3.2", "6"), found, strict=True):
        assert client("run", model_path, "-b", budget, "-o", out).code == 0
    return found


def test_better_worse_and_the_same(model_path: Path, files: tuple[Path, Path], text: Path) -> None:
    small, large = files
    how = ("-m", model_path, "-t", text, "--context", "128", "--windows", "6")
    result = client("compare", small, large, large, *how, "--json")
    assert result.code == 0, result.err
    assert [step["verdict"] for step in result.json] == ["better", "no difference beyond noise"]
    back = client("compare", large, small, *how)
    assert "worse" in back.out


def test_long_windows_show_the_divergence_by_position(model_path: Path, files: tuple[Path, Path], text: Path) -> None:
    arguments = ("check", files[0], "-m", model_path, "-t", text, "--windows", "2")
    long = client(*arguments, "--context", "600")
    assert long.code == 0, long.err
    assert "KL at positions 300–" in long.out
    usual = client(*arguments, "--context", "512")
    assert "KL at positions" not in usual.out
    assert client(*arguments, "--context", "512", "--json").json["overall"]["kl_by_position"]


def test_importance_is_collected(model_path: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "i.gguf"
    usual = ("imatrix", "collect", model_path, "-t", data / "gsm8k.calibration.txt")
    arguments = (*usual, "--windows", "4", "--context", "128")
    assert client(*arguments, "--fisher", "1", "-o", out, "--json").json["entries"] == 28
    assert client("solve", "-b", "5", "-m", model_path, "-i", out, "--types", "Q8_0,Q4_0").code == 0
    shown = client("imatrix", "show", out, "--json").json
    assert all(0 < row["bias"] < 1 and row["centre"] is not None for row in shown)


@pytest.fixture(scope="module")
def collected(model_path: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Importance]:
    """Arguments of a collection, and what it collects in one go."""
    folder = tmp_path_factory.mktemp("collected")
    text, whole = folder / "text.txt", folder / "whole.gguf"
    text.write_text((data / "gsm8k.calibration.txt").read_text(encoding="utf-8")[:14_000], encoding="utf-8")
    arguments = ["imatrix", "collect", str(model_path), "-t", str(text), "--context", "64", "--fisher", "0"]
    assert client(*arguments, "-o", whole).code == 0
    return arguments, read_importance(whole)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_collection_goes_on(
    collected: tuple[list[str], Importance], tmp_path: Path, how: signal.Signals
) -> None:
    arguments, whole = collected
    out, partial = tmp_path / "i.gguf", tmp_path / "i.partial.gguf"
    command = [sys.executable, "-c", "from raq_client.cli.app import main; main()", *arguments, "-o", str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        while not partial.exists():  # then half is done
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(how)
    assert running.returncode == (130 if how is signal.SIGINT else -signal.SIGKILL)
    assert partial.exists()
    assert not out.exists()
    refused = client(*arguments, "-o", out, "--process-output")
    assert refused.code == 2
    assert "was begun with another model, other texts" in refused.err
    resumed = client(*arguments, "-o", out)
    assert resumed.code == 0, resumed.err
    assert "going on" in resumed.err
    assert not partial.exists()
    found = read_importance(out)
    assert found.datasets == whole.datasets == (arguments[4],)
    for name, entry in found.entries.items():
        assert entry.mean_squares == pytest.approx(whole.entries[name].mean_squares, rel=1e-6)
