"""`suggest` on the real model: tables, JSON, fragments that other commands take, and mistakes."""

import tomllib
from pathlib import Path

import pytest

from support.commands import client


@pytest.fixture(scope="module")
def profile(model_path: Path, fisher_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "4m.json"
    assert client("profile", model_path, "-i", fisher_path, "--types", "k", "-o", path).code == 0
    return path


def test_a_suggestion_is_worth_what_solving_with_it_finds(profile: Path, tmp_path: Path) -> None:
    asked = ("suggest", "-p", profile, "-b", "4", "--unit", "tensor", "--top", "3")
    result = client(*asked, "--json")
    assert result.code == 0, result.err
    found = result.json
    before = client("solve", "-p", profile, "-b", "4", "--json").json
    assert found["start"]["bytes"] == before["bytes"]
    chosen = [one for one in found["ranking"] if one["chosen"]]
    assert len(chosen) == 3
    assert found["raised"]["bytes"] == before["bytes"] + sum(one["bytes"] for one in chosen)
    again = client("solve", "-p", profile, "-b", found["budget"], "--json").json
    assert found["best"]["loss"] == pytest.approx(again["loss"], rel=1e-12)
    fragment = client(*asked, "--toml").out
    (tmp_path / "raq.toml").write_text(f'profile = "{profile}"\n{fragment}', encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        held = client("solve", "--json").json
    assert again["loss"] - 1e-15 <= held["loss"] <= found["raised"]["loss"]
    shown = client(*asked).out
    for words in (chosen[0]["unit"], "best of that size", "per MiB"):
        assert words in shown


def test_a_recipe_of_the_raises_is_verified(profile: Path, model_path: Path, tmp_path: Path) -> None:
    arguments = ("suggest", "-p", profile, "--base", "Q3_K_M", "--to", "Q6_K", "--family", "blk.*.ffn_down.weight")
    made = client(*arguments, "--top", "2", "--recipe")
    assert made.code == 0, made.err
    (tmp_path / "suggested.toml").write_text(made.out, encoding="utf-8")
    checked = client("recipe", "verify", tmp_path / "suggested.toml", model_path)
    assert checked.code == 0, checked.err + checked.out
    assert len(tomllib.loads(made.out)["moves"]) >= 1


def test_importance_ranks_blocks(profile: Path, imatrix_path: Path, data: Path) -> None:
    wiki = data / "wiki-math-4M.wiki.imatrix.gguf"
    common = ("suggest", "-p", profile, "-b", "4", "--top", "1", "--json", "--domain", imatrix_path)
    energy = client(*common, "--by", "energy")
    assert energy.code == 0, energy.err
    shares = client("imatrix", "paths", imatrix_path, "--json").json
    assert energy.json["raised"]["blocks"] == shares["hottest"][:1]
    contrast = client(*common, "--by", "contrast", "--general", wiki).json
    distinct = client("imatrix", "paths", imatrix_path, "--contrast", wiki, "--json").json
    assert contrast["raised"]["blocks"] == distinct["most_distinctive"][:1]


def test_presets_grow_and_have_the_memory_of_the_vram_command(profile: Path) -> None:
    result = client("suggest", "-p", profile, "--presets", "--vram-context", "8k", "--kv", "q8_0", "--json")
    assert result.code == 0, result.err
    reached = [one for one in result.json if "bytes" in one]
    assert [one["preset"] for one in result.json] == ["smallest", "recommended", "near lossless"]
    assert reached
    assert [one["bytes"] for one in reached] == sorted(one["bytes"] for one in reached)
    for one in reached:
        assert one["loss"] <= one["most_loss"]
        assert one["context"] == 8192
        assert one["memory_bytes"] > one["bytes"]
    assert "near lossless" in client("suggest", "-p", profile, "--presets").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-b", "4", "--toml", "--json"), "give one"),
        (("--presets", "--toml"), "is for raises, not for --presets"),
        (("-b", "4", "--recipe"), "give the --base"),
        (("-b", "4", "--by", "contrast"), "--domain and --general"),
        (
            ("-b", "4", "--by", "energy", "--unit", "experts", "--domain", "IMATRIX"),
            "no figures for single experts",
        ),
        (("-b", "4", "--to", "Q4_O"), "Q4_O"),
        (("-b", "4", "--family", "nothing.*"), "matches no tensor"),
        (("-b", "0.5"), "the least that can be reached"),
    ],
)
def test_mistakes_are_one_sentence(profile: Path, imatrix_path: Path, arguments: tuple[str, ...], message: str) -> None:
    given = [str(imatrix_path) if word == "IMATRIX" else word for word in arguments]
    result = client("suggest", "-p", profile, *given)
    assert result.code == 2, result.err
    assert message in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def test_paths_are_shown_and_drawn(imatrix_path: Path, data: Path, tmp_path: Path) -> None:
    wiki, picture = data / "wiki-math-4M.wiki.imatrix.gguf", tmp_path / "paths.svg"
    shown = client("imatrix", "paths", imatrix_path, "--plot", picture)
    assert shown.code == 0, shown.err
    assert "blocks of most energy: 3" in shown.out
    assert picture.read_bytes().startswith(b"<?xml")
    assert "ffn_down" in client("imatrix", "paths", imatrix_path, "--table").out
    assert "most distinctive blocks" in client("imatrix", "paths", imatrix_path, "--contrast", wiki).out
    itself = client("imatrix", "paths", imatrix_path, "--diff", imatrix_path)
    assert "the two texts are alike in every cell" in itself.out
    both = client("imatrix", "paths", imatrix_path, "--diff", wiki, "--contrast", wiki)
    assert (both.code, "are two views" in both.err) == (2, True)
    alone = client("imatrix", "paths", imatrix_path, "--general-part", wiki)
    assert (alone.code, "for intervals of --contrast" in alone.err) == (2, True)
