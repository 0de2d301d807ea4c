"""`raq-client solve`: the best allocation for a budget."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from raq_client import pipeline
from raq_client.cli import options
from raq_client.cli.console import say
from raq_client.cli.follow import followed
from raq_client.cli.groups import SourceOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.plan_output import EXIT_CODES, Format, draw_moves, limit_kept, print_plan
from raq_client.cli.problem_options import ProblemOptions
from raq_client.cli.worst_case_options import WorstCaseOptions
from raq_client.cli.written import check_written
from raq_client.files.settings import Settings, read_settings
from raq_client.planning.build_problem import build_problem
from raq_client.planning.plan import Plan, solve_plan
from raq_client.planning.request import Request
from raq_solver.errors import Fault, InvalidInput


@spread
def solve(
    called: typer.Context,
    *,
    budget: options.Budget = None,
    max_loss: options.MaxLoss = None,
    source: SourceOptions,
    posed: ProblemOptions,
    output_format: Annotated[Format, typer.Option("--format", help="How to print the allocation.")] = Format.TABLE,
    as_json: options.Json = False,
    problem: Annotated[
        Path | None,
        options.other_input(
            "--problem", metavar="FILE", help_text="A plain problem (.npz or .json) instead of a model."
        ),
    ] = None,
    capacity: Annotated[
        int | None, options.other_input("--capacity-bytes", min=0, metavar="BYTES", help_text="Its capacity.")
    ] = None,
    worst: WorstCaseOptions,
    plot: options.MovesPlot = None,
) -> None:
    """Find the best allocation within a budget, with proof.

    The model is MODEL or a saved --profile, or that of raq.toml in this folder. Patterns are shell globs over tensor
    names. With a --base and no budget the allocation is as large as the base; with --vram the weights get the memory
    that context and overhead leave. Exit code 0: proven optimal; 3: a limit stopped the search; 4: the budget is too
    small.

    Examples:

    raq-client solve --budget 5.7

    raq-client solve model-f16.gguf -b 4.2GiB -i imatrix.gguf --pin 'output.weight=Q6_K' --floor 'blk.0.*=Q4_K'

    raq-client solve -p model.profile.json --max-loss 0.01 --format llama.cpp > types.txt

    raq-client solve model-f16.gguf -i r.gguf --base Q4_K_M --moves ratio --domain r.gguf --general wiki.gguf

    raq-client solve --problem table.npz --capacity-bytes 5000000000 --json

    raq-client solve model-f16.gguf -b 5.0 --worst-case -i reasoning.gguf -i wiki.gguf

    raq-client solve model-f16.gguf --vram 24GiB --vram-context 184k --kv q4_0 --overhead 3GiB
    """
    settings = read_settings(Path.cwd())
    check_written(called, {}, {"plot": plot}, force=False, also=settings.files())
    weighted = bool(source.text_weight)
    worst.refuse({"--problem": problem is not None, "--max-loss": max_loss is not None, "--text-weight": weighted})
    if capacity is not None and problem is None:
        raise InvalidInput(Fault("--capacity-bytes", "is for --problem FILE; a model's size is limited with --budget"))
    request = posed.request(settings, budget, max_loss=max_loss)
    with limit_kept():
        if problem is not None:
            plan = _of_plain(problem, capacity, budget, posed, source, settings, max_loss)
        elif worst.worst_case:
            plan, _ = worst.plan(
                replace(source, profile=None).inputs(settings), source.profile or (), request, posed, settings
            )
        else:
            plan = plan_for(source, request, posed, settings)
    print_plan(plan, Format.JSON if as_json else output_format)
    draw_moves(plan, plot)
    raise typer.Exit(EXIT_CODES[plan.outcome.termination])


def plan_for(source: SourceOptions, request: Request, posed: ProblemOptions, settings: Settings) -> Plan:
    """The plan for a model or a saved profile, with a progress bar."""
    with followed() as progress, posed.solver(settings) as solver:
        return pipeline.plan(source.inputs(settings), request, solver, posed.limits, progress=progress, notes=say)


def _of_plain(
    file: Path,
    capacity: int | None,
    budget: str | None,
    posed: ProblemOptions,
    source: SourceOptions,
    settings: Settings,
    max_loss: float | None,
) -> Plan:
    """The plan for a plain problem, which has no model: that of raq.toml is ignored."""
    from raq_client.files.problem_file import read_plain_problem

    source.refuse_all("--problem")
    if capacity is not None and budget is not None:
        raise InvalidInput(Fault(str(file), "give either --capacity-bytes or --budget, not both"))
    own = Settings(server=settings.server)
    read = read_plain_problem(file, capacity if budget is None and max_loss is None else capacity or 0)
    spec = build_problem(posed.request(own, budget, max_loss=max_loss), read, needs_budget=max_loss is None)
    with posed.solver(settings) as solver:
        return solve_plan(spec, solver, posed.limits)
