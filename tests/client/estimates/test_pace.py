"""A pace is found from a moment of the work, and grows with its units."""

from collections.abc import Callable, Iterator

import pytest

from raq_client.estimates.estimate import Estimate, Stage
from raq_client.estimates.pace import LEAST_REPORTS, Pace, pace_of


class Clock:
    """A clock that work moves on by itself."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def work(clock: Clock, before: float, each: float, units: int) -> Callable[[Callable[[int, int], None]], None]:
    def run(report: Callable[[int, int], None]) -> None:
        clock.now += before
        for done in range(1, units + 1):
            clock.now += each
            report(done, units)

    return run


@pytest.mark.parametrize("units", [2, 3, 10, 1000])
@pytest.mark.parametrize(("before", "each"), [(0.0, 1.0), (5.0, 0.25), (1.0, 3.0)])
def test_the_pace_of_even_work_is_its_time(before: float, each: float, units: int) -> None:
    clock = Clock()
    found = pace_of(work(clock, before, each, units), clock=clock)
    assert found == Pace(pytest.approx(before), pytest.approx(each), units)
    assert found.seconds == pytest.approx(before + each * units)


def test_work_is_ended_as_soon_as_its_pace_is_known() -> None:
    clock = Clock()
    pace_of(work(clock, 0, 1.0, 10**9), moment=0, clock=clock)
    assert clock.now == LEAST_REPORTS
    clock = Clock()
    pace_of(work(clock, 0, 0.1, 10**9), moment=2.0, clock=clock)
    assert 2.0 < clock.now < 2.5


def test_one_unit_and_none() -> None:
    clock = Clock()
    assert pace_of(work(clock, 1.0, 2.0, 1), clock=clock).seconds == pytest.approx(3.0)
    assert pace_of(work(clock, 1.0, 2.0, 0), clock=clock) == Pace(1.0, 0.0, 0)


def test_more_units_never_take_less() -> None:
    def seconds() -> Iterator[float]:
        for units in (1, 2, 8, 64, 4096):
            clock = Clock()
            yield pace_of(work(clock, 3.0, 0.5, units), clock=clock).seconds

    found = list(seconds())
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_an_error_of_the_work_is_its_own() -> None:
    def broken(_report: Callable[[int, int], None]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pace_of(broken)


def test_another_stage_never_makes_an_estimate_smaller() -> None:
    both = Estimate((Stage("a", 3.0, 7, 5), Stage("b", 0.0, 9, 0)))
    assert (both.seconds, both.memory, both.disk) == (3.0, 9, 5)
