"""Predictions with intervals and by text, from collecting to solving; files without levels have bare numbers."""

from pathlib import Path

import pytest

from raq_client.files.profile_file import load_profile
from raq_client.importance.imatrix_file import read_importance
from support.commands import client

TYPES = ("--types", "Q8_0,Q4_0")


@pytest.fixture(scope="module")
def profile(model_path: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of an importance file that was collected from two texts."""
    folder = tmp_path_factory.mktemp("predictions")
    words = (data / "gsm8k.calibration.txt").read_text(encoding="utf-8")
    (folder / "math.txt").write_text(words[:3000], encoding="utf-8")
    (folder / "other.txt").write_text(words[3000:6000].upper(), encoding="utf-8")
    texts = ("-t", folder / "math.txt", "-t", f"shouting={folder / 'other.txt'}")
    found = client(
        *("imatrix", "collect", model_path, *texts, "--context", 32, "--windows", 4, "--fisher", 6, "--threads", 1),
        *("-o", folder / "both.gguf"),
    )
    assert found.code == 0, found.err
    named = [window.text for window in read_importance(folder / "both.gguf").windows]
    assert named == ["math", "shouting"] * 3
    measured = client("profile", model_path, "-i", folder / "both.gguf", *TYPES, "-o", folder / "p.json")
    assert measured.code == 0, measured.err
    assert load_profile(folder / "p.json").levels is not None
    return folder / "p.json"


def test_a_plan_has_an_interval_and_a_value_for_each_text(profile: Path) -> None:
    found = client("solve", "-p", profile, "-b", 5.5, "--json").json
    predicted = found["predicted"]
    assert predicted["kl"] == pytest.approx(found["loss"], rel=1e-9)
    assert 0 < predicted["low"] < predicted["kl"] < predicted["high"]
    assert sum(predicted["texts"].values()) / 2 == pytest.approx(found["loss"], rel=1e-9)
    shown = client("solve", "-p", profile, "-b", 5.5).out
    interval = f"({predicted['low']:#.3g}-{predicted['high']:#.3g} on text like the calibration's)"
    assert f"{predicted['kl']:#.4g} {interval}" in " ".join(shown.split())
    assert f"by text math {predicted['texts']['math']:#.3g}, shouting" in " ".join(shown.split())
    explained = client("explain", "-p", profile, "-b", 5.5)
    assert interval in " ".join(explained.out.split())
    assert client("explain", "-p", profile, "-b", 5.5, "--json").json["predicted"] == predicted
    points = client("sweep", "-p", profile, "--from", 5.5, "--to", 7, "--points", 3, "--json").json["points"]
    assert points[0]["predicted"] == predicted
    assert [point["predicted"]["kl"] for point in points] == pytest.approx([point["loss"] for point in points])


def test_texts_are_weighed_at_solving(profile: Path) -> None:
    plain = client("solve", "-p", profile, "-b", 5.5, "--json").json
    math = client("solve", "-p", profile, "-b", 5.5, "--text-weight", "shouting:0", "--json").json
    assert list(math["predicted"]["texts"]) == ["math"]
    assert math["loss"] <= plain["predicted"]["texts"]["math"] * (1 + 1e-12), "the best for this text"
    assert "texts weighted math:1, shouting:0" in math["loss_source"]
    refused = client("solve", "-p", profile, "-b", 5.5, "--text-weight", "maths:2")
    assert refused.code == 2
    assert "maths: no text of the calibration (did you mean math?)" in refused.err


def test_each_text_of_one_file_is_a_domain(profile: Path) -> None:
    found = client("solve", "-p", profile, "-b", 5.5, "--worst-case", "--json")
    assert found.code == 0, found.err
    assert found.json["predicted"] is None
    domains = {each["name"]: each for each in found.json["worst_case"]["domains"]}
    assert list(domains) == ["math", "shouting"]
    for text, other in (("math", "shouting"), ("shouting", "math")):
        alone = client("solve", "-p", profile, "-b", 5.5, "--text-weight", f"{other}:0", "--json").json
        assert domains[text]["own_best"] == pytest.approx(alone["loss"], rel=1e-9)
    refused = client("solve", "-p", profile, "-b", 5.5, "--worst-case", "--text-weight", "math:2")
    assert "--text-weight: can't be used together with --worst-case" in refused.err


def test_a_file_without_levels_has_a_bare_number(model_path: Path, fisher_path: Path) -> None:
    arguments = ("solve", model_path, "-i", fisher_path, *TYPES, "-b", 5.5)
    assert client(*arguments, "--json").json["predicted"] is None
    shown = client(*arguments).out
    assert "predicted loss" in shown
    assert "on text like" not in shown
    refused = client(*arguments, "--text-weight", "math:2")
    assert "--text-weight: there is no Fisher information by text" in refused.err
