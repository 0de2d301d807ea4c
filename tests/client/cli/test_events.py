"""--events: what a command does, as JSON lines for programs."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raq_client.cli import events
from support.commands import Result, client


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.err.splitlines()]


def test_remarks_progress_and_the_end_are_lines(model_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.profile.json"
    result = client("profile", model_path, "--types", "Q8_0", "-o", out, "--no-cache", "--events")
    found = lines(result)
    assert found[-1] == {"event": "end", "code": 0}
    progress = [each for each in found if each["event"] == "progress"]
    assert {each["stage"] for each in progress} == {"measuring errors"}
    assert progress[-1]["done"] == progress[-1]["total"] > 0
    assert all(set(each) == {"event", "stage", "done", "total", "left"} for each in progress)
    assert [str(out) in each["text"] for each in found if each["event"] == "note"] == [True]
    assert result.out == client("profile", model_path, "--types", "Q8_0", "-o", out, "-f", "--no-cache").out


def test_errors_are_lines_one_for_each_fault_and_the_code_is_the_processes(tmp_path: Path) -> None:
    said = client("solve", "-p", tmp_path / "none.json", "-b", "5").err
    result = client("--events", "solve", "-p", tmp_path / "none.json", "-b", "5")
    assert lines(result) == [
        {"event": "error", "text": said.strip().removeprefix("raq-client: ")},
        {"event": "end", "code": 2},
    ]
    assert result.code == 2


def test_without_the_option_nothing_changes(imatrix_path: Path) -> None:
    assert not client("imatrix", "show", imatrix_path).err.startswith("{")


@given(st.lists(st.floats(0, 3), max_size=40), st.integers(1, 50))
def test_the_first_and_last_report_are_sent_and_between_them_few(steps: list[float], total: int) -> None:
    sent: list[int] = []
    now = 0.0

    def emit(_event: str, **fields: Any) -> None:
        sent.append(fields["done"])

    before, events.emit = events.emit, emit
    try:
        report = events.reporter("work", lambda: None, lambda: now)
        report(0, total)
        for step in steps:
            now += step
            report(1 if total > 1 else 0, total + 1)
        report(total, total)
    finally:
        events.emit = before
    assert (sent[0], sent[-1]) == (0, total)
    assert len(sent) <= 2 + now / events.SECONDS_BETWEEN
