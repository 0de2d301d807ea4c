"""`raq-client imatrix` on the real importance of a real model, and on texts made from it."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from commands import client

from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.imatrix_files import read_importance, write_importance


@pytest.fixture
def driven(tmp_path: Path, imatrix_path: Path) -> Path:
    """The same importance, as if another text drove blk.1.ffn_down four times and blk.2.ffn_down half as hard."""
    factors = {"blk.1.ffn_down.weight": 4.0, "blk.2.ffn_down.weight": 0.5}
    whole = read_importance(imatrix_path)
    entries = {
        name: Entry((entry.sums * np.float32(3 * factors.get(name, 1.0))).astype(np.float32), entry.counts.copy())
        for name, entry in whole.entries.items()
    }
    path = tmp_path / "domain.gguf"
    write_importance(Importance(entries, ("a domain",), whole.chunk_count, whole.chunk_size), path)
    return path


def test_show_has_a_line_for_each_tensor_and_says_what_is_tied(imatrix_path: Path) -> None:
    rows = {row["name"]: row for row in client("imatrix", "show", imatrix_path, "--json").json}
    assert len(rows) == 28
    assert rows["blk.0.attn_q.weight"]["tied"] == ["blk.0.attn_k.weight", "blk.0.attn_v.weight"]
    assert rows["blk.3.ffn_down.weight"]["tied"] == []
    text = client("imatrix", "show", imatrix_path)
    assert "28 tensors, 16 distinct inputs" in text.err
    assert all(name in text.out for name in rows)


def test_groups_add_up_to_all_tensors(imatrix_path: Path) -> None:
    for by in ("block", "zone", "role"):
        table = list(csv.DictReader(io.StringIO(client("imatrix", "show", imatrix_path, "--by", by, "--csv").out)))
        assert sum(int(row["tensors"]) for row in table) == 28


def test_ratio_finds_what_a_domain_drives_and_no_scale(imatrix_path: Path, driven: Path) -> None:
    found = client("imatrix", "ratio", driven, imatrix_path, "--json").json
    assert found["scale"] == pytest.approx(3)
    assert found["demote"] == ["blk.2.ffn_down.weight"]
    assert found["promote"] == ["blk.1.ffn_down.weight"]
    ratios = {row["name"]: row["ratio"] for row in found["rows"]}
    assert ratios.pop("blk.1.ffn_down.weight") == pytest.approx(4)
    assert ratios.pop("blk.2.ffn_down.weight") == pytest.approx(0.5)
    assert list(ratios.values()) == pytest.approx([1] * 26)


def test_ratio_thresholds_and_groups(imatrix_path: Path, driven: Path) -> None:
    strict = client("imatrix", "ratio", driven, imatrix_path, "--demote-below", 0.4, "--promote-above", 5, "--json")
    assert strict.json["demote"] == strict.json["promote"] == []
    roles = client("imatrix", "ratio", driven, imatrix_path, "--by", "role", "--json").json["rows"]
    down = next(row for row in roles if row["group"] == "ffn_down")
    # Four, a half and two ones: the mean of logarithms.
    assert down["ratio"] == pytest.approx(2**0.25)
    assert (down["demote"], down["promote"]) == (1, 1)
    assert "demote 1: ffn_down 2" in client("imatrix", "ratio", driven, imatrix_path).err


def test_repeats_give_intervals(imatrix_path: Path, driven: Path) -> None:
    parts = ("--domain-part", driven, "--general-part", imatrix_path)
    rows = client("imatrix", "ratio", driven, imatrix_path, *parts, "--json").json["rows"]
    assert all(row["interval"][0] <= row["ratio"] * 1.000001 and row["certain"] for row in rows)


def test_merge_adds_and_weights_blend(tmp_path: Path, imatrix_path: Path, driven: Path) -> None:
    added, blended = tmp_path / "added.gguf", tmp_path / "blended.gguf"
    assert client("imatrix", "merge", imatrix_path, driven, "-o", added).code == 0
    assert client("imatrix", "merge", f"{imatrix_path}:0.75", f"{driven}:0.25", "-o", blended).code == 0
    one, other = read_importance(imatrix_path), read_importance(driven)
    for name, entry in one.entries.items():
        total = entry.mean_squares + other.entries[name].mean_squares
        assert np.allclose(read_importance(added).entries[name].mean_squares, total / 2, rtol=1e-5)
        expected = 0.75 * entry.mean_squares + 0.25 * other.entries[name].mean_squares
        assert np.allclose(read_importance(blended).entries[name].mean_squares, expected, rtol=1e-5)


def test_convert_there_and_back(tmp_path: Path, imatrix_path: Path) -> None:
    old, new = tmp_path / "i.dat", tmp_path / "i.gguf"
    assert client("imatrix", "convert", imatrix_path, "-o", old).code == 0
    assert client("imatrix", "convert", old, "-o", new).code == 0
    before, after = read_importance(imatrix_path), read_importance(new)
    assert before.entries.keys() == after.entries.keys()
    for name, entry in before.entries.items():
        assert np.allclose(entry.mean_squares, after.entries[name].mean_squares, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "{i}", "--experts", "blk.0.ffn_don.weight"), "did you mean blk.0.ffn_down.weight"),
        (("show", "nowhere.gguf"), "nowhere.gguf: can't be read"),
        (("ratio", "{i}", "{i}", "--demote-below", "0.5", "--domain-part", "no.dat"), "no.dat"),
        (("merge", "{i}:0.5", "{i}", "-o", "{o}"), "give all of them FILE:WEIGHT"),
        (("merge", "{i}:0.5", "{i}:-1", "-o", "{o}"), "must be above 0"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, imatrix_path: Path, arguments: tuple[str, ...], words: str) -> None:
    filled = [one.format(i=imatrix_path, o=tmp_path / "out.gguf") for one in arguments]
    result = client("imatrix", *filled)
    assert result.code == 2
    assert words in result.err
    assert not (tmp_path / "out.gguf").exists()
