"""What `solve` does with a plain problem, and with a loss to keep instead of a budget."""

from dataclasses import replace
from pathlib import Path

import typer

from raq_client.cli.console import OUT, print_json, say
from raq_client.planning.selection import ConstraintSpec
from raq_client.solver_client.protocol import open_solver
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits, Termination
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem


def solve_plain(
    path: Path,
    capacity: int | None,
    budget: str | None,
    demands: ConstraintSpec,
    server: str | None,
    seconds: float | None,
) -> tuple[Problem, Outcome]:
    """Solve the problem in a file, for a capacity in bytes or a budget."""
    from raq_client.files.problem_file import read_plain_problem
    from raq_solver.budget import BitsPerWeight, capacity_bytes, parse_budget

    if capacity is not None and budget is not None:
        raise InvalidInput(Fault(str(path), "name either --capacity-bytes or --budget"))
    problem = read_plain_problem(path, 0 if budget is not None else capacity)
    if budget is not None:
        asked = parse_budget(budget)
        if isinstance(asked, BitsPerWeight) and not problem.table.total_weights:
            raise InvalidInput(Fault(str(path), "holds no weights, so bits per weight mean nothing; --capacity-bytes"))
        problem = replace(problem, capacity_bytes=capacity_bytes(asked, problem.table.total_weights))
    more = demands.constraints(problem.table.tensors)
    problem = replace(problem, constraints=(*problem.constraints, *more))
    with open_solver(server) as asker:
        return problem, asker.solve(problem, Limits(seconds))


def print_plain(problem: Problem, outcome: Outcome, *, as_json: bool) -> None:
    """Print an outcome that belongs to no model."""
    from raq_client.reports.plan import infeasible_text, outcome_to_dict, plan_report

    table = problem.table
    asked = f"{problem.capacity_bytes:,} bytes"
    if as_json:
        print_json(outcome_to_dict(outcome, table.source))
    if outcome.ledger is None:
        say(f"raq-client: {infeasible_text(outcome, asked, table.total_weights, problem.capacity_bytes)}")
    elif not as_json:
        OUT.print(plan_report(outcome, table.source, asked))


def smallest_for(
    problem: Problem, most_loss: float, server: str | None, seconds: float | None
) -> tuple[Problem, Outcome]:
    """The problem at the smallest capacity that keeps a loss, and its outcome. Exits with 4 when none keeps it."""
    limits = Limits(seconds)
    with open_solver(server) as asker:
        found = asker.smallest_size(problem, most_loss, limits)
        outcome = None
        if found.ledger is not None:
            problem = replace(problem, capacity_bytes=found.ledger.size)
            outcome = asker.solve(problem, limits)
    if outcome is None:
        least = "" if found.least_loss is None else f"; the least that can be reached is {found.least_loss:.6g}"
        say(f"raq-client: no allocation keeps a loss of {most_loss:g}{least}")
        raise typer.Exit(4 if found.termination is Termination.INFEASIBLE else 3)
    say(f"smallest size with a loss of at most {most_loss:g}: proven above {found.bound_bytes - 1:,} bytes")
    return problem, outcome
