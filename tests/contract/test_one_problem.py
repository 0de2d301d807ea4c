"""One raq.toml, one problem: every command that poses a problem poses the same, in this process and over gRPC."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raq_client.models import model_file
from raq_client.solver_client.local import LocalSolver
from raq_client.solver_client.remote import Client
from raq_solver.problem import Problem
from raq_solver.questions.worst_case import Domains
from support.commands import client

BUDGET = "5"
SETTINGS = """
model = "{model}"
imatrix = "{imatrix}"
text = ["{text}"]
types = ["k", "Q4_0"]
base = "Q4_K_M"
architecture = "default"
exo = "blk.0.attn_v.weight"
pin = "output.weight=Q6_K"
floor = "blk.0.*=Q4_K"
ceiling = "blk.*.ffn_up.weight=Q5_K"
exclude = "Q2_K"
tie = "blk.1.attn_{{q,k}}.weight"
[memory]
vram = "32MiB"
context = "2k"
host = ["token_embd.weight"]
"""
COMMANDS: dict[str, tuple[str, ...]] = {
    "run": ("run", "-b", BUDGET, "--plan-only", "--no-trial"),
    "solve": ("solve", "-b", BUDGET),
    "solve --max-loss": ("solve", "--max-loss", "0.1"),
    "sweep": ("sweep", "--from", BUDGET, "--to", BUDGET, "--points", "1"),
    "sweep --ladder": ("sweep", "--ladder", f"{BUDGET},6"),
    "explain": ("explain", "-b", BUDGET),
    "explain TENSOR": ("explain", "blk.0.attn_q.weight", "-b", BUDGET),
    "ladder": ("ladder", "-b", BUDGET),
    "ladder --nested": ("ladder", "-b", BUDGET, "-b", "6", "--nested"),
    "audit": ("audit", "plan.json"),
    "sensitivity": (
        "sensitivity",
        "-b",
        BUDGET,
        "--evaluations",
        "1",
        "--windows",
        "2",
        "--context",
        "32",
        "-o",
        "s.json",
    ),
}
QUESTIONS = (
    *("solve", "sweep", "smallest_size", "explain_tensor", "constraint_costs", "explain_conflict"),
    *("audit", "nested_ladder"),
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_path: Path, fisher_path: Path, data: Path) -> Path:
    """A folder with a raq.toml that constrains in every way, and a plan made there."""
    text = data / "gsm8k.evaluation.txt"
    (tmp_path / "raq.toml").write_text(SETTINGS.format(model=model_path, imatrix=fisher_path, text=text))
    monkeypatch.chdir(tmp_path)
    made = client("solve", "-b", BUDGET, "--json")
    assert made.code == 0, made.err
    (tmp_path / "plan.json").write_text(made.out)
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Problem]:
    """The problems that are asked about, in order; of sensitivities the one that they are measured for."""
    found: list[Problem] = []

    def recording(method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: object, question: Problem, *more: Any) -> Any:
            found.append(question)
            return method(self, question, *more)

        return wrapped

    for solver in (LocalSolver, Client):
        for name in QUESTIONS:
            monkeypatch.setattr(solver, name, recording(getattr(solver, name)))
    from raq_client.sensitivity import choices

    original = choices.choices_of

    def choices_of(profile: Any, problem: Problem, **more: Any) -> Any:
        found.append(problem)
        return original(profile, problem, **more)

    monkeypatch.setattr(choices, "choices_of", choices_of)
    return found


def regardless_of_size(problem: Problem) -> str:
    """The digest of all but the capacity, which the questions of several sizes set by themselves."""
    return replace(problem, capacity_bytes=0).digest()


@pytest.mark.parametrize("server", [False, True], ids=["in process", "over gRPC"])
def test_every_command_poses_the_same_problem(
    project: Path, asked: list[Problem], server_address: str, *, server: bool
) -> None:
    if server:
        settings = project / "raq.toml"
        settings.write_text(f'server = "{server_address}"\n' + settings.read_text())
    digests: dict[str, str] = {}
    capacities: dict[str, int] = {}
    for name, arguments in COMMANDS.items():
        asked.clear()
        result = client(*arguments)
        assert result.code == 0, (name, result.err)
        digests[name], capacities[name] = regardless_of_size(asked[0]), asked[0].capacity_bytes
    assert len(set(digests.values())) == 1, digests
    of_budget = {capacities[name] for name in ("run", "solve", "explain", "explain TENSOR", "ladder", "sensitivity")}
    assert of_budget == {5 * 4_458_752 // 8}


def test_the_posed_problem_is_constrained_in_every_way(project: Path, asked: list[Problem]) -> None:
    assert client("solve", "-b", BUDGET, "--distinct-types", "6").code == 0
    kinds = {type(constraint).__name__ for constraint in asked[0].constraints}
    assert kinds >= {"Pin", "Floor", "Ceiling", "Exclude", "Tie", "DistinctTypes"}
    assert {"--host: takes no device memory", "--exo: held at F16"} <= {one.reason for one in asked[0].constraints}


def test_the_digest_of_the_problem_is_in_the_answer(project: Path, asked: list[Problem]) -> None:
    found = client("solve", "-b", BUDGET, "--json").json
    assert found["problem"] == asked[0].digest()


def test_a_worst_case_has_the_constraints_of_a_plan(
    project: Path, asked: list[Problem], monkeypatch: pytest.MonkeyPatch, imatrix_path: Path, fisher_path: Path
) -> None:
    worst: list[Domains] = []
    original = LocalSolver.solve_worst_case

    def recorded(self: LocalSolver, question: Domains, *more: Any) -> Any:
        worst.append(question)
        return original(self, question, *more)

    monkeypatch.setattr(LocalSolver, "solve_worst_case", recorded)
    assert client("solve", "-b", BUDGET, "--loss", "relative").code == 0
    flags = ("-i", imatrix_path, "-i", fisher_path, "--loss", "relative", "--seconds", "5")
    result = client("solve", "-b", BUDGET, "--worst-case", *flags)
    assert result.code in {0, 3}, result.err
    assert worst[0].capacity_bytes == asked[0].capacity_bytes
    assert worst[0].constraints == asked[0].constraints


def test_a_model_and_its_importance_are_read_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, model_path: Path, fisher_path: Path
) -> None:
    parsed: list[str] = []
    original = model_file.parse_header

    def counted(data: Any, where: str) -> Any:
        parsed.append(where)
        return original(data, where)

    monkeypatch.setattr(model_file, "parse_header", counted)
    model_file._parsed.cache_clear()
    arguments = ("-b", BUDGET, "--windows", "2", "--context", "64", "--against", "Q4_K_M", "--manifest", "made.json")
    result = client("run", *arguments, "--calibration", "held.txt", "-o", "out.gguf")
    assert result.code == 2, "there is no held.txt"
    (project / "held.txt").write_text((project / "raq.toml").read_text() * 4)  # some windows are enough
    result = client("run", *arguments, "--calibration", "held.txt", "-o", "out.gguf")
    assert result.code == 0, result.err
    assert parsed.count(str(model_path)) == 1
    assert parsed.count(str(fisher_path)) == 1
