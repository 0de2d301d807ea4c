"""What the native search refuses, and how it is stopped. That it is right is tested through the solver."""

import math
import signal
from collections.abc import Callable

import numpy as np
import pytest

from raq_solver.backends import mckp
from raq_solver.backends._knapsack import merged_hulls, search
from raq_solver.knapsack import Knapsack, Limits, Termination

SIZES = np.array([[4, 8], [2, 6]])
EXCESS = np.array([[1.0, 0.0], [0.5, 0.0]])
KEPT = np.ones((2, 2), dtype=bool)


def found(
    sizes: np.ndarray = SIZES, excess: np.ndarray = EXCESS, kept: np.ndarray = KEPT, capacity: int = 10
) -> tuple[np.ndarray | None, float | None]:
    return search(
        sizes, excess, kept, capacity=capacity, best=math.inf, tolerance=0.0, seconds=math.inf, largest_layer=9
    )


def test_finds_the_best_that_fits() -> None:
    picks, bound = found()
    assert bound is None
    assert picks is not None
    assert picks.tolist() == [1, 0]


def test_what_does_not_fit_is_not_found() -> None:
    assert found(capacity=5) == (None, None)


def test_rows_without_a_choice_are_settled_at_once() -> None:
    only = np.array([[True, False], [False, True]])
    picks, bound = found(kept=only)
    assert bound is None
    assert picks is not None
    assert picks.tolist() == [0, 1]
    assert found(kept=only, capacity=9) == (None, None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: found(excess=EXCESS[:1]), "differ in shape"),
        (lambda: found(kept=np.ones((2, 3), dtype=bool)), "differ in shape"),
        (lambda: found(kept=np.array([[True, True], [False, False]])), "row 1 has no cell"),
        (
            lambda: found(excess=np.array([[1.0, 0.0], [math.nan, 0.0]])),
            r"excess \[1, 0\] is negative, NaN or infinite",
        ),
        (lambda: found(excess=np.array([[1.0, math.inf], [0.5, 0.0]])), r"excess \[0, 1\] is negative"),
        (lambda: merged_hulls(SIZES, np.array([[-1.0, 0.0], [0.5, 0.0]])), r"excess \[0, 0\] is negative"),
        (lambda: merged_hulls(SIZES, np.full((2, 2), math.inf)), "row 0 has no cell"),
        (lambda: merged_hulls(SIZES[:, :1].copy(), EXCESS), "differ in shape"),
    ],
)
def test_tables_that_make_no_sense_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("sizes", [SIZES.astype(np.int32), SIZES.astype(float), SIZES.T, SIZES[0]])
def test_arrays_are_not_converted(sizes: np.ndarray) -> None:
    with pytest.raises(TypeError):
        found(sizes=sizes)


def endless() -> tuple[np.ndarray, np.ndarray, int]:
    """Even sizes and an odd capacity, a byte worth the same everywhere: no bound tells one choice from another."""
    grown = 2 * np.random.default_rng(5).integers(1 << 30, 1 << 31, 60)
    sizes = np.stack([np.zeros_like(grown), grown], axis=1)
    return sizes, grown[:, None] - sizes.astype(float), int(grown.sum()) // 4 * 2 + 1


def test_a_signal_ends_a_long_search() -> None:
    sizes, excess, capacity = endless()

    def interrupt(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(InterruptedError):
            search(
                sizes,
                excess,
                np.ones(sizes.shape, dtype=bool),
                capacity=capacity,
                best=math.inf,
                tolerance=0.0,
                seconds=60.0,
                largest_layer=1000,
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_time_ends_a_long_search_with_a_bound() -> None:
    sizes, excess, capacity = endless()
    stopped = mckp.solve(Knapsack(sizes + 2, excess, capacity + 2 * len(sizes)), Limits(seconds=0.1))
    assert stopped.termination is Termination.FEASIBLE
    assert stopped.picks is not None
    loss = excess[np.arange(len(sizes)), stopped.picks].sum()
    assert excess.sum() / 2 - 2 <= stopped.bound <= loss
