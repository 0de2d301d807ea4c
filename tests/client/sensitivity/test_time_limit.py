"""A limit on the time: how many evaluations it allows, and that what they give depends on their number only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import TrialSetup
from raq_client.models.model_file import open_model
from raq_client.sensitivity import measure, time_limit
from raq_client.sensitivity.design import Group
from raq_client.sensitivity.fit import Evaluation
from raq_client.sensitivity.measure import Question, Sensitivities, sensitivities_of
from raq_client.sensitivity.time_limit import TimeLimit, seconds_of
from raq_solver.errors import InvalidInput
from support.engine_models import MODEL

NAMES = tuple(f"blk.{block}.{role}.weight" for block in range(3) for role in ("attn_q", "ffn_up", "ffn_down"))
SETUP = TrialSetup(open_model(MODEL), MODEL, None, [Text("text", "words")], windows=4, context=128)
EXPECTED = {name: 0.1 * (1 + index % 4) for index, name in enumerate(NAMES)}


class Clock:
    """A clock that only moves when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Timed:
    """Evaluations of a made-up model, each of which takes `each` seconds of the clock."""

    clock: Clock
    each: Callable[[int], float] = lambda _: 1.0
    asked: list[Group] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)

    def tensors(self) -> Group:
        return NAMES

    def expect(self, total: int) -> None:
        self.totals.append(total)

    def evaluate(self, groups: Sequence[Group]) -> list[Evaluation]:
        for group in groups:
            self.clock.now += self.each(len(self.asked))
            self.asked.append(group)
        return [Evaluation(group, (0.01,) * len(group), self._kl(group), 1e-5) for group in groups]

    def _kl(self, group: Group) -> float:
        return sum(0.01 * (0.05 + 0.03 * NAMES.index(name)) for name in group)


def timed(
    seconds: float | None, monkeypatch: pytest.MonkeyPatch, evaluations: int | None = None
) -> tuple[Sensitivities, Timed]:
    """Measured with a limit of so many seconds, where each evaluation takes one."""
    runs = Timed(Clock())
    monkeypatch.setattr(measure, "TimeLimit", lambda given: TimeLimit(given, runs.clock))
    return sensitivities_of(SETUP, Question(seconds=seconds, evaluations=evaluations), runs, expected=EXPECTED), runs


@pytest.mark.parametrize(("seconds", "made"), [(0.5, 1), (2, 1), (3, 1), (4.5, 2), (7, 5), (1000, 9)])
def test_runs_end_within_the_time_but_for_the_first(seconds: float, made: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, all at once and one tensor are always evaluated."""
    found, runs = timed(seconds, monkeypatch)
    assert len(found.evaluations) == made
    assert runs.clock.now - 100 <= max(seconds, 3)
    assert runs.totals[-1] == made + 2, "progress knows where it ends"
    assert found.provenance["sensitivity"].startswith(f"{made} evaluations")


def test_more_time_goes_on_from_what_less_time_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [timed(seconds, monkeypatch)[1].asked for seconds in (4, 6, 9, 100)]
    assert all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(orders))
    assert len({*orders[-1]}) == len(NAMES) + 2


def test_as_many_runs_give_the_same_whatever_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    by_time, _ = timed(7, monkeypatch)
    by_both, _ = timed(1000, monkeypatch, evaluations=5)
    assert by_both.fit.values.tolist() == by_time.fit.values.tolist()
    assert dict(by_both.provenance) == dict(by_time.provenance)


def test_with_time_enough_it_is_as_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limited, _ = timed(1000, monkeypatch)
    free, _ = timed(None, monkeypatch)
    assert limited.evaluations == free.evaluations
    assert limited.fit.values.tolist() == free.fit.values.tolist()
    assert np.isfinite(limited.additivity)


def test_a_design_whose_groups_depend_on_their_number_has_no_limit() -> None:
    with pytest.raises(InvalidInput, match="one by one"):
        Question(seconds=5, design="groups")


@given(st.floats(0.1, 1e4), st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_no_run_is_begun_that_takes_longer_than_is_left(seconds: float, paces: list[float]) -> None:
    clock = Clock()
    limit, slowest = TimeLimit(seconds, clock), 0.0
    assert limit.more(0) > 0
    for pace in paces:
        clock.now += pace
        slowest = max(slowest, pace)
        left = 100 + seconds - clock.now
        assert limit.more(1) == (0 if left <= 0 else pytest.approx(left / slowest, abs=1.001))
        assert limit.more(0) * slowest <= max(left, 0) + 1e-6


@pytest.mark.parametrize("text", ["", "10", "min", "-5min", "0s", "10 days", "1e400h", "nan s", "9" * 400 + "h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no time"):
        seconds_of(text)


def test_the_usual_clock_only_goes_forward() -> None:
    assert time_limit.TimeLimit(1000).more(0) > 0
