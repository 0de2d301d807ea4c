"""Paths against the formulas written out over plain numbers, and what must not depend on experts without data."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raq_client.importance.combining import merge
from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_client.importance.path_cells import Cells
from raq_client.importance.paths import (
    cell_energies,
    contrasts,
    differences,
    most_distinctive,
    path_map,
    path_maps,
)
from raq_solver.errors import InvalidInput
from support.paths import DATA

FAMILIES = ("ffn_down_exps", "ffn_gate_exps", "ffn_up_exps")
COLUMNS = {"ffn_down_exps": 4, "ffn_gate_exps": 8, "ffn_up_exps": 8}


def mixture(levels: np.ndarray, counts: np.ndarray | None = None, seed: int = 0) -> Importance:
    """A text's importance with these mean squares by block, family and expert; `counts` by block and expert."""
    random = np.random.default_rng(seed)
    blocks, _, experts = levels.shape
    counts = np.full((blocks, experts), 100.0) if counts is None else counts
    entries = {}
    for block in range(blocks):
        for number, family in enumerate(FAMILIES):
            columns = random.uniform(0.5, 1.5, (experts, COLUMNS[family]))
            columns *= levels[block, number][:, None] / columns.mean(axis=1, keepdims=True)
            sums = (columns * counts[block][:, None]).astype(np.float32)
            entries[f"blk.{block}.{family}.weight"] = Entry(sums.ravel(), counts[block].astype(np.float32))
    return Importance(entries, source="made")


def dense(levels: np.ndarray, tokens: float = 100.0) -> Importance:
    """Importance of a dense model by block and role; attn_q and attn_k read one input."""
    entries = {}
    for block, row in enumerate(levels):
        for role, number in (("attn_q", 0), ("attn_k", 0), ("attn_output", 1), ("ffn_down", 2)):
            sums = np.full(4 + number, row[number] * tokens, np.float32)
            entries[f"blk.{block}.{role}.weight"] = Entry(sums, np.array([tokens], np.float32))
    return Importance(entries, source="dense")


Level = st.floats(0.01, 100)


def table(blocks: int, cells: int) -> st.SearchStrategy[np.ndarray]:
    count = blocks * 3 * cells
    return st.lists(Level, min_size=count, max_size=count).map(lambda found: np.array(found).reshape(blocks, 3, cells))


def forgequant_layers(levels: np.ndarray) -> tuple[list[float], list[list[float]]]:
    """Energies and combined heats of layers, as forgequant defines them, over plain numbers."""
    energies, combined = [], []
    for layer in levels.tolist():
        energies.append(math.fsum(value for family in layer for value in family))
        combined.append([sum(family[e] / max(family) for family in layer) for e in range(len(layer[0]))])
    return energies, combined


def forgequant_divergences(domain: np.ndarray, general: np.ndarray) -> tuple[list[float], list[float]]:
    """Divergence and net of each layer."""
    spread = []
    for levels in (domain, general):
        energies, combined = forgequant_layers(levels)
        shares = [energy / sum(energies) for energy in energies]
        spread.append([[c / sum(row) * share for c in row] for row, share in zip(combined, shares, strict=True)])
    deltas = [[a - b for a, b in zip(one, other, strict=True)] for one, other in zip(*spread, strict=True)]
    return [sum(max(d, 0.0) for d in row) for row in deltas], [sum(row) for row in deltas]


@given(table(3, 5))
def test_energy_and_heat_of_experts_are_forgequants(levels: np.ndarray) -> None:
    found = path_map(mixture(levels))
    energies, combined = forgequant_layers(levels)
    assert found.cells is Cells.EXPERTS
    np.testing.assert_allclose(found.energies, energies, rtol=1e-5)
    np.testing.assert_allclose(found.heat, combined, rtol=1e-5)
    np.testing.assert_allclose(found.shares.sum(), 1)
    by_cell = cell_energies(found)
    np.testing.assert_allclose(
        [sum(v for (b, _), v in by_cell.items() if b == block) for block in range(3)], energies, rtol=1e-5
    )


@given(table(3, 4), table(3, 4))
def test_contrast_of_experts_is_forgequants(domain: np.ndarray, general: np.ndarray) -> None:
    found = contrasts([mixture(domain)], [mixture(general, seed=1)])
    divergences, nets = forgequant_divergences(domain, general)
    np.testing.assert_allclose([one.divergence for one in found], divergences, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose([one.net for one in found], nets, rtol=1e-4, atol=1e-7)
    assert math.isclose(sum(one.net for one in found), 0.0, abs_tol=1e-7)
    assert all(one.interval is None for one in found)


def test_a_block_whose_experts_change_places_is_found_though_its_energy_stays() -> None:
    levels = np.ones((4, 3, 6))
    levels[:, :, 0] = 9
    shuffled = levels.copy()
    shuffled[2] = shuffled[2, :, ::-1]
    found = contrasts([mixture(shuffled)], [mixture(levels)])
    assert most_distinctive(found, 1) == (2,)
    assert found[2].leading == ("5",)
    assert math.isclose(found[2].net, 0.0, abs_tol=1e-7)
    energies = [path_map(mixture(each)).energies for each in (levels, shuffled)]
    np.testing.assert_allclose(*energies, rtol=1e-6)


@given(table(3, 5), st.integers(0, 2), st.integers(0, 4))
def test_an_expert_that_no_token_reached_has_no_data_and_changes_nothing_else(
    levels: np.ndarray, block: int, expert: int
) -> None:
    counts = np.full((3, 5), 100.0)
    counts[block, expert] = 0
    found = path_map(mixture(levels, counts))
    assert np.isnan(found.heat[block, expert])
    assert found.reached.tolist() == [4 if row == block else 5 for row in range(3)]
    assert str(expert) not in found.leading(block)
    without = levels[block][:, [e for e in range(5) if e != expert]]
    assert math.isclose(found.energies[block], without.sum(), rel_tol=1e-5)
    contrast = contrasts([mixture(levels, counts)], [mixture(levels)])[block]
    assert math.isnan(contrast.deltas[expert])
    assert str(expert) not in contrast.leading


def test_ones_of_the_older_format_are_no_data(tmp_path: Path) -> None:
    """ds4 and llama.cpp write ones for experts that no token reached: far above real means, and no heat at all."""
    levels = np.full((2, 3, 4), 0.01)
    levels[:, :, 1] = 0.02
    counts = np.full((2, 4), 100.0)
    counts[0, 3] = 0
    known = mixture(levels, counts)
    write_importance(known, tmp_path / "old.dat")
    old = read_importance(tmp_path / "old.dat")
    with pytest.raises(InvalidInput, match="give --experts"):
        path_map(old, Cells.EXPERTS)
    found = path_map(old, experts=4)
    assert np.isnan(found.heat[0, 3])
    assert found.leading(0, 1) == ("1",)
    np.testing.assert_allclose(found.heat, path_map(known).heat, rtol=1e-4)
    with pytest.raises(InvalidInput, match="not those of 3 experts"):
        path_map(old, experts=3)


@given(table(2, 3))
def test_a_text_does_not_differ_from_itself(levels: np.ndarray) -> None:
    for importance in (mixture(levels), dense(levels[:, :, 0])):
        for one in differences(*path_maps([importance], [importance])):
            assert math.isclose(one.cosine, 1.0, rel_tol=1e-9)
            assert one.share_change == 0
            assert one.only_first == one.only_second == ()
        assert all(one.divergence == 0 for one in contrasts([importance], [importance]))


def test_what_only_one_text_reached_is_listed() -> None:
    counts = np.full((1, 4), 10.0)
    counts[0, 2] = 0
    (found,) = differences(*path_maps([mixture(np.ones((1, 3, 4)))], [mixture(np.ones((1, 3, 4)), counts)]))
    assert (found.only_first, found.only_second) == (("2",), ())
    assert math.isclose(found.cosine, 1.0)


@given(st.lists(Level, min_size=9, max_size=9), st.floats(0.01, 100))
def test_roles_are_compared_with_themselves_in_other_blocks(levels: list[float], scale: float) -> None:
    """The scale of one role's inputs changes nothing; roles with one input are one cell."""
    plain = np.array(levels).reshape(3, 3)
    louder = plain.copy()
    louder[:, 2] *= scale
    one, other = path_map(dense(plain)), path_map(dense(louder))
    assert one.columns == ("attn_k, attn_q", "attn_output", "ffn_down")
    np.testing.assert_allclose(one.heat, plain / plain.max(axis=0), rtol=1e-5)
    np.testing.assert_allclose(one.heat, other.heat, rtol=1e-5)
    np.testing.assert_allclose(one.shares, (plain / plain.sum(axis=0)).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(one.shares, other.shares, rtol=1e-5)


def test_a_role_that_a_block_lacks_has_no_data() -> None:
    entries = dict(dense(np.ones((2, 3))).entries)
    del entries["blk.1.attn_output.weight"]
    found = path_map(Importance(entries))
    assert np.isnan(found.heat[1, found.columns.index("attn_output")])
    assert found.reached.tolist() == [3, 2]


@settings(max_examples=3)  # two thousand drawings each
@given(st.integers(0, 2**32 - 1))
def test_several_files_count_as_their_sum_and_give_an_interval(seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = [mixture(random.gamma(2, 1, (2, 3, 4)), random.integers(1, 50, (2, 4)).astype(float)) for _ in range(4)]
    found = contrasts(parts[:2], parts[2:])
    whole = contrasts([merge(parts[:2])], [merge(parts[2:])])
    for one, other in zip(found, whole, strict=True):
        assert math.isclose(one.divergence, other.divergence, rel_tol=1e-4, abs_tol=1e-7)
        assert one.interval is not None
        assert 0 <= one.interval[0] <= one.interval[1]
    same = contrasts([parts[0], parts[0]], [parts[1], parts[1]])
    for one in same:
        assert one.interval == pytest.approx((one.divergence, one.divergence))


def test_files_of_two_models_are_refused() -> None:
    with pytest.raises(InvalidInput, match="experts in made, 6 elsewhere"):
        path_maps([mixture(np.ones((1, 3, 6)))], [mixture(np.ones((1, 3, 4)))])
    with pytest.raises(InvalidInput, match="has no figures for single experts"):
        path_map(dense(np.ones((1, 3))), Cells.EXPERTS)
    outside = Importance({"output.weight": Entry(np.ones(4, np.float32), np.ones(1, np.float32))}, source="o")
    with pytest.raises(InvalidInput, match="o: has no tensors in blocks"):
        path_map(outside)


def test_a_real_file_has_the_inputs_of_its_model() -> None:
    found = path_map(read_importance(DATA / "wiki-math-4M.gsm8k.imatrix.gguf"))
    assert found.columns == ("attn_k, attn_q, attn_v", "attn_output", "ffn_gate, ffn_up", "ffn_down")
    assert found.blocks.tolist() == [0, 1, 2, 3]
    assert found.hottest[0] == 3
