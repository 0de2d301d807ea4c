"""The table of jobs: its order, and that a job is taken once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.dashboard.jobs import CANCELLED, DONE, QUEUED, RUNNING, Jobs
from support.examples import examples


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "jobs.sqlite")


@examples(8)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([-1, 1])), max_size=12))
def test_moving_swaps_neighbours_and_loses_nobody(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, int]]
) -> None:
    jobs = Jobs(tmp_path_factory.mktemp("jobs") / "jobs.sqlite")
    expected = [jobs.add("check", ["check", str(number)], []).id for number in range(5)]
    numbers = list(expected)
    for which, by in moves:
        at = expected.index(numbers[which])
        if 0 <= at + by < len(expected):
            expected[at], expected[at + by] = expected[at + by], expected[at]
        jobs.move(numbers[which], by)
    assert [job.id for job in jobs.unfinished()] == expected


def test_a_job_is_begun_once(tmp_path: Path, jobs: Jobs) -> None:
    number = jobs.add("run", ["run"], ["out.gguf"]).id
    other = Jobs(tmp_path / "jobs.sqlite")  # as another process would
    assert [jobs.begin(number), other.begin(number)] == [True, False]
    assert jobs.get(number) == other.get(number)


def test_what_waits_is_cancelled_at_once_and_what_runs_is_not(jobs: Jobs) -> None:
    first, second = (jobs.add("run", ["run"], []).id for _ in range(2))
    jobs.begin(first)
    for number in (first, second):
        jobs.cancel(number)
    found = [jobs.get(number) for number in (first, second)]
    assert [(job.state, job.cancelled) for job in found if job] == [(RUNNING, True), (CANCELLED, True)]
    assert not jobs.begin(second)


def test_finished_jobs_come_by_pages_and_none_is_left_out(jobs: Jobs) -> None:
    numbers = [jobs.add("run", ["run"], []).id for _ in range(7)]
    for number in numbers[:6]:
        jobs.begin(number)
        jobs.end(number, DONE, 0, 1.0, None)
    pages, before = [], None
    while page := jobs.finished(4, before):
        pages += [job.id for job in page]
        before = page[-1].id
    assert pages == numbers[5::-1]
    assert [(job.id, job.state) for job in jobs.unfinished()] == [(numbers[6], QUEUED)]


def test_the_file_keeps_a_journal_ahead_so_that_readers_do_not_wait(tmp_path: Path, jobs: Jobs) -> None:
    import sqlite3

    db = sqlite3.connect(tmp_path / "jobs.sqlite")
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_a_digest_holds_for_one_state_of_a_file(jobs: Jobs) -> None:
    jobs.keep_digest("a.gguf", 10, 1.5, "abc")
    assert [jobs.digest("a.gguf", *state) for state in ((10, 1.5), (11, 1.5), (10, 2.0))] == ["abc", None, None]
