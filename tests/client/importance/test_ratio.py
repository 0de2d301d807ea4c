import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.imatrix_file import read_importance
from raq_client.importance.ratio import Thresholds, Verdict, importance_ratio
from raq_solver.errors import InvalidInput
from support.paths import DATA

NAMES = tuple(f"blk.{block}.{role}.weight" for block in range(5) for role in ("attn_q", "ffn_up"))


def _importance(levels: dict[str, float], tokens: float = 1000, seed: int = 0) -> Importance:
    """Inputs of the given mean squares; every tensor has columns of its own."""
    random = np.random.default_rng(seed)
    entries = {}
    for name, level in levels.items():
        columns = random.gamma(1.0, size=16)
        sums = (columns / columns.mean() * level * tokens).astype(np.float32)
        entries[name] = Entry(sums, np.array([tokens], np.float32))
    return Importance(entries)


GENERAL = dict.fromkeys(NAMES, 2.0)


def test_ratios_are_levels_over_levels_around_the_median() -> None:
    domain = GENERAL | {NAMES[0]: 1.0, NAMES[1]: 3.0}
    report = importance_ratio([_importance(domain)], [_importance(GENERAL)])
    by_name = {row.name: row for row in report.rows}
    assert by_name[NAMES[0]].ratio == pytest.approx(0.5)
    assert by_name[NAMES[1]].ratio == pytest.approx(1.5)
    assert (report.scale, report.inputs) == (pytest.approx(1.0), 10)
    assert (report.demote, report.promote) == ((NAMES[0],), (NAMES[1],))
    assert by_name[NAMES[2]].verdict is Verdict.KEEP
    assert by_name[NAMES[0]].interval is by_name[NAMES[0]].certain is None


@given(
    scale=st.floats(0.01, 100),
    tokens=st.integers(10, 10**6),
    levels=st.lists(st.floats(0.1, 10), min_size=len(NAMES), max_size=len(NAMES)),
)
def test_neither_text_length_nor_overall_scale_matters(scale: float, tokens: int, levels: list[float]) -> None:
    domain = dict(zip(NAMES, levels, strict=True))
    plain = importance_ratio([_importance(domain)], [_importance(GENERAL)])
    louder = {name: level * scale for name, level in domain.items()}
    other = importance_ratio([_importance(louder, tokens)], [_importance(GENERAL, 77)])
    for one, two in zip(plain.rows, other.rows, strict=True):
        assert two.ratio == pytest.approx(one.ratio, rel=1e-4)
    assert other.scale == pytest.approx(plain.scale * scale, rel=1e-4)


@given(st.lists(st.floats(0.1, 10), min_size=len(NAMES), max_size=len(NAMES)))
def test_swapping_the_texts_inverts_the_ratios(levels: list[float]) -> None:
    one, other = _importance(dict(zip(NAMES, levels, strict=True))), _importance(GENERAL)
    forth, back = importance_ratio([one], [other]), importance_ratio([other], [one])
    for row, inverse in zip(forth.rows, back.rows, strict=True):
        assert row.raw * inverse.raw == pytest.approx(1)


def test_candidates_come_strongest_first() -> None:
    domain = GENERAL | {NAMES[0]: 1.5, NAMES[1]: 1.0, NAMES[2]: 2.5, NAMES[3]: 8.0}
    report = importance_ratio([_importance(domain)], [_importance(GENERAL)])
    assert report.demote == (NAMES[1], NAMES[0])
    assert report.promote == (NAMES[3], NAMES[2])
    strict = importance_ratio([_importance(domain)], [_importance(GENERAL)], Thresholds(0.6, 3.0))
    assert (strict.demote, strict.promote) == ((NAMES[1],), (NAMES[3],))


def test_tied_tensors_are_one_voice() -> None:
    domain, general = _importance(GENERAL), _importance(GENERAL)
    entries = dict(domain.entries)
    loud = Entry(domain.entries[NAMES[0]].sums * 4, domain.entries[NAMES[0]].counts)
    entries |= dict.fromkeys(NAMES[:8], loud)
    same = dict(general.entries) | dict.fromkeys(NAMES[:8], general.entries[NAMES[0]])
    report = importance_ratio([Importance(entries)], [Importance(same)])
    # Eight tensors of ten are louder, but they are one input of three.
    assert (report.inputs, report.scale) == (3, pytest.approx(1.0))
    assert len(report.rows[0].tied) == 7


def test_groups_are_geometric_means() -> None:
    domain = GENERAL | {NAMES[0]: 1.0, NAMES[2]: 4.0}
    report = importance_ratio([_importance(domain)], [_importance(GENERAL)])
    by_role = report.grouped(lambda row: row.role)
    assert by_role["attn_q"] == pytest.approx(1.0)
    assert report.grouped(lambda row: row.block)[0] == pytest.approx(0.5**0.5)


def test_intervals_need_repeats_and_shrink_without_noise() -> None:
    domain, general = _importance(GENERAL | {NAMES[0]: 1.0}), _importance(GENERAL)
    report = importance_ratio([domain] * 3, [general] * 3)
    row = report.rows[0]
    assert row.interval is not None
    assert row.interval == (pytest.approx(row.ratio), pytest.approx(row.ratio))
    assert row.certain is True


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(5)
    truth = 0.9
    hits = []
    for _ in range(60):
        parts = [
            [_importance({name: level * random.lognormal(0, 0.1) for name, level in levels.items()}) for _ in range(8)]
            for levels in (GENERAL | {NAMES[0]: 2 * truth}, GENERAL)
        ]
        interval = importance_ratio(*parts).rows[0].interval
        assert interval is not None
        hits.append(interval[0] <= truth <= interval[1])
    assert 0.8 <= np.mean(hits) <= 1.0


def test_an_uncertain_verdict_says_so() -> None:
    random = np.random.default_rng(1)
    parts = [
        [_importance({name: level * random.lognormal(0, 0.5) for name, level in levels.items()}) for _ in range(4)]
        for levels in (GENERAL | {NAMES[0]: 2 * 0.79}, GENERAL)
    ]
    assert importance_ratio(*parts).rows[0].certain is False


def test_what_only_one_text_drove_is_reported() -> None:
    domain = _importance(GENERAL | {"blk.9.attn_q.weight": 1.0})
    general = _importance(GENERAL | {"blk.8.attn_q.weight": 1.0})
    report = importance_ratio([domain], [general])
    assert (report.only_domain, report.only_general) == (("blk.9.attn_q.weight",), ("blk.8.attn_q.weight",))


def test_bad_input_is_refused() -> None:
    one = _importance(GENERAL)
    with pytest.raises(InvalidInput, match="share no tensor"):
        importance_ratio([one], [_importance({"other.weight": 1.0})])
    narrow = Importance({NAMES[0]: Entry(np.ones(4, np.float32), np.ones(1, np.float32))})
    with pytest.raises(InvalidInput, match="two models"):
        importance_ratio([one], [narrow])
    with pytest.raises(InvalidInput, match="1 must lie between them"):
        Thresholds(1.2, 1.1)


def test_math_against_wikipedia_on_a_real_model() -> None:
    domain, general = (read_importance(DATA / f"wiki-math-4M.{text}.imatrix.gguf") for text in ("gsm8k", "wiki"))
    report = importance_ratio([domain], [general])
    assert (len(report.rows), report.inputs) == (28, 16)
    assert report.demote == ("blk.1.ffn_down.weight", "blk.0.ffn_down.weight")
    assert report.promote == ("blk.3.attn_output.weight",)
    assert np.median([row.ratio for row in report.rows]) == pytest.approx(1, abs=0.02)
