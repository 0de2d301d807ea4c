"""What docs/solver.md shows is run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raq_client.files.problem_file import read_plain_problem
from raq_client.reports.plan import outcome_to_dict
from raq_solver import Floor, solve
from support.paths import ROOT

PAGE = (ROOT / "docs" / "solver.md").read_text(encoding="utf-8")


def block(language: str, number: int = 0) -> str:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return found[number]


def test_the_json_example_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "problem.json"
    path.write_text(block("json"), encoding="utf-8")
    problem = read_plain_problem(path)
    assert isinstance(problem.constraints[0], Floor)
    assert solve(problem).ledger.size <= 560


def test_the_certificate_is_checked_by_the_lines_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = np.array([[40, 20], [40, 20], [60, 20]])
    losses = np.array([[0.0, 5.0], [0.0, 3.0], [0.0, 4.0]])
    np.savez(tmp_path / "table.npz", tensors=["a", "b", "c"], qtypes=["big", "small"], bytes=sizes, losses=losses)
    outcome = solve(read_plain_problem(tmp_path / "table.npz", 98))
    (tmp_path / "plan.json").write_text(json.dumps(outcome_to_dict(outcome, "")), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ran = subprocess.run([sys.executable, "-c", block("python")], capture_output=True, text=True, check=True)
    # The best is a big, b and c small: 80 bytes, loss 7. b breaks: λ = 3 / 20, bound 6 + 6 + 7 - 0.15 × 98 = 4.3.
    assert outcome.ledger.loss == 7.0
    assert ran.stdout == "loss 7; by this price alone none is below 4.3\n"


def test_the_certificate_of_a_worst_case_is_checked_by_the_lines_shown() -> None:
    ran = subprocess.run([sys.executable, "-c", block("python", 1)], capture_output=True, text=True, check=True)
    said = re.fullmatch(r"fits: True; no worst case is better by more than (\d\.\d\d)%\n", ran.stdout)
    assert said, ran.stdout
    assert float(said[1]) < 2
