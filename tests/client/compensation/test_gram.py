import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.compensation.gram import (
    USUAL_SQUARE,
    Entry,
    Gram,
    InMemory,
    MatrixGram,
    column_blocks,
    pack,
    unpack,
)
from raq_client.compensation.gram_file import read_gram, write_gram
from raq_client.compensation.merging import merge_grams
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor


def _matrix(length: int, seed: int) -> MatrixGram:
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((2 * length, length)).astype(np.float32)
    return MatrixGram((inputs.T @ inputs / np.float32(2 * length),), 2 * length, inputs[:3])


def _of_blocks(matrix: MatrixGram, widest: int) -> MatrixGram:
    """The same statistics, of blocks along the diagonal."""
    parts = [slice(each.first, each.last) for each in column_blocks(matrix.length, widest)]
    return replace(matrix, blocks=tuple(np.ascontiguousarray(matrix.blocks[0][part, part]) for part in parts))


def _gram(*, seed: int = 0, model: str = "a model") -> Gram:
    """Two entries: a matrix shared by two tensors, and three experts of which one saw nothing."""
    silent = MatrixGram((np.zeros((4, 4), np.float32),), 0, np.zeros((0, 4), np.float32))
    matrices = {
        "q": [_matrix(8, seed)],
        "up": [_matrix(4, seed + 1), _matrix(4, seed + 2), silent],
        "k.outputs": [_of_blocks(_matrix(512, seed + 3), 256)],
    }
    entries = {name: Entry.of(parts, 10) for name, parts in matrices.items()}
    entries["k.outputs"] = Entry.of(matrices["k.outputs"], 9, widest=256)
    shared = {"q": "q", "k": "q", "up": "up"}
    return Gram(entries, shared, InMemory(matrices), ("a text",), 10, 64, model, outputs=frozenset({"k"}))


@given(st.integers(1, 3000), st.integers(1, 8).map(lambda each: 256 * each))
def test_blocks_of_columns_cover_a_row_in_order_and_end_where_types_do(length: int, widest: int) -> None:
    blocks = column_blocks(length, widest)
    assert [block.first for block in blocks] == [0, *(block.last for block in blocks[:-1])]
    assert blocks[-1].last == length
    assert all(0 < block.last - block.first <= widest for block in blocks)
    assert all(block.last % 256 == 0 for block in blocks[:-1])


@given(st.integers(1, 40), st.integers(0, 99))
def test_packing_loses_nothing_of_a_symmetric_matrix(width: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((width, width)).astype(np.float32)
    symmetric = values + values.T
    np.testing.assert_array_equal(unpack(pack(symmetric), width), symmetric)


@given(st.integers(1, 20), st.integers(1, 5), st.integers(0, 99))
def test_the_energy_of_a_change_is_the_mean_squared_output_over_the_inputs(length: int, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((7, length)).astype(np.float32)
    changes = random.standard_normal((rows, length)).astype(np.float32)
    gram = MatrixGram((inputs.T @ inputs / np.float32(7),), 7, inputs)
    expected = float(np.square(inputs.astype(np.float64) @ changes.T.astype(np.float64)).sum()) / 7
    assert gram.energy(changes) == pytest.approx(expected, rel=1e-4)
    of_all, of_usual = gram.held_out_energies(changes)
    assert of_all == pytest.approx(expected, rel=1e-5)
    usual = inputs[np.square(inputs, dtype=np.float64).sum(axis=1) <= USUAL_SQUARE]
    counted = usual if len(usual) else inputs
    assert of_usual == pytest.approx(
        float(np.square(counted.astype(np.float64) @ changes.T.astype(np.float64)).sum()) / len(counted), rel=1e-5
    )


def test_a_file_holds_all_that_was_written(tmp_path: Path) -> None:
    gram = _gram()
    write_gram(gram, tmp_path / "a.gram")
    found = read_gram(tmp_path / "a.gram")
    assert (found.texts, found.windows, found.context, found.model) == (("a text",), 10, 64, "a model")
    assert dict(found.shared) == dict(gram.shared)
    assert (found.outputs, found.unfinished) == ({"k"}, False)
    assert found.digest() == gram.digest()
    for name, entry in gram.entries.items():
        assert found.entries[name].length == entry.length
        assert (found.entries[name].windows, found.entries[name].widest) == (entry.windows, entry.widest)
        np.testing.assert_array_equal(found.entries[name].held_out, entry.held_out)
        np.testing.assert_array_equal(found.entries[name].tokens, entry.tokens)
        for index in range(entry.tokens.size):
            one, other = gram.source.matrix(name, index), found.source.matrix(name, index)
            assert one.tokens == other.tokens
            np.testing.assert_array_equal(one.held_out, other.held_out)
            # The lower triangle is not stored: products of BLAS are symmetric to the last bit only.
            for of_one, of_other in zip(one.blocks, other.blocks, strict=True):
                np.testing.assert_allclose(of_one, of_other, rtol=1e-5, atol=1e-6)


def test_digests_differ_with_the_statistics() -> None:
    assert _gram().digest() == _gram().digest() != _gram(seed=1).digest()


def test_of_another_model_it_is_refused() -> None:
    tensors = [Tensor("q", (8, 2), CATALOGUE["F16"]), Tensor("k", (8, 512), CATALOGUE["F16"])]
    up = Tensor("up", (4, 2, 3), CATALOGUE["F16"])
    gram = _gram()
    assert gram.check_against("a model", [*tensors, up]) is gram
    with pytest.raises(InvalidInput, match="another model"):
        gram.check_against("another", [*tensors, up])
    with pytest.raises(InvalidInput, match="not a tensor of this model"):
        gram.check_against("a model", tensors)
    with pytest.raises(InvalidInput, match="3 matrices of 4 columns"):
        gram.check_against("a model", [*tensors, Tensor("up", (4, 6), CATALOGUE["F16"])])
    with pytest.raises(InvalidInput, match="other outputs"):
        gram.check_against("a model", [tensors[0], Tensor("k", (8, 256), CATALOGUE["F16"]), up])


def test_an_interrupted_collection_is_no_statistics(tmp_path: Path) -> None:
    gram = _gram()
    write_gram(replace(gram, unfinished=True), tmp_path / "a.gram")
    found = read_gram(tmp_path / "a.gram")
    assert found.unfinished
    for use in (lambda: found.check_against("a model", []), lambda: merge_grams([(gram, None), (found, None)])):
        with pytest.raises(InvalidInput, match="interrupted collection"):
            use()


def _damage(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-100], "cut off"),
        (lambda data: b"nothing", "not a GGUF file"),
        (lambda data: data.replace(b"q=8:10", b"q=9:10"), "different shapes"),
        (lambda data: data.replace(b"q=8:10", b"x=8:10"), "incomplete"),
        (lambda data: data.replace(b"q=8:10", b"q=8:ab"), "damaged"),
        (lambda data: data.replace(b"k=q", b"k=x"), "has no statistics"),
        (lambda data: data.replace(b"raq.gram.texts", b"raq.gram.tests"), "has not all of"),
        (lambda data: data.replace(struct.pack("<f", 16), struct.pack("<f", -1), 1), "no numbers of tokens"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    write_gram(_gram(), tmp_path / "a.gram")
    with pytest.raises(InvalidInput, match=message):
        read_gram(_damage(tmp_path / "a.gram", change))


@pytest.mark.parametrize("place", [0.3, 0.6, 0.98])
def test_any_changed_byte_is_noticed_before_statistics_are_used(tmp_path: Path, place: float) -> None:
    """The data are compared when the first matrix is read; copies and older files without a digest are fine."""
    write_gram(replace(_gram(), sequences=_sequences(10, 0)), tmp_path / "a.gram")
    data = (tmp_path / "a.gram").read_bytes()
    (tmp_path / "copy.gram").write_bytes(data)
    older = data.replace(b"raq.gram.file_sha256", b"raq.gram.some_sha256")
    (tmp_path / "older.gram").write_bytes(older)
    for name in ("copy", "older"):
        assert read_gram(tmp_path / f"{name}.gram").source.matrix("q", 0).tokens == 16
    changed = bytearray(data)
    changed[int(place * len(data)) // 4 * 4] ^= 1
    (tmp_path / "b.gram").write_bytes(changed)
    with pytest.raises(InvalidInput, match=r"b\.gram: is damaged: its bytes are not those that were written"):
        read_gram(tmp_path / "b.gram").source.matrix("q", 0)
    write_gram(replace(_gram(), unfinished=True), tmp_path / "c.gram")
    changed = bytearray((tmp_path / "c.gram").read_bytes())
    changed[int(place * len(changed)) // 4 * 4] ^= 1
    (tmp_path / "c.gram").write_bytes(changed)
    with pytest.raises(InvalidInput, match=r"c\.gram: is damaged: .*; remove it, and the collection begins again"):
        read_gram(tmp_path / "c.gram").source.matrix("q", 0)


@pytest.mark.parametrize("value", [3e38, 0.5, np.nan, np.inf])
def test_counts_that_are_no_whole_numbers_are_refused(tmp_path: Path, value: float) -> None:
    write_gram(replace(_gram(), sequences=_sequences(10, 200_000)), tmp_path / "a.gram")
    data = (tmp_path / "a.gram").read_bytes()
    for count in (16, 200_001):
        bad = data.replace(struct.pack("<f", count), struct.pack("<f", value))
        (tmp_path / "b.gram").write_bytes(bad)
        with pytest.raises(InvalidInput, match="no numbers of tokens"):
            read_gram(tmp_path / "b.gram")


def test_statistics_that_are_not_finite_are_refused_when_they_are_read(tmp_path: Path) -> None:
    gram = _gram()
    broken = MatrixGram((np.full((8, 8), np.nan, np.float32),), 16, np.zeros((0, 8), np.float32))
    entries = {**gram.entries, "q": Entry.of([broken], 10)}
    write_gram(replace(gram, entries=entries, source=InMemory({"q": [broken]}, gram.source)), tmp_path / "a.gram")
    with pytest.raises(InvalidInput, match="not finite"):
        read_gram(tmp_path / "a.gram").source.matrix("q", 0)


def test_merged_by_weight_they_are_the_weighted_mean() -> None:
    one, other = _gram(seed=0), _gram(seed=5)
    merged = merge_grams([(one, 1.0), (other, 3.0)])
    blocks = [each.source.matrix("q", 0).blocks[0] for each in (one, other)]
    np.testing.assert_allclose(merged.source.matrix("q", 0).blocks[0], 0.25 * blocks[0] + 0.75 * blocks[1], rtol=1e-5)
    assert merged.entries["q"].tokens.tolist() == [32]
    assert (merged.windows, merged.entries["k.outputs"].windows) == (20, 18)
    held_out = [len(merged.source.matrix("q", 0).held_out), int(merged.entries["q"].held_out[0])]
    assert held_out == [6, 6]
    assert merged.texts == ("a text",)


@pytest.mark.parametrize("first", [True, False])
def test_what_one_of_the_merged_does_not_use_is_left_out(*, first: bool) -> None:
    one, other = _gram(), _gram(seed=9)
    more = replace(one, entries={**one.entries, "unused": one.entries["q"]}, known_digest="")
    merged = merge_grams([(each, None) for each in ((more, other) if first else (other, more))])
    assert set(merged.entries) == set(one.entries)


def test_merged_without_weights_they_are_as_if_collected_together() -> None:
    one, other = _gram(seed=0), _gram(seed=5)
    merged = merge_grams([(one, None), (other, None)])
    blocks = [each.source.matrix("q", 0).blocks[0] for each in (one, other)]
    np.testing.assert_allclose(merged.source.matrix("q", 0).blocks[0], (blocks[0] + blocks[1]) / 2, rtol=1e-5)
    assert merged.entries["up"].tokens.tolist() == [16, 16, 0]


def test_merging_refuses_other_models_and_weights_that_are_none() -> None:
    with pytest.raises(InvalidInput, match="another model"):
        merge_grams([(_gram(), None), (_gram(model="b"), None)])
    with pytest.raises(InvalidInput, match="some have weights"):
        merge_grams([(_gram(), None), (_gram(), 1.0)])
    with pytest.raises(InvalidInput, match="above 0"):
        merge_grams([(_gram(), 0.0), (_gram(), 1.0)])
    with pytest.raises(InvalidInput, match=r"weight 1e-300 is less than 1e-06 of the largest one, 2\.0"):
        merge_grams([(_gram(), 1e-300), (_gram(seed=1), 2.0)])
    for weight in (np.nan, np.inf, -1.0):
        with pytest.raises(InvalidInput, match="above 0"):
            merge_grams([(_gram(), weight), (_gram(seed=1), 1.0)])
    with pytest.raises(InvalidInput, match="other outputs"):
        merge_grams([(_gram(), None), (replace(_gram(), outputs=frozenset()), None)])
    # One that was not passed back has no curvature either.
    back = replace(_gram(), shared={"q": "q", "k": "up", "up": "up"})
    with pytest.raises(InvalidInput, match="other outputs"):
        merge_grams([(back, None), (replace(_gram(), outputs=frozenset()), None)])


@pytest.mark.parametrize("unit", [1e-320, 1e-30, 1e300])
def test_only_the_proportion_of_weights_counts(unit: float) -> None:
    one, other = (replace(_gram(seed=seed), sequences=_sequences(8, 1000 * seed)) for seed in (0, 5))
    found, expected = (merge_grams([(one, each), (other, 3 * each)]) for each in (unit, 1.0))
    np.testing.assert_array_equal(found.sequences, expected.sequences)
    for name in expected.entries:
        matrices = (each.source.matrix(name, 0).blocks[0] for each in (found, expected))
        np.testing.assert_allclose(*matrices, rtol=1e-3)  # the smallest unit has few digits


def test_the_same_statistics_are_not_counted_twice(tmp_path: Path) -> None:
    for name in "ab":
        write_gram(_gram(), tmp_path / f"{name}.gram")
    parts = [read_gram(tmp_path / f"{name}.gram") for name in "ab"]
    for weight in (None, 1.0):
        with pytest.raises(InvalidInput, match=r"b\.gram: is the same as .*a\.gram; name it once, as FILE:2"):
            merge_grams([(part, weight) for part in parts])


@given(st.floats(0.01, 1000), st.integers(0, 99))
def test_on_a_scale_on_which_all_are_usual_the_unit_of_gradients_does_not_matter(unit: float, seed: int) -> None:
    one = _matrix(8, seed)
    other = replace(
        one, blocks=tuple(b * np.float32(unit**2) for b in one.blocks), held_out=one.held_out * np.float32(unit)
    )
    one, other = one.all_usual(), other.all_usual()
    np.testing.assert_allclose(one.blocks[0], other.blocks[0], rtol=1e-4)
    np.testing.assert_allclose(one.held_out, other.held_out, rtol=1e-4)
    assert np.linalg.norm(one.held_out, axis=1).max() == pytest.approx(1, rel=1e-5)
    changes = np.random.default_rng(seed).standard_normal((3, 8)).astype(np.float32)
    whole, usual = one.held_out_energies(changes)
    assert whole == usual > 0


def _sequences(windows: int, first: int) -> np.ndarray:
    return np.arange(first, first + 64 * windows, dtype=np.int32).reshape(windows, 64)


def test_tokens_of_the_windows_are_kept_and_count_in_the_digest(tmp_path: Path) -> None:
    gram = replace(_gram(), sequences=_sequences(10, 200_000))
    write_gram(gram, tmp_path / "a.gram")
    found = read_gram(tmp_path / "a.gram")
    np.testing.assert_array_equal(found.sequences, gram.sequences)
    assert gram.digest() == found.digest() != _gram().digest()
    with pytest.raises(InvalidInput, match="no numbers of tokens"):
        read_gram(
            _damage(tmp_path / "a.gram", lambda data: data.replace(struct.pack("<f", 200_001), struct.pack("<f", -1)))
        )
    write_gram(replace(gram, context=32), tmp_path / "b.gram")
    with pytest.raises(InvalidInput, match="sequences of 64 tokens, not 32"):
        read_gram(tmp_path / "b.gram")


def test_merged_sequences_are_spread_and_as_many_as_their_weights_say() -> None:
    one, other = (replace(_gram(), sequences=_sequences(8, first)) for first in (0, 10_000))
    together = merge_grams([(one, None), (other, None)]).sequences
    assert together is not None
    assert [row[0] >= 10_000 for row in together] == [False, True] * 8
    weighted = merge_grams([(one, 1.0), (other, 3.0)]).sequences
    assert weighted is not None
    assert [row[0] >= 10_000 for row in weighted].count(True) == 8
    assert len(weighted) == 10  # 8 and 8/3
    assert merge_grams([(one, None), (_gram(), None)]).sequences is None
