import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.imatrix_file import read_importance
from raq_client.importance.statistics import entry_statistics, expert_statistics, grouped, tied_groups, zone_of
from support.paths import DATA

IMATRIX = DATA / "wiki-math-4M.gsm8k.imatrix.gguf"


def _importance(**entries: tuple[list[float], list[float]]) -> Importance:
    return Importance(
        {
            name.replace("__", "."): Entry(np.array(sums, np.float32), np.array(counts, np.float32))
            for name, (sums, counts) in entries.items()
        }
    )


def test_figures_of_a_tensor_computed_by_hand() -> None:
    (one,) = entry_statistics(_importance(blk__9__ffn_up__weight=([8, 0, 4, 4], [2])))
    assert (one.block, one.zone, one.role, one.tokens, one.values) == (9, 1, "ffn_up", 2, 4)
    assert (one.total, one.mean, one.least, one.most) == (8.0, 2.0, 0.0, 4.0)
    assert one.deviation == pytest.approx(math.sqrt(2))
    assert one.entropy == pytest.approx(1.5)
    assert one.entropy_share == pytest.approx(0.75)
    assert (one.active, one.outliers, one.similarity, one.tied) == (0.75, 0.25, None, ())


def test_mean_inputs_and_their_share_of_the_squares() -> None:
    squares, counts = np.array([8, 2, 0, 0], np.float32), np.array([2, 0], np.float32)
    plain = np.array([-4, 0, 0, 0], np.float32)
    (one,) = entry_statistics(Importance({"a": Entry(squares, counts, plain)}))
    # Means -2 and 0, mean squares 4 and 1; the second expert was not reached.
    assert (one.centre, one.bias) == (-1.0, 0.8)
    (without,) = entry_statistics(Importance({"a": Entry(squares, counts)}))
    assert (without.centre, without.bias) == (None, None)


def test_an_even_input_has_the_most_entropy_and_a_lone_column_none() -> None:
    even, lone = entry_statistics(_importance(a=([1, 1, 1, 1], [1]), b=([0, 0, 5, 0], [1])))
    assert (even.entropy, even.entropy_share) == (2.0, 1.0)
    assert (lone.entropy, lone.entropy_share) == (0.0, 0.0)


def test_silence_is_zero_everywhere() -> None:
    (one,) = entry_statistics(_importance(a=([0, 0], [0])))
    assert (one.values, one.total, one.entropy, one.active, one.silent_experts) == (0, 0.0, 0.0, 0.0, 1)


def test_similarity_looks_one_block_back() -> None:
    importance = _importance(
        blk__0__q__weight=([1, 0], [1]), blk__1__q__weight=([3, 0], [1]), blk__2__q__weight=([0, 1], [1])
    )
    assert [one.similarity for one in entry_statistics(importance)] == [None, 1.0, 0.0]


def test_experts_are_told_apart() -> None:
    importance = _importance(blk__0__ffn_up_exps__weight=([2, 6, 0, 0, 30, 10], [2, 0, 6]))
    one, silent, other = expert_statistics(importance, "blk.0.ffn_up_exps.weight")
    assert (one.tokens, one.share, one.mean) == (2, 0.25, 2.0)
    assert (silent.tokens, silent.share) == (0, 0.0)
    assert math.isnan(silent.mean)
    assert (other.share, other.mean) == (0.75, pytest.approx(10 / 3))
    (whole,) = entry_statistics(importance)
    assert (whole.experts, whole.silent_experts, whole.values) == (3, 1, 4)


def test_tensors_that_read_one_input_are_tied() -> None:
    importance = read_importance(IMATRIX)
    groups = set(tied_groups(importance).values())
    assert len(groups) == 16
    assert ("blk.0.attn_k.weight", "blk.0.attn_q.weight", "blk.0.attn_v.weight") in groups
    by_name = {one.name: one for one in entry_statistics(importance)}
    assert by_name["blk.2.ffn_up.weight"].tied == ("blk.2.ffn_gate.weight",)


def test_groups_are_means_by_number_of_columns() -> None:
    statistics = entry_statistics(
        _importance(blk__0__a__weight=([1, 1], [1]), blk__8__a__weight=([4, 4, 4, 4, 4, 4], [1]))
    )
    roles = grouped(statistics, lambda one: one.role)
    assert (roles["a"].tensors, roles["a"].mean) == (2, pytest.approx((2 * 1 + 6 * 4) / 8))
    zones = grouped(statistics, lambda one: one.zone)
    assert [zones[zone].mean for zone in (0, 1)] == [1.0, 4.0]


def test_zones() -> None:
    assert [zone_of(f"blk.{block}.x.weight") for block in (0, 7, 8, 63)] == [0, 0, 1, 7]
    assert zone_of("output.weight") == -1


def test_real_files_make_sense(data: Path) -> None:
    _make_sense(data.glob("*.dat"))


@pytest.mark.slow
def test_files_of_larger_models_make_sense(shared_data: Path) -> None:
    _make_sense((shared_data / "imatrix").glob("*.dat"))


def _make_sense(paths: Iterable[Path]) -> None:
    found = [one for path in paths for one in entry_statistics(read_importance(path))]
    assert found
    for one in found:
        assert 0 < one.least <= one.mean <= one.most
        assert 0 < one.entropy_share <= 1
        assert one.similarity is None or 0 < one.similarity <= 1
