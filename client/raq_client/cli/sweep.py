"""`raq-client sweep`: the best allocation of every budget in a range."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, progress_bar, say
from raq_client.cli.constraint_options import ConstraintOptions
from raq_client.cli.groups import AskOptions, SourceOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.solve import EXIT_CODES
from raq_client.cli.written import check_written
from raq_client.files.settings import read_settings
from raq_client.planning.plan import chosen_loss, model_table, obtain_profile
from raq_client.solver_client.protocol import open_solver
from raq_solver.budget import TotalBytes, capacity_bytes, parse_budget
from raq_solver.errors import Fault, InvalidInput
from raq_solver.losses import LossTable
from raq_solver.problem import Problem

LINES_SHOWN = 40
"""Points printed as a table; of more, evenly spread ones."""


@spread
def sweep(
    called: typer.Context,
    first: Annotated[str | None, typer.Option("--from", help="Smallest budget, as for solve.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Largest budget.")] = None,
    points: Annotated[int, typer.Option("--points", min=1, help="Budgets to solve, evenly spaced.")] = 50,
    *,
    source: SourceOptions,
    demand: ConstraintOptions,
    ask: AskOptions,
    ladder: Annotated[
        str | None,
        typer.Option(
            "--ladder",
            help="Instead of a range: budgets with commas, each only promoting the one before.",
            show_default=False,
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the frontier as CSV.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw it into this file (.svg or .png).", show_default=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Solve many budgets at once: size, loss, proof and the price of the next byte at each, and where it bends.

    Examples:

    raq-client sweep --from 3 --to 8 --points 100 -p model.profile.json --plot frontier.svg

    raq-client sweep --ladder 4,4.5,5,5.7 -p model.profile.json
    """
    from raq_client.reports.frontier import frontier_table, mixture_landmarks, plot_frontier, point_to_dict, to_csv
    from raq_solver.knapsack import Limits
    from raq_solver.questions.sweep import knee, spaced

    settings = read_settings(Path.cwd())
    check_written(called, {}, {"plot": plot}, force=False, also=settings.files())
    sources = source.sources(settings)
    facts = obtain_profile(sources, progress_bar, say)
    table = chosen_loss(facts, ask.loss_model(settings))
    constraints = demand.demands(settings).constraints(table.tensors, model_table(sources, facts))
    if ladder is not None:
        _climb(Problem(table, 0, constraints), ladder, ask.solved_at(settings), ask.seconds, as_json=as_json)
        return
    if first is None or last is None:
        raise InvalidInput(Fault("", "name the range, --from and --to, or the rungs of a --ladder"))
    least, most = _capacities((first, last), table)
    budgets = [TotalBytes(capacity) for capacity in spaced(least, most, points)]
    problem = Problem(table, most, constraints)
    found = []
    with open_solver(ask.solved_at(settings)) as asker, progress_bar("solving") as report:
        for point in asker.sweep(problem, budgets, Limits(ask.seconds)):
            found.append(point)
            report(len(found), points)
    bend = knee(found)
    if plot is not None:
        plot_frontier(plot, found, bend, tuple(mixture_landmarks(facts, table)), table)
        say(f"drawn: {plot}")
    if as_csv:
        OUT.out(to_csv(found, table.total_weights), end="", highlight=False)
    elif as_json:
        rows = [point_to_dict(point, table.total_weights) for point in found]
        knee_bytes = None if bend is None else bend.capacity_bytes
        print_json({"loss_source": table.source, "knee_capacity_bytes": knee_bytes, "points": rows})
    else:
        OUT.print(frontier_table(found, bend, table, LINES_SHOWN))


def _capacities(budgets: Sequence[str], table: LossTable) -> list[int]:
    return [capacity_bytes(parse_budget(text), table.total_weights) for text in budgets]


def _climb(problem: Problem, rungs: str, server: str | None, seconds: float | None, *, as_json: bool) -> None:
    """Solve and print a nested ladder."""
    from raq_client.reports.explain import ladder_dict, ladder_table
    from raq_solver.knapsack import Limits

    with open_solver(server) as asker:
        found = asker.nested_ladder(problem, [parse_budget(rung) for rung in options.listed(rungs)], Limits(seconds))
    if as_json:
        print_json(ladder_dict(found))
    else:
        OUT.print(ladder_table(found, problem.table.total_weights))
    raise typer.Exit(EXIT_CODES[found.termination])
