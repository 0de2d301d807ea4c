"""Progress by a clock of our own: the time left, and lines where there is no terminal."""

import io
import time
from contextlib import redirect_stderr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.cli import console, progress
from raq_client.cli.progress import SECONDS_BETWEEN_LINES, LogLines, Pace
from raq_client.progress import share_worked


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@given(st.integers(2, 50), st.floats(0.01, 5000), st.data())
def test_equal_steps_of_any_length_are_foreseen_exactly(total: int, seconds: float, data: st.DataObject) -> None:
    clock = Clock()
    pace = Pace(clock)
    for done in range(1, data.draw(st.integers(1, total)) + 1):
        clock.now += seconds
        pace.report(done, total)
    assert pace.left() == pytest.approx((total - done) * seconds)


@given(st.integers(2, 400), st.integers(1, 20), st.floats(30, 600))
def test_what_an_earlier_run_had_done_is_not_work_of_this_one(before: int, steps: int, seconds: float) -> None:
    clock = Clock()
    pace = Pace(clock)
    clock.now += 12.0  # loading the model
    pace.report(before, 500)
    assert pace.left() is None
    for done in range(before + 1, before + steps + 1):
        clock.now += seconds
        pace.report(done, 500)
    assert pace.left() == pytest.approx((500 - before - steps) * seconds)


def test_between_reports_the_time_left_runs_down_by_one_step_at_most(clock: Clock) -> None:
    pace = Pace(clock)
    clock.now += 40
    pace.report(1, 4)
    assert pace.left() == 120
    clock.now += 15
    assert pace.left() == 105
    clock.now += 1000  # a step that takes longer than those before
    assert pace.left() == 80


def test_windows_that_come_in_bursts(clock: Clock) -> None:
    pace = Pace(clock)
    clock.now += 10
    for done in range(1, 5):
        pace.report(done, 40)
    assert pace.left() == 90


def test_a_second_round_on_the_same_bar_begins_again(clock: Clock) -> None:
    pace = Pace(clock)
    pace.report(0, 10)
    clock.now += 100
    pace.report(10, 10)
    assert pace.left() == 0
    pace.report(0, 20)
    clock.now += 5
    pace.report(1, 20)
    assert pace.left() == 95


def test_lines(clock: Clock) -> None:
    pace = Pace(clock)
    clock.now += 30
    assert pace.line("reading") == "reading, 30 s so far"
    pace.report(0, 35)
    assert pace.line("reading") == "reading 0 % (0/35), 30 s so far"
    clock.now += 60
    pace.report(12, 35)
    assert pace.line("reading") == "reading 34 % (12/35), 2 min left"
    pace.report(12, 35_000_000)
    assert "/" not in pace.line("reading")


def written(clock: Clock, waits: list[float]) -> list[str]:
    """The lines of a work of 4 steps of 45 s that ends after these waits."""
    lines: list[str] = []
    pace = Pace(clock)
    remaining = list(waits)

    def is_over(seconds: float) -> bool:
        assert seconds == SECONDS_BETWEEN_LINES
        if not remaining:
            return True
        clock.now += remaining.pop(0)
        done = int((clock.now - 1000) // 45)
        if done:
            pace.report(done, 4)
        return False

    log = LogLines(pace, "measuring", lines.append)
    log.run(is_over)
    log.end()
    return lines


def test_a_line_every_30_seconds_even_where_no_step_ends(clock: Clock) -> None:
    assert written(clock, [30.0] * 4) == [
        "measuring, 30 s so far",
        "measuring 25 % (1/4), 3 min left",
        "measuring 50 % (2/4), 2 min left",
        "measuring 50 % (2/4), 60 s left",
        "measuring: done in 2 min",
    ]


def test_quick_work_writes_nothing(clock: Clock) -> None:
    assert written(clock, []) == []


def log_of_a_work(monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> str:
    """What a work of some waits writes to a stream that is no terminal."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    with redirect_stderr(io.StringIO()) as stream, progress.progress_bar("measuring") as report:
        report(1, 4)
        deadline = time.monotonic() + 30
        while (
            "measuring 25 % (1/4)" not in stream.getvalue() and not console.is_quiet() and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        if fails:
            raise KeyboardInterrupt
    return stream.getvalue()


def test_lines_go_to_stderr_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console.set_verbosity(console.NORMAL)
    *lines, last = log_of_a_work(monkeypatch).splitlines()
    assert any(line.startswith("measuring 25 % (1/4), ") for line in lines)
    assert last == "measuring: done in 1 s"


def test_nothing_is_called_done_that_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    console.set_verbosity(console.NORMAL)
    stream = io.StringIO()
    with redirect_stderr(stream), pytest.raises(KeyboardInterrupt):
        log_of_a_work(monkeypatch, fails=True)
    assert "done" not in stream.getvalue()


def test_quiet_work_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    console.set_verbosity(console.QUIET)
    try:
        assert log_of_a_work(monkeypatch) == ""
    finally:
        console.set_verbosity(console.NORMAL)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0.1, 100)), min_size=3, max_size=20), st.data())
def test_parts_that_take_unequal_time_are_foreseen_exactly(parts: list[tuple[int, float]], data: st.DataObject) -> None:
    """Bytes do not tell how long a part takes; its effort does, whatever the speed of the machine."""
    clock, speed = Clock(), data.draw(st.floats(0.01, 100))
    pace, worked = Pace(clock), share_worked({str(number): part for number, part in enumerate(parts)})
    done, total = 0, sum(size for size, _ in parts)
    for number in range(data.draw(st.integers(2, len(parts)))):
        size, effort = parts[number]
        clock.now += effort * speed
        done += size
        pace.report(done, total, worked(str(number), size))
    assert pace.left() == pytest.approx(speed * sum(effort for _, effort in parts[number + 1 :]), abs=1e-6)


def test_no_line_is_written_twice_and_none_promises_time_after_the_last_unit(clock: Clock) -> None:
    lines: list[str] = []
    pace = Pace(clock)
    log = LogLines(pace, "writing", lines.append)
    reports = iter([1, 4, 4, 4])

    def is_over(seconds: float) -> bool:
        clock.now += seconds
        done = next(reports, None)
        if done is not None:
            pace.report(done, 4)
        return done is None

    log.run(is_over)
    log.end()
    assert lines == ["writing 25 % (1/4), 2 min left", "writing 100 % (4/4)", "writing: done in 2 min"]
