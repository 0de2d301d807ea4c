"""`raq-client explain` and `audit`: reasons for a tensor's type, costs of constraints, distance from the optimum."""

from pathlib import Path
from typing import Annotated, Any

import typer

from raq_client import pipeline
from raq_client.cli import options
from raq_client.cli.console import OUT, fail, print_json, say
from raq_client.cli.follow import followed
from raq_client.cli.groups import SourceOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.plan_output import EXIT_CODES
from raq_client.cli.problem_options import ProblemOptions
from raq_client.files.settings import read_settings
from raq_client.reports.plain import plain
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Termination


@spread
def explain(
    tensor: Annotated[
        str | None,
        typer.Argument(
            metavar="[TENSOR]", help="A tensor; without one, what the constraints cost.", show_default=False
        ),
    ] = None,
    *,
    source: SourceOptions,
    budget: options.Budget = None,
    posed: ProblemOptions,
    as_json: options.Json = False,
) -> None:
    """Say why a tensor has its type, or what constraints cost.

    Says how well the loss is known too. If nothing fits, explains why.

    Takes the options of solve, and explains the same problem.

    Examples:

    raq-client explain output.weight --budget 5.7 -p model.profile.json

    raq-client explain --budget 5.7 -p model.profile.json --architecture default
    """
    from rich.console import Group

    from raq_client.planning.predicted_kl import predicted_kl
    from raq_client.reports.explain import conflict_text, costs_dict, costs_table, reasons_table
    from raq_client.reports.predicted import predicted_dict, predicted_table

    settings = read_settings(Path.cwd())
    with followed() as progress:
        request = posed.request(settings, budget)
        spec = pipeline.pose(source.inputs(settings), request, progress=progress, notes=say)
    problem = spec.problem
    with posed.solver(settings) as solver:
        conflict = solver.explain_conflict(problem, posed.limits)
        if conflict is not None:
            fail(conflict_text(conflict))
            raise typer.Exit(EXIT_CODES[Termination.INFEASIBLE])
        if tensor is not None:
            reasons = solver.explain_tensor(problem, tensor, posed.limits)
            found: Any = plain(reasons)
            shown = reasons_table(reasons)
        else:
            costs = solver.constraint_costs(problem, posed.limits)
            best = solver.solve(problem, posed.limits).allocation
            expected = None if best is None else predicted_kl(spec, best.types)
            found = costs_dict(costs) | {"predicted": predicted_dict(expected)}
            shown = costs_table(costs) if expected is None else Group(costs_table(costs), predicted_table(expected))
    if as_json:
        print_json(found)
    else:
        OUT.print(shown)


@spread
def audit(
    candidate: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A GGUF file, the JSON of `solve`, or a llama.cpp --tensor-type-file."),
    ],
    *,
    source: SourceOptions,
    posed: ProblemOptions,
    as_json: options.Json = False,
) -> None:
    """Say how far an allocation is from the best of its size.

    Lists the changes that lead to the best one.

    The original is MODEL or --profile. The best allocation satisfies the constraints (also those of raq.toml); those
    that the file violates are listed.

    Example: raq-client audit downloaded-Q4_K_M.gguf model-f16.gguf --imatrix imatrix.gguf
    """
    from raq_client.models.read_table import names_gguf, read_table
    from raq_client.recipes.allocation_file import read_allocation
    from raq_client.reports.explain import audit_report
    from raq_client.reports.plan_json import audit_dict
    from raq_solver.allocation import Allocation

    if posed.vram is not None:
        raise InvalidInput(Fault("--vram", "limits the size, but an audit compares at the size of the file"))
    settings = read_settings(Path.cwd()).model_copy(update={"budget": None})
    inputs = source.inputs(settings)
    with followed() as progress:
        spec = pipeline.pose(inputs, posed.request(settings, None), needs_budget=False, progress=progress, notes=say)
    assert spec.profile is not None, "a model is audited"
    if names_gguf(candidate):
        tensors = read_table(candidate).tensors
        allocation = Allocation({tensor.name: tensor.source_type.name for tensor in tensors})
    else:
        architecture = spec.profile.provenance.get("architecture", "")
        allocation = read_allocation(candidate, spec.profile.tensors, architecture)
    with posed.solver(settings) as solver:
        found = solver.audit(spec.problem, allocation, posed.limits)
    if as_json:
        print_json(audit_dict(found))
    else:
        OUT.print(audit_report(found, spec.problem.table))
