"""`raq-client imatrix` on the real importance of a real model, and on texts made from it."""

import csv
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raq_client.cli import collect_gram
from raq_client.compensation.gram import output_entry
from raq_client.compensation.gram_file import read_gram
from raq_client.compensation.outputs import OutputsCollection
from raq_client.curvature.fisher import collect_fisher
from raq_client.engine import Engine
from raq_client.files.lock import output_lock
from raq_client.importance import collect_fisher as fisher_windows
from raq_client.importance import imatrix_file
from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_solver.errors import Fault, InvalidInput
from support.commands import Result, client
from support.tiny_models import CASES, Tiny, write_tiny


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


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model of two blocks, whose gradients take a moment; outside of the folder that tests look into."""
    folder = tmp_path.with_name(f"{tmp_path.name}-model")
    folder.mkdir()
    return write_tiny(folder / "tiny.gguf", CASES["llama"])


def _collected(model: Path, data: Path, *more: object) -> Result:
    text = data / "gsm8k.calibration.txt"
    return client("imatrix", "collect", model, "-t", text, "--windows", 3, "--context", 64, *more)


def test_fisher_information_is_collected_as_asked(tiny: Path, data: Path, tmp_path: Path) -> None:
    with_it, without, old = tmp_path / "with.gguf", tmp_path / "without.gguf", tmp_path / "old.dat"
    told = _collected(tiny, data, "--fisher", 2, "-o", with_it, "--json").json
    assert (told["windows"], told["fisher_windows"], told["entries"]) == (3, 2, 14)
    found = read_importance(with_it)
    assert found.fisher_windows == 2
    assert set(found.fisher) == {*found.entries, "token_embd.weight", "output.weight"}
    for arguments in (("--fisher", 0, "-o", without), ("-o", old)):
        assert "Fisher" not in _collected(tiny, data, *arguments).err
    for path in (without, old):
        plain = read_importance(path)
        assert (dict(plain.fisher), plain.fisher_windows) == ({}, 0)
        assert plain.entries.keys() == found.entries.keys()
    assert read_importance(without).digest() == found.digest()
    assert "Fisher information of 3" in _collected(tiny, data, "-o", tmp_path / "default.gguf").err


def test_the_old_format_holds_no_fisher_information(model_path: Path, data: Path, tmp_path: Path) -> None:
    result = _collected(model_path, data, "--fisher", 2, "-o", tmp_path / "i.dat")
    assert result.code == 2
    assert "--fisher: the .dat format can't hold it; name an output that ends in .gguf" in result.err
    assert not list(tmp_path.iterdir())


def test_an_interrupted_pass_back_goes_on(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.gguf", tmp_path / "i.gguf"
    arguments = ("--windows", 6, "--fisher", 6)
    assert _collected(tiny, data, *arguments, "-o", whole).code == 0

    def saved_once(*given: Any, save: Any, **named: Any) -> Any:
        def save_and_stop(*found: Any) -> None:
            save(*found)
            raise KeyboardInterrupt

        return collect_fisher(*given, save=save_and_stop, **named)

    with monkeypatch.context() as patched:
        patched.setattr(fisher_windows, "collect_fisher", saved_once)
        assert _collected(tiny, data, *arguments, "-o", out).code == 130
    partial = read_importance(tmp_path / "i.partial.gguf")
    assert 0 < partial.fisher_windows < 6 == partial.chunk_count
    result = _collected(tiny, data, *arguments, "-o", out)
    assert "going on" in result.err
    first, second = read_importance(whole), read_importance(out)
    assert first.digest() == second.digest()
    assert first.fisher_windows == second.fisher_windows == 6
    for name, found in first.fisher.items():
        np.testing.assert_allclose(second.fisher[name].rows, found.rows, rtol=1e-5)
        np.testing.assert_allclose(second.fisher[name].columns, found.columns, rtol=1e-5)


def test_gram_statistics_come_from_the_same_passes(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importance and Fisher information do not depend on it, also after an interrupt in the passes back."""
    alone, out, gram = tmp_path / "alone.gguf", tmp_path / "i.gguf", tmp_path / "i.gram"
    arguments = ("--windows", 10, "--fisher", 10)
    assert _collected(tiny, data, *arguments, "-o", alone).code == 0
    both = (*arguments, "-o", out, "--gram", gram)
    ran = list[int]()
    observed = Engine.observe_products

    def counting(self: Engine, windows: np.ndarray, *rest: Any) -> Any:
        ran.append(len(windows))
        return observed(self, windows, *rest)

    def saved_once(self: OutputsCollection, windows: int) -> None:
        OutputsCollection.reached(self, windows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "observe_products", counting)
        patched.setattr(
            collect_gram, "OutputsCollection", type("Stopped", (OutputsCollection,), {"reached": saved_once})
        )
        assert _collected(tiny, data, *both).code == 130
    assert ran == [1, 10]  # one window shows the shapes
    assert {path.name for path in tmp_path.iterdir()} == {"alone.gguf", "i.partial.gguf", "i.partial.gram"}
    result = _collected(tiny, data, *both)
    assert result.err.count("going on from") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"alone.gguf", "i.gguf", "i.gram"}
    one, other = read_importance(alone), read_importance(out)
    assert one.digest() == other.digest()
    assert one.fisher_digest() == other.fisher_digest()
    found = read_gram(gram)
    assert not found.unfinished
    assert {found.entries[output_entry(name)].windows for name in found.outputs} == {10}
    uninterrupted = _collected(tiny, data, *arguments, "-o", tmp_path / "j.gguf", "--gram", tmp_path / "j.gram")
    assert uninterrupted.code == 0
    assert (tmp_path / "j.gram").read_bytes() == gram.read_bytes()
    assert (tmp_path / "j.gguf").read_bytes() == out.read_bytes()
    few = _collected(tiny, data, "--windows", 10, "--fisher", 4, "-o", tmp_path / "few.gguf", "--gram", gram, "--force")
    assert few.code == 2
    assert "--fisher: 4 windows are too few for --gram" in few.err


def test_an_unknown_architecture_has_no_fisher_information(data: Path, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.gguf", Tiny("xverse"))
    asked = _collected(model, data, "--fisher", 2, "-o", tmp_path / "asked.gguf")
    assert asked.code == 2
    assert "this is xverse" in asked.err
    result = _collected(model, data, "-o", tmp_path / "i.gguf")
    assert result.code == 0, result.err
    assert "note: no Fisher information" in result.err
    assert not read_importance(tmp_path / "i.gguf").fisher
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.gguf", "i.gguf"}
    gram = tmp_path / "i.gram"
    both = _collected(model, data, "--windows", 8, "-o", tmp_path / "i.gguf", "--force", "--gram", gram)
    assert both.code == 0, both.err
    assert "note: no Fisher information" in both.err
    assert "note: no statistics of outputs, errors are fed forward between columns only" in both.err
    assert not read_gram(gram).outputs


def test_memory_that_is_too_small_for_outputs_is_refused_before_the_text_has_run(
    tiny: Path, data: Path, tmp_path: Path
) -> None:
    arguments = ("--fisher", 8, "--gram-memory", "1KiB", "-o", tmp_path / "i.gguf", "--gram", tmp_path / "i.gram")
    refused = _collected(tiny, data, *arguments)
    assert refused.code == 2
    assert "more than --gram-memory 1,024; give more" in refused.err
    assert list(tmp_path.iterdir()) == []


def test_two_runs_never_collect_into_one_file(tiny: Path, data: Path, tmp_path: Path) -> None:
    """The states of one would take the place of those that the other reads."""
    arguments = ("--windows", 10, "--fisher", 0, "-o", tmp_path / "i.gguf", "--gram", tmp_path / "i.gram")
    for name in ("i.gguf", "i.gram"):
        with output_lock(tmp_path / name):
            second = _collected(tiny, data, *arguments)
        assert second.code == 2
        assert re.search(rf"{name}: is being written by process \d+; wait for it", " ".join(second.err.split()))
    assert list(tmp_path.iterdir()) == []
    assert _collected(tiny, data, *arguments).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"i.gguf", "i.gram"}


def test_a_disk_that_is_too_small_for_gram_statistics_is_refused_before_the_text_has_run(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    arguments = ("--windows", 10, "-o", tmp_path / "i.gguf", "--gram", tmp_path / "i.gram")
    refused = _collected(tiny, data, *arguments)
    assert refused.code == 2
    assert re.search(r"i\.partial\.gram: no room on the disk: [\d,]+ bytes are needed, 1,000 are free", refused.err)
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_an_interrupted_run_began_are_left_out_where_none_are_wanted(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And files that can't both be written leave the states, from which the next run goes on."""
    arguments = ("--windows", 10, "-o", tmp_path / "i.gguf", "--gram", tmp_path / "i.gram")

    def stopped(self: OutputsCollection, windows: int) -> None:
        OutputsCollection.reached(self, windows)
        raise KeyboardInterrupt

    def unwritable(*_given: object, **_named: object) -> None:
        raise InvalidInput(Fault("i.gguf", "no room on the disk"))

    with monkeypatch.context() as patched:
        patched.setattr(collect_gram, "OutputsCollection", type("Stopped", (OutputsCollection,), {"reached": stopped}))
        assert _collected(tiny, data, *arguments).code == 130
    assert read_gram(tmp_path / "i.partial.gram").outputs
    with monkeypatch.context() as patched:
        patched.setattr(imatrix_file, "write_importance", unwritable)
        assert _collected(tiny, data, *arguments, "--fisher", 0).code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"i.gram", "i.partial.gguf", "i.partial.gram"}
    result = _collected(tiny, data, *arguments, "--fisher", 0, "--force")
    assert (result.code, result.err.count("going on from")) == (0, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"i.gguf", "i.gram"}
    alone = ("--windows", 10, "--fisher", 0, "-o", tmp_path / "j.gguf", "--gram", tmp_path / "j.gram")
    assert _collected(tiny, data, *alone).code == 0
    assert (tmp_path / "i.gram").read_bytes() == (tmp_path / "j.gram").read_bytes()


def test_texts_too_short_for_gram_statistics_are_refused(tiny: Path, data: Path, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text((data / "gsm8k.calibration.txt").read_text(encoding="utf-8")[:3500], encoding="utf-8")
    arguments = ("imatrix", "collect", tiny, "-t", text, "--context", 512, "-o", tmp_path / "i.gguf")
    refused = client(*arguments, "--gram", tmp_path / "i.gram")
    assert refused.code == 2
    assert "windows, at least 8 are needed" in refused.err
    assert client(*arguments).code == 0


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


def test_the_model_may_stand_in_raq_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_path: Path, data: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("imatrix", "collect", "-t", data / "gsm8k.evaluation.txt", "--context", 64, "--windows", 2)
    without = client(*arguments, "--fisher", 0, "-o", "i.gguf")
    assert (without.code, "which model?" in without.err) == (2, True)
    (tmp_path / "raq.toml").write_text(f'model = "{model_path}"')
    found = client(*arguments, "--fisher", 0, "-o", "i.gguf")
    assert found.code == 0, found.err
    assert (tmp_path / "i.gguf").is_file()


def test_experts_that_few_tokens_reached_are_listed(tmp_path: Path) -> None:
    counts = np.array([0, 3, 700], np.float32)
    entry = Entry(np.repeat(counts, 4).astype(np.float32) / 2, counts)
    path = tmp_path / "mixture.gguf"
    write_importance(Importance({"blk.1.ffn_down_exps.weight": entry}, ("text",), 1, 512), path)
    found = client("imatrix", "show", path, "--min-count", 100, "--json").json
    assert [(row["block"], row["expert"], row["tokens"]) for row in found] == [(1, 0, None), (1, 1, 3)]
    text = client("imatrix", "show", path, "--min-count", 100)
    assert "no data" in text.out
    assert "2 experts with fewer than 100 tokens, 1 of them with none" in text.err
    assert client("imatrix", "show", path, "--min-count", 100, "--by", "block").code == 2
