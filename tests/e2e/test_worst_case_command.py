"""A file for several domains, as a command."""

from pathlib import Path

import pytest

from raq_client.files.profile_file import save_profile
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from support.commands import client


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory, model_path: Path, imatrix_path: Path) -> tuple[Path, Path]:
    """Two saved profiles of one model, as of two texts: with importance, and without."""
    folder = tmp_path_factory.mktemp("domains")
    model, importance = open_model(model_path), read_importance(imatrix_path)
    with_it, without = folder / "math.json", folder / "anything.json"
    save_profile(measure_profile(model, importance, chosen_types(("k",))), with_it)
    save_profile(measure_profile(model, None, chosen_types(("k",))), without)
    return with_it, without


def test_the_worst_of_two_profiles(domains: tuple[Path, Path]) -> None:
    flags = [each for path in domains for each in ("-p", path)]
    result = client("solve", "-b", "4.5", "--worst-case", "--loss", "relative", *flags, "--json")
    assert result.code == 0, result.err
    found = result.json["worst_case"]
    assert [each["name"] for each in found["domains"]] == ["math", "anything"]
    assert found["measure"] == "ratio"
    assert result.json["loss"] == found["worst"] == pytest.approx(max(each["ratio"] for each in found["domains"]))
    for each, path in zip(found["domains"], domains, strict=True):
        alone = client("solve", "-b", "4.5", "--loss", "relative", "-p", path, "--json").json
        assert each["own_best"] == pytest.approx(alone["loss"], rel=1e-12)
        assert 1 <= each["ratio"] <= each["ratio_in_the_best_of_another"]


def test_the_tables_say_who_pays_what(domains: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(domains[0].parent)  # short names: in a narrow table columns are left out
    flags = [each for path in domains for each in ("-p", path.name)]
    arguments = ("solve", "-b", "4.5", "--worst-case", "--worst-in", "nats", "--loss", "relative", *flags)
    result = client(*arguments, "--pin", "output.weight=Q6_K")
    assert result.code == 0, result.err
    assert "worst case" in result.out
    assert "in the best of another" in result.out
    assert " nats: " in result.out


def test_a_server_gives_the_same(domains: tuple[Path, Path], server_address: str) -> None:
    flags = [each for path in domains for each in ("-p", path)]
    arguments = ("solve", "-b", "4.5", "--worst-case", "--loss", "relative", *flags, "--json")
    here, there = client(*arguments).json, client(*arguments, "--server", server_address).json
    assert here | {"seconds": 0} == there | {"seconds": 0}


def test_too_small_a_budget_is_said(domains: tuple[Path, Path]) -> None:
    flags = [each for path in domains for each in ("-p", path)]
    result = client("solve", "-b", "1", "--worst-case", "--loss", "relative", *flags)
    assert result.code == 4
    assert "even the smallest types need" in result.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--worst-case",), "needs two domains or more"),
        (("--worst-case", "--max-loss", "0.1"), "can't be used together with --worst-case"),
        (
            ("--worst-case", "--monotone", "blk.*.ffn_up.weight", "-p", "{1}"),
            "can't be kept together with a worst case",
        ),
        (("-p", "{1}"), "several are only for the domains of solve --worst-case"),
    ],
)
def test_what_does_not_go_together(domains: tuple[Path, Path], arguments: tuple[str, ...], sentence: str) -> None:
    given = [each.format(*domains) for each in arguments]
    result = client("solve", "-b", "4.5", "--loss", "relative", "-p", domains[0], *given)
    assert result.code == 2
    assert sentence in result.err


def test_weights_and_domains_are_two_things(model_path: Path, imatrix_path: Path) -> None:
    files = ("-i", f"{imatrix_path}:0.5", "-i", f"{imatrix_path}:0.7")
    result = client("solve", "-b", "4.5", "-m", model_path, "--worst-case", *files)
    assert result.code == 2
    assert result.err.count("weights are for blending domains") == 2


def test_run_writes_the_file(tmp_path: Path, model_path: Path, imatrix_path: Path) -> None:
    other = tmp_path / "other.imatrix.gguf"
    other.write_bytes(imatrix_path.read_bytes())
    arguments = ("run", model_path, "-b", "4.5", "--worst-case", "-i", imatrix_path, "-i", other)
    result = client(*arguments, "-o", tmp_path / "out.gguf", "--json")
    assert result.code == 0, result.err
    assert result.json["plan"]["worst_case"]["worst"] == pytest.approx(1.0)
    assert result.json["file"]["tensor_bytes"] == result.json["plan"]["bytes"]
