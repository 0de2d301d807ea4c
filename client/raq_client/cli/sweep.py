"""`raq-client sweep`: the best allocation of every budget in a range."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, progress_bar, say
from raq_client.cli.solve import merged_demands, merged_sources
from raq_client.planning import chosen_loss, obtain_profile
from raq_client.settings import read_settings

LINES_SHOWN = 40
"""Points printed as a table; of more, evenly spread ones."""


def sweep(
    first: Annotated[str, typer.Option("--from", help="Smallest budget, as for solve.")],
    last: Annotated[str, typer.Option("--to", help="Largest budget.")],
    points: Annotated[int, typer.Option("--points", min=1, help="Budgets to solve, evenly spaced.")] = 50,
    model: options.Model = None,
    imatrix: options.Imatrix = None,
    profile: options.ProfileFile = None,
    types: options.Types = None,
    loss: options.Loss = None,
    pin: options.Pin = None,
    floor: options.Floor = None,
    ceiling: options.Ceiling = None,
    exclude: options.Exclude = None,
    tie: options.Tie = None,
    seconds: options.Seconds = None,
    effort: options.Effort = "fast",
    threads: options.Threads = 0,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the frontier as CSV.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw it into this file (.svg or .png).", show_default=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Solve many budgets at once: size, loss, proof and the price of the next byte at each, and where it bends.

    Example: raq-client sweep --from 3 --to 8 --points 100 -p model.profile.json --plot frontier.svg
    """
    from raq_client.frontier import frontier_table, mixture_landmarks, plot_frontier, point_to_dict, to_csv
    from raq_solver.budget import capacity_bytes, parse_budget
    from raq_solver.knapsack import Limits
    from raq_solver.problem import Problem
    from raq_solver.sweep import knee, spaced
    from raq_solver.sweep import sweep as solve_all

    settings = read_settings(Path.cwd())
    facts = obtain_profile(merged_sources(settings, model, imatrix, profile, types, effort, threads), progress_bar)
    table = chosen_loss(facts, loss or settings.loss)
    demands = merged_demands(settings, pin, floor, ceiling, exclude, tie)
    ends = [capacity_bytes(parse_budget(text), table.total_weights) for text in (first, last)]
    capacities = spaced(ends[0], ends[1], points)
    problem = Problem(table, capacities[-1], demands.constraints(table.tensors))
    found = []
    with progress_bar("solving") as report:
        for point in solve_all(problem, capacities, Limits(seconds)):
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
