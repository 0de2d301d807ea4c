"""`raq-client explain` and `audit`: why this, what it costs, and how far a given file is from the best."""

from pathlib import Path
from typing import Annotated, Any

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, progress_bar, say
from raq_client.cli.constraint_options import ConstraintOptions
from raq_client.cli.groups import AskOptions, SourceOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.solve import EXIT_CODES
from raq_client.files.settings import read_settings
from raq_client.planning.plan import chosen_loss, model_table, obtain_profile
from raq_client.solver_client.protocol import open_solver
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits, Termination


@spread
def explain(
    tensor: Annotated[
        str | None, typer.Argument(help="A tensor; without one, what the constraints cost.", show_default=False)
    ] = None,
    budget: options.Budget = None,
    *,
    source: SourceOptions,
    demand: ConstraintOptions,
    ask: AskOptions,
    as_json: options.Json = False,
) -> None:
    """Say why a tensor has its type, or what the constraints of a problem cost, or why nothing fits.

    Example: raq-client explain output.weight --budget 5.7 -p model.profile.json
    """
    from raq_client.reports.explain import conflict_text, costs_dict, costs_table, reasons_table
    from raq_solver.budget import capacity_bytes, parse_budget
    from raq_solver.problem import Problem

    if budget is None:
        raise InvalidInput(Fault("", "name the budget to explain: --budget"))
    settings = read_settings(Path.cwd())
    sources = source.sources(settings)
    facts = obtain_profile(sources, progress_bar)
    table = chosen_loss(facts, ask.loss_model(settings))
    capacity = capacity_bytes(parse_budget(budget), table.total_weights)
    problem = Problem(table, capacity, demand.demands(settings).constraints(table.tensors, model_table(sources, facts)))
    limits = Limits(ask.seconds)
    with open_solver(ask.solved_at(settings)) as asker:
        conflict = asker.explain_conflict(problem, limits)
        if conflict is not None:
            say(f"raq-client: {conflict_text(conflict)}")
            raise typer.Exit(EXIT_CODES[Termination.INFEASIBLE])
        if tensor is not None:
            reasons = asker.explain_tensor(problem, tensor, limits)
            found: Any = options.plain(reasons)
            shown = reasons_table(reasons)
        else:
            costs = asker.constraint_costs(problem, limits)
            found, shown = costs_dict(costs), costs_table(costs)
    if as_json:
        print_json(found)
    else:
        OUT.print(shown)


@spread
def audit(
    candidate: Annotated[
        Path, typer.Argument(help="A GGUF file, the JSON of `solve`, or a llama.cpp --tensor-type-file.")
    ],
    *,
    source: SourceOptions,
    ask: AskOptions,
    as_json: options.Json = False,
) -> None:
    """Say how far an allocation is from the best one of the same bytes, and which moves lead there.

    The original's facts come from --model or --profile; its types must be among those looked at (--types).

    Example: raq-client audit downloaded-Q4_K_M.gguf --model model-f16.gguf --imatrix imatrix.gguf
    """
    from raq_client.models.model_file import open_model
    from raq_client.recipes.allocation_file import read_allocation
    from raq_client.reports.explain import audit_report
    from raq_solver.allocation import Allocation
    from raq_solver.problem import Problem

    settings = read_settings(Path.cwd())
    facts = obtain_profile(source.sources(settings), progress_bar)
    table = chosen_loss(facts, ask.loss_model(settings))
    if candidate.suffix == ".gguf":
        tensors = open_model(candidate, header_only=True).tensors
        allocation = Allocation({tensor.name: tensor.source_type.name for tensor in tensors})
    else:
        allocation = read_allocation(candidate, facts.tensors, facts.provenance.get("architecture", ""))
    with open_solver(ask.solved_at(settings)) as asker:
        found = asker.audit(Problem(table, 0), allocation, Limits(ask.seconds))
    if as_json:
        best = found.best.allocation
        print_json(
            {
                "bytes": found.ledger.size,
                "loss": found.ledger.loss,
                "best_loss": None if found.best.ledger is None else found.best.ledger.loss,
                "excess": options.plain(found.excess),
                "changes": options.plain(found.changes),
                "best": None if best is None else dict(best.types),
            }
        )
    else:
        OUT.print(audit_report(found, table))
