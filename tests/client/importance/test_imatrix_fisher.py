"""Fisher information in importance files: kept, merged by windows, blended by weight, refused where it can't be."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client.curvature.information import Fisher, InformedWindow, joined
from raq_client.importance.combining import blend, merge
from raq_client.importance.imatrix import Entry, Importance, check_against
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor
from support.gguf_files import write
from support.paths import DATA

PLAIN, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"
TENSORS = (Tensor(PLAIN, (4, 6), CATALOGUE["F16"]), Tensor(EXPERTS, (2, 5, 3), CATALOGUE["F16"]))


def _fisher(rows: int, columns: int, matrices: int = 1, seed: int = 0) -> Fisher:
    random = np.random.default_rng(seed)
    found = Fisher(*(random.random((matrices, size)).astype(np.float32) for size in (rows, columns)))
    return replace(found, inputs=random.random(2).astype(np.float32))


def _importance(seed: int = 0, windows: int = 3) -> Importance:
    ones = {name: Entry(np.ones(size, np.float32), np.ones(1, np.float32)) for name, size in ((PLAIN, 4), (EXPERTS, 6))}
    fisher = {PLAIN: _fisher(6, 4, seed=seed), EXPERTS: _fisher(5, 2, 3, seed=seed + 1)}
    return Importance(ones, (f"text {seed}",), 7, 512, f"{seed}.gguf", fisher, windows)


def _with_levels(seed: int = 0, windows: int = 3, texts: str = "ab") -> Importance:
    """The same with a level of each tensor in each window, of these texts in turn."""
    known, random = _importance(seed, windows), np.random.default_rng(seed + 9)
    fisher = {
        name: replace(each, levels=random.random(windows).astype(np.float32)) for name, each in known.fisher.items()
    }
    named = tuple(InformedWindow(texts[window % len(texts)]) for window in range(windows))
    return replace(known, fisher=fisher, windows=named)


def _written(
    path: Path, arrays: Mapping[str, np.ndarray], windows: int | None = 3, texts: list[str] | None = None
) -> Path:
    """An importance file by gguf-py."""
    writer = gguf.GGUFWriter(path, "any")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["t"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    if windows is not None:
        writer.add_uint32("raq.fisher.windows", windows)
    if texts is not None:
        writer.add_array("raq.fisher.texts", texts)
    for name, array in arrays.items():
        writer.add_tensor(name, array.astype(np.float32))
    write(writer)
    return path


def test_there_and_back_as_gguf_py_reads_it(tmp_path: Path) -> None:
    importance, path = _importance(), tmp_path / "i.gguf"
    write_importance(importance, path)
    again = read_importance(path)
    assert (again.fisher_digest(), again.digest()) == (importance.fisher_digest(), importance.digest())
    assert (list(again.fisher), again.fisher_windows) == ([PLAIN, EXPERTS], 3)
    reader = gguf.GGUFReader(path)
    raw = {tensor.name: tensor.data for tensor in reader.tensors}
    np.testing.assert_array_equal(raw[f"{PLAIN}.fisher_rows"], importance.fisher[PLAIN].rows[0])
    np.testing.assert_array_equal(raw[f"{EXPERTS}.fisher_columns"], importance.fisher[EXPERTS].columns)
    np.testing.assert_array_equal(raw[f"{EXPERTS}.fisher_inputs"], np.asarray(importance.fisher[EXPERTS].inputs))
    assert reader.fields["raq.fisher.windows"].contents() == 3


def test_the_old_format_and_other_files_hold_none(tmp_path: Path) -> None:
    path = tmp_path / "i.dat"
    write_importance(_importance(), path)
    for plain in (path, DATA / "wiki-math-4M.gsm8k.imatrix.gguf"):
        again = read_importance(plain)
        assert (dict(again.fisher), again.fisher_windows, again.fisher_digest()) == ({}, 0, "none")


def test_it_has_a_digest_of_its_own() -> None:
    importance = _importance()
    without = replace(importance, fisher={}, fisher_windows=0)
    assert importance.digest() == without.digest()
    others = [_importance(seed=1), replace(importance, fisher={PLAIN: importance.fisher[PLAIN]}), without]
    swapped = {PLAIN: replace(importance.fisher[PLAIN], rows=importance.fisher[PLAIN].rows[:, ::-1].copy())}
    others.append(replace(importance, fisher={**importance.fisher, **swapped}))
    without_inputs = {PLAIN: replace(importance.fisher[PLAIN], inputs=None)}
    others.append(replace(importance, fisher={**importance.fisher, **without_inputs}))
    assert len({each.fisher_digest() for each in (importance, *others)}) == 6


@pytest.mark.parametrize(
    ("rows", "columns", "what"),
    [
        (np.ones((1, 6)), np.array([[1, 1, -1, 1]]), "negative or not finite"),
        (np.full((1, 6), np.nan), np.ones((1, 4)), "negative or not finite"),
        (np.full((1, 6), np.inf), np.ones((1, 4)), "negative or not finite"),
        (np.ones((2, 6)), np.ones((1, 4)), "does not fit together"),
        (np.ones(6), np.ones(4), "does not fit together"),
    ],
)
def test_impossible_numbers_are_refused_with_every_tensor(rows: np.ndarray, columns: np.ndarray, what: str) -> None:
    bad = Fisher(rows.astype(np.float32), columns.astype(np.float32))
    with pytest.raises(InvalidInput, match=what) as error:
        Importance({}, fisher={"a": bad, "b": _fisher(6, 4), "c": bad}, fisher_windows=1)
    assert [fault.where for fault in error.value.faults] == ["a", "c"]


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ([1.0], "a: has 1 costs of rounded inputs, not 2"),
        ([1.0, -1.0], "a: Fisher information is negative or not finite"),
        ([np.nan, 1.0], "a: Fisher information is negative or not finite"),
    ],
)
def test_impossible_costs_of_rounded_inputs_are_refused(inputs: list[float], what: str) -> None:
    bad = replace(_fisher(6, 4), inputs=np.array(inputs, np.float32))
    with pytest.raises(InvalidInput, match=what):
        Importance({}, fisher={"a": bad}, fisher_windows=1)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    ones = {"a.fisher_rows": np.ones(3), "b.fisher_rows": np.ones(3), "b.fisher_columns": np.ones(2)}
    with pytest.raises(InvalidInput, match="a: has Fisher information of only rows or only columns"):
        read_importance(_written(tmp_path / "rows.gguf", ones))
    with pytest.raises(InvalidInput, match="only rows or only columns") as error:
        read_importance(_written(tmp_path / "both.gguf", {**ones, "c.fisher_columns": np.ones(2)}))
    assert [fault.where for fault in error.value.faults] == ["a", "c"]
    with pytest.raises(InvalidInput, match="not its number of windows"):
        read_importance(_written(tmp_path / "none.gguf", {**ones, "a.fisher_columns": np.ones(2)}, windows=None))
    with pytest.raises(InvalidInput, match="b: Fisher information is negative"):
        read_importance(_written(tmp_path / "bad.gguf", {"b.fisher_rows": -np.ones(3), "b.fisher_columns": np.ones(2)}))
    assert (
        read_importance(_written(tmp_path / "good.gguf", {**ones, "a.fisher_columns": np.ones(4)})).fisher_windows == 3
    )


def test_levels_there_and_back_as_gguf_py_reads_them(tmp_path: Path) -> None:
    importance, path = _with_levels(), tmp_path / "i.gguf"
    write_importance(importance, path)
    again = read_importance(path)
    assert again.windows == importance.windows
    reader = gguf.GGUFReader(path)
    raw = {tensor.name: tensor.data for tensor in reader.tensors}
    for name, each in importance.fisher.items():
        np.testing.assert_array_equal(np.asarray(again.fisher[name].levels), np.asarray(each.levels))
        np.testing.assert_array_equal(raw[f"{name}.fisher_levels"], np.asarray(each.levels))
    assert reader.fields["raq.fisher.texts"].contents() == ["a", "b", "a"]
    # They decide no bytes of a quantized file.
    assert again.fisher_digest() == _importance().fisher_digest()
    write_importance(importance, tmp_path / "i.dat")
    assert read_importance(tmp_path / "i.dat").windows == ()
    assert replace(importance, fisher={}, fisher_windows=0).windows == ()


def test_merging_keeps_the_levels_of_all_windows() -> None:
    one, two = _with_levels(0, 3, "ab"), _with_levels(5, 1, "c")
    both = merge([one, two])
    assert [window.text for window in both.windows] == ["a", "b", "a", "c"]
    assert {window.weight for window in both.windows} == {1.0}
    for name, found in both.fisher.items():
        parts = [np.asarray(part.fisher[name].levels) for part in (one, two)]
        np.testing.assert_array_equal(np.asarray(found.levels), np.concatenate(parts))
    for lacking in (merge([one, _importance(5, 1)]), blend([(one, 1.0), (_importance(5, 1), 1.0)])):
        assert lacking.windows == ()
        assert {each.levels is None for each in lacking.fisher.values()} == {True}
    assert merge([one, replace(two, fisher={}, fisher_windows=0)]).windows == one.windows


def test_windows_count_as_their_domains_do() -> None:
    one, two = _with_levels(0, 3, "ab"), _with_levels(5, 1, "c")
    both = blend([(one, 1.0), (two, 3.0)])
    np.testing.assert_allclose([window.weight for window in both.windows], [1 / 3, 1 / 3, 1 / 3, 3])
    # A blend of a blend: what was one part keeps its share.
    again = merge([both, _with_levels(7, 4, "d")])
    np.testing.assert_allclose([window.weight for window in again.windows], [1 / 3, 1 / 3, 1 / 3, 3, 1, 1, 1, 1])


def test_levels_of_other_windows_are_refused(tmp_path: Path) -> None:
    rows = {"a.fisher_rows": np.ones(3), "a.fisher_columns": np.ones(4)}
    levels, weights = {"a.fisher_levels": np.ones(3)}, {"raq.fisher.weights": np.ones(3)}
    named = ["x", "y", "z"]
    good = read_importance(_written(tmp_path / "good.gguf", {**rows, **levels, **weights}, texts=named))
    assert [window.text for window in good.windows] == named
    cases = (
        ({**levels, **weights}, ["x", "y"], "needs raq.fisher.texts and raq.fisher.weights of as many windows"),
        (levels, named, "needs raq.fisher.texts and raq.fisher.weights of as many windows"),
        (levels, None, "has levels of Fisher information in 3 windows, names 0 and counted 3; collect it again"),
        (weights, named, "has levels of Fisher information in 0 windows, names 3 and counted 3; collect it again"),
        ({"a.fisher_levels": np.ones(2), **weights}, named, "in 2 windows, names 3 and counted 3"),
        ({**levels, "raq.fisher.weights": np.array([1, -1, 1])}, named, "impossible weights"),
        ({"a.fisher_levels": np.array([1, np.nan, 1]), **weights}, named, "a: Fisher information is negative or not"),
    )
    for number, (more, texts, what) in enumerate(cases):
        path = _written(tmp_path / f"{number}.gguf", {**rows, **more}, texts=texts)
        with pytest.raises(InvalidInput, match=what) as error:
            read_importance(path)
        assert len(error.value.faults) == 1
    counted = _written(tmp_path / "counted.gguf", {**rows, **levels, **weights}, windows=4, texts=named)
    with pytest.raises(InvalidInput, match="in 3 windows, names 3 and counted 4"):
        read_importance(counted)


def test_it_belongs_to_its_model() -> None:
    importance = _importance()
    check_against(importance, TENSORS, TENSORS)
    turned = {name: Fisher(each.columns, each.rows) for name, each in importance.fisher.items()}
    with pytest.raises(InvalidInput, match="has other shapes: the importance of another model") as error:
        check_against(replace(importance, fisher=turned), TENSORS, TENSORS)
    assert [fault.where for fault in error.value.faults] == [PLAIN, EXPERTS]
    flat = Fisher(importance.fisher[EXPERTS].rows.reshape(1, -1), importance.fisher[EXPERTS].columns[:1])
    with pytest.raises(InvalidInput, match="has other shapes"):
        check_against(replace(importance, fisher={EXPERTS: flat}), TENSORS, TENSORS)
    more = {**importance.fisher, "blk.1.of_a_pruned_block": _fisher(2, 2)}
    check_against(replace(importance, fisher=more), TENSORS, TENSORS)


def test_merging_is_the_mean_over_all_windows() -> None:
    one, two = _importance(0, windows=3), _importance(5, windows=1)
    both = merge([one, two])
    assert both.fisher_windows == 4
    for name, found in both.fisher.items():
        a, b = one.fisher[name], two.fisher[name]
        np.testing.assert_allclose(found.rows, 0.75 * a.rows + 0.25 * b.rows, rtol=1e-6)
        np.testing.assert_allclose(found.columns, 0.75 * a.columns + 0.25 * b.columns, rtol=1e-6)
        inputs = 0.75 * np.asarray(a.inputs) + 0.25 * np.asarray(b.inputs)
        np.testing.assert_allclose(np.asarray(found.inputs), inputs, rtol=1e-6)
    assert merge([one]).fisher_digest() == one.fisher_digest()
    assert both.remarks == ()
    lacking = merge([replace(one, source="one"), replace(two, fisher={}, fisher_windows=0)])
    assert (lacking.fisher_digest(), lacking.fisher_windows) == (one.fisher_digest(), 3)
    assert lacking.remarks == ("Fisher information is of one alone",)
    with pytest.raises(InvalidInput, match="different shapes"):
        merge([one, replace(two, fisher={PLAIN: _fisher(6, 5)})])


def test_costs_of_rounded_inputs_are_known_where_all_parts_know_them() -> None:
    one, two = _importance(0), _importance(5)
    older = replace(two, fisher={name: replace(each, inputs=None) for name, each in two.fisher.items()})
    said = ("5.gguf has no costs of rounded inputs, so that the whole has none; collect it again",)
    for whole in (merge([one, older]), blend([(older, 1.0), (one, 2.0)])):
        assert all(each.inputs is None for each in whole.fisher.values())
        assert whole.remarks == said
    assert merge([older, older]).remarks == ()
    # A tensor that had no gradient in one part had no costs there either.
    partly = joined(one.fisher, 3, {PLAIN: two.fisher[PLAIN]}, 1)
    expected = 0.75 * np.asarray(one.fisher[EXPERTS].inputs)
    np.testing.assert_allclose(np.asarray(partly[EXPERTS].inputs), expected, rtol=1e-6)


def test_domains_count_by_weight_not_by_windows() -> None:
    one, two = _importance(0, windows=3), _importance(5, windows=1)
    both = blend([(one, 1.0), (two, 3.0)])
    assert both.fisher_windows == 4
    for name, found in both.fisher.items():
        a, b = one.fisher[name], two.fisher[name]
        np.testing.assert_allclose(found.rows, 0.25 * a.rows + 0.75 * b.rows, rtol=1e-6)
        np.testing.assert_allclose(found.columns, 0.25 * a.columns + 0.75 * b.columns, rtol=1e-6)
    lacking = blend([(one, 1.0), (replace(two, fisher={}, fisher_windows=0, source="two"), 1.0)])
    assert (dict(lacking.fisher), lacking.fisher_windows) == ({}, 0)
    assert lacking.remarks == (
        "two has no Fisher information, so that the blend has none; collect it again with --fisher",
    )


def test_where_nothing_was_counted_columns_count_by_fisher_information() -> None:
    importance = _importance()
    np.testing.assert_array_equal(np.asarray(importance.rounding(TENSORS[0])), np.asarray(importance.rows(TENSORS[0])))
    columns = np.array([[0.0, 1e-38], [2e-30, 4e-30], [0.0, 0.0]], np.float32)
    fisher = {EXPERTS: Fisher(np.ones((3, 5), np.float32), columns)}
    uncounted = Importance({}, fisher=fisher, fisher_windows=1)
    assert uncounted.rows(TENSORS[1]) is None
    # Only ratios within a matrix count; nothing counts as nothing, and a matrix of zeros counts alike.
    np.testing.assert_allclose(np.asarray(uncounted.rounding(TENSORS[1])), [[1e-9, 1], [0.5, 1], [1, 1]])
    assert uncounted.rounding(TENSORS[0]) is None
