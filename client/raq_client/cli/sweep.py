"""`raq-client sweep`: the best allocation of every budget in a range."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client import pipeline
from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, say
from raq_client.cli.follow import followed
from raq_client.cli.groups import SourceOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.plan_output import EXIT_CODES
from raq_client.cli.problem_options import ProblemOptions
from raq_client.cli.written import check_written
from raq_client.files.settings import Settings, read_settings
from raq_client.planning.size_budget import parse_size_budget
from raq_client.progress import Step
from raq_solver.budget import TotalBytes
from raq_solver.errors import Fault, InvalidInput
from raq_solver.make_problem import capacity_in

if TYPE_CHECKING:
    from raq_client.planning.build_problem import ProblemSpec
    from raq_solver.questions.sweep import Point

LINES_SHOWN = 40
"""Most points in the printed table; of more, evenly spread ones are shown."""


@spread
def sweep(
    called: typer.Context,
    *,
    first: Annotated[
        str | None,
        typer.Option("--from", metavar="BUDGET", help="Smallest budget, as for solve.", show_default=False),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="BUDGET", help="Largest budget.", show_default=False)
    ] = None,
    points: Annotated[int, typer.Option("--points", min=1, help="Budgets to solve, evenly spaced.")] = 50,
    ladder: Annotated[
        str | None,
        typer.Option(
            "--ladder",
            metavar="BUDGET,BUDGET…",
            help="Instead of a range: these budgets, each only promoting tensors of the one before.",
            show_default=False,
        ),
    ] = None,
    source: SourceOptions,
    posed: ProblemOptions,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the frontier as CSV.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the frontier into this .svg or .png.", show_default=False),
    ] = None,
    as_json: options.Json = False,
    with_table: Annotated[
        bool, typer.Option("--with-table", help="With --json: bytes and losses of every tensor at every type too.")
    ] = False,
) -> None:
    """Solve a range of budgets: the frontier of size and loss.

    Prints size, loss, proof and the price of the next byte for each budget; the knee is marked. Budgets above the
    memory that --vram leaves for weights are left out.

    Examples:

    raq-client sweep --from 3 --to 8 --points 100 -p model.profile.json --plot frontier.svg

    raq-client sweep --ladder 4,4.5,5,5.7 -p model.profile.json
    """
    from raq_client.reports.frontier import frontier_dict, frontier_table, mixture_landmarks, plot_frontier, to_csv
    from raq_solver.questions.sweep import knee

    settings = read_settings(Path.cwd())
    check_written(called, {}, {"plot": plot}, force=False, also=settings.files())
    if ladder is None and (first is None or last is None):
        raise InvalidInput(Fault("", "give the range with --from and --to, or the budgets of a --ladder"))
    with followed() as progress:
        request = posed.request(settings.model_copy(update={"budget": None}), None)
        spec = pipeline.pose(source.inputs(settings), request, needs_budget=False, progress=progress, notes=say)
    if ladder is not None:
        _print_nested(spec, options.listed(ladder), posed, settings, as_json=as_json)
        return
    found, table = _solved(spec, (first or "", last or ""), points, posed, settings), spec.problem.table
    bend = knee(found)
    if plot is not None:
        assert spec.profile is not None, "a model is swept"
        plot_frontier(plot, found, bend, tuple(mixture_landmarks(spec.profile, table)), table)
        say(f"drawn: {plot}")
    if as_csv:
        OUT.out(to_csv(found, table.total_weights), end="", highlight=False)
    elif as_json:
        print_json(frontier_dict(found, bend, spec, with_table=with_table))
    else:
        OUT.print(frontier_table(found, bend, table, LINES_SHOWN))


def _solved(
    spec: "ProblemSpec", ends: tuple[str, str], points: int, posed: ProblemOptions, settings: Settings
) -> "list[Point]":
    """The optimum of each budget in the range that fits the memory."""
    from raq_solver.questions.sweep import spaced

    least, most = (capacity_in(spec.problem.table, parse_size_budget(text, spec.overhead)) for text in ends)
    capacities = spaced(least, most, points)
    kept = [one for one in capacities if spec.budget is None or one <= spec.problem.capacity_bytes]
    if not kept:
        raise InvalidInput(Fault("--from", f"{ends[0]} is more than memory leaves for weights ({spec.budget})"))
    if len(kept) < len(capacities):
        say(f"note: {len(capacities) - len(kept)} budgets are more than memory leaves for weights ({spec.budget})")
    found = []
    with posed.solver(settings) as solver, followed() as progress:
        for point in solver.sweep(spec.problem, [TotalBytes(capacity) for capacity in kept], posed.limits):
            found.append(point)
            progress(Step("solving", len(found), len(kept)))
    return found


def _print_nested(
    spec: "ProblemSpec", rungs: Sequence[str], posed: ProblemOptions, settings: Settings, *, as_json: bool
) -> None:
    """Solve and print a nested ladder."""
    from raq_client.reports.explain import ladder_dict, ladder_table

    with posed.solver(settings) as solver:
        found = solver.nested_ladder(
            spec.problem, [parse_size_budget(rung, spec.overhead) for rung in rungs], posed.limits
        )
    if as_json:
        print_json(ladder_dict(found))
    else:
        OUT.print(ladder_table(found, spec.problem.table.total_weights))
    raise typer.Exit(EXIT_CODES[found.termination])
