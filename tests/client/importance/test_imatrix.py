import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

import raq_native
from raq_client.importance.combining import blend, merge
from raq_client.importance.imatrix import Entry, Importance, check_against
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_client.models.model_file import open_model
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor
from support.gguf_files import MODEL_4M, write
from support.oracles import ggml
from support.paths import DATA

GGUF_4M = DATA / "wiki-math-4M.gsm8k.imatrix.gguf"
PAIRS = [GGUF_4M, DATA / "wiki-math-4M.wiki.imatrix.gguf"]


def _entry(sums: list[float], counts: list[float]) -> Entry:
    return Entry(np.array(sums, np.float32), np.array(counts, np.float32))


def _experts(shape: tuple[int, ...] = (2, 5, 3)) -> Tensor:
    return Tensor("blk.0.ffn_up_exps.weight", shape, CATALOGUE["F16"])


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.name)
def test_both_formats_of_one_run_agree(path: Path) -> None:
    new, old = read_importance(path), read_importance(path.with_suffix(".dat"))
    assert (list(new.entries), new.datasets, new.chunk_count) == (list(old.entries), old.datasets, old.chunk_count)
    for name, entry in new.entries.items():
        # The old format stores means times chunks: one more rounding.
        np.testing.assert_allclose(old.entries[name].mean_squares, entry.mean_squares, rtol=3e-7)
        np.testing.assert_array_equal(old.entries[name].counts, entry.counts)


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.name)
def test_files_are_written_byte_for_byte_as_llama_imatrix_does(path: Path, tmp_path: Path) -> None:
    importance = read_importance(path)
    for suffix in (".gguf", ".dat"):
        copy = tmp_path / f"copy{suffix}"
        write_importance(importance, copy)
        assert copy.read_bytes() == path.with_suffix(suffix).read_bytes()


def test_says_what_gguf_py_says() -> None:
    importance = read_importance(GGUF_4M)
    raw = {tensor.name: tensor.data for tensor in gguf.GGUFReader(GGUF_4M).tensors}
    assert len(importance.entries) == 28
    for name, entry in importance.entries.items():
        np.testing.assert_array_equal(entry.sums, raw[f"{name}.in_sum2"].ravel())
        np.testing.assert_array_equal(entry.counts, raw[f"{name}.counts"].ravel())


def test_belongs_to_its_model_and_reports_what_it_does_not_know() -> None:
    tensors = open_model(MODEL_4M).tensors
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1]
    coverage = check_against(read_importance(GGUF_4M), tensors, matrices)
    assert coverage.missing == ("token_embd.weight", "output.weight")
    assert (coverage.extra, dict(coverage.silent_experts)) == ((), {})


def test_importance_of_another_model_names_every_difference() -> None:
    tensors = open_model(MODEL_4M).tensors
    other = Importance(
        {
            "blk.0.attn_q.weight": _entry([1] * 512, [4]),
            "blk.1.attn_q.weight": _entry([1] * 512, [4]),
            **{f"blk.{block}.attn_q.weight": _entry([1] * 512, [4]) for block in range(40, 45)},
        }
    )
    with pytest.raises(InvalidInput) as error:
        check_against(other, tensors, tensors)
    assert len(error.value.faults) == 7
    assert "512 values in the importance, but the tensor is 256×256 and needs 256" in str(error.value)


def test_a_few_entries_too_many_are_reported_not_refused() -> None:
    importance = Importance({name: _entry([1, 1], [1]) for name in ("a", "b", "from_a_pruned_block")})
    tensors = [Tensor(name, (2, 2), CATALOGUE["F16"]) for name in ("a", "b")]
    assert check_against(importance, tensors, tensors).extra == ("from_a_pruned_block",)


def test_a_silent_expert_is_unknown_not_unimportant() -> None:
    tensor = _experts()
    importance = Importance({tensor.name: _entry([2, 6, 0, 0, 10, 30], [2, 0, 10])})
    rows = importance.rows(tensor)
    assert rows is not None
    np.testing.assert_array_equal(rows, [[1, 3], [2, 2], [1, 3]])
    assert dict(check_against(importance, [tensor], [tensor]).silent_experts) == {tensor.name: 1}


def test_an_entry_without_any_count_is_missing() -> None:
    tensor = _experts()
    importance = Importance({tensor.name: _entry([0] * 6, [0] * 3)})
    assert importance.rows(tensor) is None
    assert check_against(importance, [tensor], [tensor]).missing == (tensor.name,)


def test_experts_survive_both_formats(tmp_path: Path) -> None:
    tensor = _experts()
    importance = Importance({tensor.name: _entry([2, 6, 0, 0, 10, 30], [2, 0, 10])}, ("text",), 1, 512)
    for suffix in (".gguf", ".dat"):
        path = tmp_path / f"e{suffix}"
        write_importance(importance, path)
        rows = read_importance(path).rows(tensor)
        assert rows is not None
        np.testing.assert_allclose(rows[[0, 2]], [[1, 3], [1, 3]])
    assert read_importance(tmp_path / "e.gguf").digest() == importance.digest()


def test_merging_is_counting_in_one_run() -> None:
    one = Importance({"a": _entry([2, 4], [2]), "b": _entry([1], [1])}, ("x",), 3)
    two = Importance({"a": _entry([6, 4], [6])}, ("y", "x"), 4)
    both = merge([one, two])
    np.testing.assert_array_equal(both.entries["a"].mean_squares, [[1, 1]])
    np.testing.assert_array_equal(both.entries["b"].mean_squares, [[1]])
    assert (both.datasets, both.chunk_count) == (("x", "y"), 7)
    with pytest.raises(InvalidInput, match="can't be merged"):
        merge([one, Importance({"a": _entry([1], [1])})])


def test_one_count_for_all_experts_is_taken_for_each() -> None:
    """As llama-imatrix has it where it goes on from an older file."""
    each = Importance({"e": _entry([2, 4, 9, 9], [2, 3])}, chunk_count=1)
    for_all = Importance({"e": _entry([10, 10, 20, 20], [10])}, chunk_count=2)
    for parts in ([each, for_all], [for_all, each]):
        both = merge(parts).entries["e"]
        assert both.sums.tolist() == [12, 14, 29, 29]
        assert both.counts.tolist() == [12, 13]
    blended = blend([(each, 1.0), (for_all, 1.0)])
    np.testing.assert_allclose(blended.entries["e"].mean_squares, [[1, 1.5], [2.5, 2.5]])
    with pytest.raises(InvalidInput, match="4 values of 4 matrices in the importance, 4 values of 2 matrices in"):
        merge([each, Importance({"e": _entry([1, 1, 1, 1], [1, 1, 1, 1])})])


def test_chunks_of_another_length_are_counted_in_tokens(tmp_path: Path) -> None:
    short = Importance({"a": _entry([256, 512], [512])}, ("x",), 2, 256)
    whole = Importance({"a": _entry([1024, 512], [512])}, ("y",), 1, 512)
    both = merge([short, whole])
    assert (both.chunk_count, both.chunk_size) == (4, 256)
    path = tmp_path / "short.dat"
    write_importance(short, path)
    again = read_importance(path, chunk_size=256)
    assert (again.chunk_size, again.digest()) == (256, short.digest())
    assert merge([again, whole]).entries["a"].counts.tolist() == [1024]
    assert read_importance(path).entries["a"].counts.tolist() == [1024], "512 where nothing else is said"


def test_windows_of_different_lengths_are_remarked_on() -> None:
    short = Importance({"a": _entry([256, 512], [512])}, ("x",), 2, 256)
    whole = Importance({"a": _entry([1024, 512], [512])}, ("y",), 1, 512)
    for both in (merge([whole, short]), blend([(whole, 0.5), (short, 0.5)])):
        (remark,) = both.remarks
        assert remark.startswith("windows of 256 and 512 tokens are added up")
        assert merge([both, both]).remarks == both.remarks
    assert merge([whole, whole]).remarks == blend([(short, 1), (short, 1)]).remarks == ()


@pytest.mark.parametrize(
    ("fused", "part"),
    [
        ("blk.0.ffn_gate_up_exps.weight", "blk.0.ffn_up_exps.weight"),
        ("blk.0.ffn_gate_up.weight", "blk.0.ffn_gate.weight"),
        ("blk.0.attn_qkv.weight", "blk.0.attn_k.weight"),
    ],
)
def test_fused_tensors_have_the_importance_of_their_parts_and_back(fused: str, part: str) -> None:
    """Gate and up are multiplied with the same inputs, fused or not."""
    entry = _entry([1, 2, 3, 8, 10, 12], [1, 2])
    q = CATALOGUE["F16"]
    for known, asked in ((part, fused), (fused, part)):
        importance = Importance({known: entry})
        tensor = Tensor(asked, (3, 4, 2), q)
        assert importance.knows(asked)
        np.testing.assert_array_equal(np.asarray(importance.rows(tensor)), [[1, 2, 3], [4, 5, 6]])
        coverage = check_against(importance, [tensor], [tensor])
        assert (coverage.missing, coverage.extra) == ((), ())
        assert importance.rows(Tensor(asked, (6, 4, 2), q)) is None, "of another model"
    assert Importance({part: entry}).rows(Tensor("blk.1." + fused[6:], (3, 4, 2), q)) is None


def _with_means(sums: list[float], counts: list[float], plain: list[float]) -> Entry:
    return Entry(np.array(sums, np.float32), np.array(counts, np.float32), np.array(plain, np.float32))


def test_sums_of_inputs_are_kept_merged_and_blended(tmp_path: Path) -> None:
    one = Importance({"a": _with_means([2, 6, 10, 30], [2, 10], [1, -2, 5, 0])}, ("x",), 1)
    two = Importance({"a": _with_means([2, 2, 0, 0], [2, 0], [3, 0, 0, 0])}, ("y",), 1)
    path = tmp_path / "means.gguf"
    write_importance(one, path)
    again = read_importance(path)
    assert again.digest() == one.digest() == Importance({"a": _entry([2, 6, 10, 30], [2, 10])}).digest()
    for found in (again.entries["a"].means, merge([one]).entries["a"].means):
        np.testing.assert_array_equal(np.asarray(found), [[0.5, -1], [0.5, 0]])
    raw = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert raw["a.in_sum"].shape.tolist() == raw["a.in_sum2"].shape.tolist() == [2, 2]
    np.testing.assert_array_equal(np.asarray(merge([one, two]).entries["a"].means), [[1, -0.5], [0.5, 0]])
    np.testing.assert_allclose(
        np.asarray(blend([(one, 1.0), (two, 3.0)]).entries["a"].means), [[0.25 * 0.5 + 0.75 * 1.5, -0.25], [0.5, 0]]
    )
    assert merge([one, Importance({"a": _entry([1, 1, 1, 1], [1, 1])})]).entries["a"].means is None


@pytest.mark.parametrize(("plain", "what"), [([np.nan, 1], "not finite"), ([1, 1, 1], "3 sums of inputs, but 2")])
def test_impossible_sums_of_inputs_are_refused(plain: list[float], what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        Importance({"a": _with_means([1, 1], [1], plain)})


def test_domains_count_by_weight_not_by_length() -> None:
    short = Importance({"a": _entry([2, 0], [1]), "b": _entry([4, 8], [1, 0])}, ("x",))
    long = Importance({"a": _entry([0, 4000], [1000]), "b": _entry([8, 8], [1, 1])}, ("y",))
    both = blend([(short, 0.75), (long, 0.25)])
    np.testing.assert_allclose(both.entries["a"].mean_squares, [[1.5, 1]])
    # Only the long text reached the second expert.
    np.testing.assert_allclose(both.entries["b"].mean_squares, [[5], [8]])
    assert both.datasets == ("x", "y")
    np.testing.assert_allclose(blend([(short, 3.0)]).entries["a"].sums, short.entries["a"].sums)
    with pytest.raises(InvalidInput, match="must be above 0"):
        blend([(short, 0.0), (long, 1.0)])


def test_digests_tell_importances_apart() -> None:
    base = {"a": _entry([2, 4], [2])}
    digests = {
        Importance(entries).digest()
        for entries in (base, {"b": base["a"]}, {"a": _entry([2, 5], [2])}, {"a": _entry([2, 4], [3])})
    }
    assert len(digests) == 4
    assert Importance(base, ("another text",)).digest() in digests


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_impossible_numbers_are_refused_with_every_tensor(bad: float) -> None:
    with pytest.raises(InvalidInput, match="1 of 2 values are negative or not finite") as error:
        Importance({"a": _entry([1, bad], [1]), "b": _entry([bad, 1], [1]), "c": _entry([1, 1], [1])})
    assert [fault.where for fault in error.value.faults] == ["a", "b"]


@pytest.mark.parametrize("share", [0.00005, 0.01, 0.5, 0.99])
def test_a_cut_off_file_is_refused(tmp_path: Path, share: float) -> None:
    for suffix in (".dat", ".gguf"):
        whole = GGUF_4M.with_suffix(suffix).read_bytes()
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InvalidInput, match=r"cut off"):
            read_importance(path)


@pytest.mark.parametrize("content", [b"", b"text that is no importance file", struct.pack("<i", 0), bytes(64)])
def test_what_is_no_importance_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.dat"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="not an importance file"):
        read_importance(path)


def test_a_model_is_not_an_importance_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no importance matrix"):
        read_importance(MODEL_4M)
    with pytest.raises(InvalidInput, match="No such file"):
        read_importance(tmp_path / "absent")


def test_sums_without_counts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    writer = gguf.GGUFWriter(path, "any")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["t"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_tensor("a.weight.in_sum2", np.ones(4, np.float32))
    write(writer)
    with pytest.raises(InvalidInput) as error:
        read_importance(path)
    assert len(error.value.faults) == 2


@pytest.mark.parametrize("name", ["IQ3_S", "Q4_K", pytest.param("IQ2_S", marks=pytest.mark.slow)])
@pytest.mark.parametrize("idle", [slice(1, None, 2), slice(0, 128)])
def test_columns_at_zero_are_rounded_about_as_well_as_by_ggml(name: str, idle: slice) -> None:
    model, known = open_model(MODEL_4M), read_importance(GGUF_4M)
    tensor = model.tensor("blk.0.ffn_up.weight")
    sums = known.entries[tensor.name].sums.copy()
    sums[idle] = 0
    entry = Entry(sums, known.entries[tensor.name].counts)
    columns = Importance({tensor.name: entry}).rows(tensor)
    assert columns is not None
    weights = model.weights(tensor)
    ours = raq_native.dequantize(name, raq_native.quantize(name, weights, columns[0]), tensor.row_length)
    plain = entry.mean_squares[0]
    theirs = ggml.dequantize(name, ggml.quantize(name, weights, plain), tensor.row_length)
    assert np.square(ours - weights).sum() < 1.05 * np.square(theirs - weights).sum()
    assert (plain * np.square(ours - weights)).sum() < (plain * np.square(theirs - weights)).sum()


def test_only_columns_that_were_never_at_work_are_lifted() -> None:
    seen = np.array([[4, 1e-4, 2, 2], [0, 8, 0, 0], [0, 0, 0, 0]], np.float32)
    tensor = Tensor("t.weight", (4, 2, 3), CATALOGUE["F16"])
    rows = Importance({"t.weight": Entry(seen.ravel(), np.ones(3, np.float32))}).rows(tensor)
    assert rows is not None
    np.testing.assert_array_equal(rows[0], seen[0])
    np.testing.assert_allclose(rows[1], [0.2, 8, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(rows[2], 0.1 * seen.mean(), rtol=1e-6)  # an expert that was reached, with zeros
    nothing = Importance({"t.weight": Entry(np.zeros(12, np.float32), np.ones(1, np.float32))}).rows(tensor)
    assert nothing is not None
    assert (nothing == nothing[0, 0]).all()
    assert 0 < nothing[0, 0] < 1e-5


def test_importance_without_zeros_is_what_the_file_says() -> None:
    known = read_importance(GGUF_4M)
    for tensor in open_model(MODEL_4M).tensors:
        rows = known.rows(tensor)
        if rows is not None:
            assert rows.tobytes() == known.entries[tensor.name].mean_squares.tobytes()


def test_a_file_of_no_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.gguf"
    write_importance(Importance({}, ("text",), 3), path)
    with pytest.raises(InvalidInput, match=r"none.gguf: holds the importance of no tensor; collect it again"):
        read_importance(path)


def test_what_is_passed_by_mistake_is_named(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n")
    with pytest.raises(InvalidInput, match="not an importance file: it is a Git LFS pointer"):
        read_importance(path)
