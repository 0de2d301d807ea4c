"""Grading: numbers, texts, and code that runs within limits."""

from pathlib import Path

import pytest

from raq_client.benchmarks.grading import is_right, last_number, passes, stated
from raq_client.benchmarks.rows import Row

SUM = Row("0", "How many?", "3 + 4 = 7\n#### 1,234.50")
CODE = Row(
    "HumanEval/x",
    'def double(n):\n    """Twice n."""\n',
    "    return 2 * n\n",
    "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
    "double",
)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("#### 1234.5", True),
        ("first 7, so $1,234.50.", True),
        ("1234.5 is wrong, it is 7", False),
        ("<think>7</think> 1234.50", True),
        ("1234.5 <think>7</think>", True),
        ("no number", False),
        ("", False),
    ],
)
def test_the_last_number_counts(answer: str, right: bool) -> None:  # noqa: FBT001
    assert is_right("gsm8k", SUM, answer) is right


def test_without_a_number_in_the_key_nothing_is_right() -> None:
    assert last_number("none") is None
    assert not is_right("gsm8k", Row("0", "?", "none"), "none")


@pytest.mark.parametrize("answer", ["Yes", " yes. ", "Well.\nAnswer: Yes\n", "<answer>YES</answer> I think"])
def test_a_text_is_right_whatever_its_case_and_spaces(answer: str) -> None:
    assert is_right("reasoning-gym", Row("0", "?", "Yes"), answer)
    assert not is_right("reasoning-gym", Row("0", "?", "No"), answer)
    assert stated("") == ""


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (CODE.answer, True),
        ("    return n + n", True),
        ("Here:\n```python\ndef double(n):\n    return n * 2\n```\nDone.", True),
        ("    return 3 * n", False),
        ("    return", False),
        ("    this is no code", False),
        ("    raise SystemExit(0)", False),
        ("    import os; os._exit(0)", False),
        ("    print('x' * 100); return 2 * n", True),
        ("    return 2 * n + 0 * len(bytearray(8 << 30))", False),
        ("    open('f', 'wb').write(bytes(8 << 20)); return 2 * n", False),
    ],
)
def test_code_passes_if_its_tests_run_to_their_end(answer: str, right: bool) -> None:  # noqa: FBT001
    assert passes(CODE, answer) is right


def test_code_that_does_not_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    start = f"import subprocess, time; subprocess.Popen(['/bin/sh', '-c', 'sleep 1; touch {mark}'])"
    assert not passes(CODE, f"    {start}\n    while True: time.sleep(1)", seconds=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAQ_SECRET", "x")
        assert passes(CODE, "    import os; assert 'RAQ_SECRET' not in os.environ; return 2 * n")
        assert passes(CODE, "    import time; time.sleep(1); return 2 * n")
    assert not mark.exists()
