"""Logs of jobs: read piece by piece they come to the same as read at once."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.dashboard.log import JobLog
from support.examples import examples

LINES = st.lists(
    st.one_of(
        st.builds(
            lambda stage, done: json.dumps(
                {"event": "progress", "stage": stage, "done": done, "total": 9, "left": None}
            ),
            st.sampled_from(["measuring", "quantizing"]),
            st.integers(0, 9),
        ),
        st.builds(lambda text: json.dumps({"event": "note", "text": text}), st.text(max_size=5)),
        st.builds(lambda text: json.dumps({"event": "error", "text": text}), st.text(max_size=5)),
        st.just("Traceback (most recent call last):"),
        st.just('{"event": 3}'),
        st.just("{half"),
    ),
    max_size=12,
)


@examples(25)
@given(LINES, st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_however_a_log_is_cut_it_says_the_same(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], cuts: list[int]
) -> None:
    whole, raw = JobLog(), "".join(line + "\n" for line in lines).encode()
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    path.write_bytes(raw)
    whole.read(path)
    parts, at, number = JobLog(), 0, 0
    while at < len(raw):
        at = min(len(raw), at + cuts[number % len(cuts)])
        path.write_bytes(raw[:at])
        parts.read(path)
        number += 1
    assert parts.view() == whole.view()


def test_a_stage_is_one_line_as_long_as_it_lasts() -> None:
    log = JobLog()
    for stage, done in (("measuring", 1), ("measuring", 2), ("quantizing", 1), ("measuring", 1)):
        log.add(json.dumps({"event": "progress", "stage": stage, "done": done, "total": 2, "left": 1.5}))
    assert [(each["stage"], each["done"]) for each in log.stages] == [
        ("measuring", 2),
        ("quantizing", 1),
        ("measuring", 1),
    ]


def test_a_failure_is_the_commands_own_sentence_or_the_last_line() -> None:
    log = JobLog()
    assert log.failure(-9) == "killed by signal 9"
    assert log.failure(1) == "ended with exit code 1"
    log.add("ImportError: no module named raq")
    assert log.failure(1) == "ImportError: no module named raq"
    log.add(json.dumps({"event": "error", "text": "blk.0.attn_q.weight: no data"}))
    assert log.failure(2) == "blk.0.attn_q.weight: no data"


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert not JobLog().read(tmp_path / "none")
