"""Plans for several domains: one profile for each, and the allocation with the smallest worst-domain loss."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from raq_client.importance.domains import named_file
from raq_client.models.table import ModelTable
from raq_client.planning.build_problem import ResolvedBase, build_problem
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.plan import Plan, WorstCaseDetails, make_plan
from raq_client.planning.request import Request
from raq_client.planning.text_weights import TOO_FEW
from raq_client.solver_client.protocol import SolverClient
from raq_solver.allocation import account
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.knapsack import Limits
from raq_solver.make_problem import predicted_losses
from raq_solver.outcome import Outcome
from raq_solver.profile import Profile
from raq_solver.questions.worst_case import Domains, WorstCase, WorstCaseMeasure

SOURCE: Final = "losses of all domains, each in its unit, weighted as in the proof"
"""The source of the losses in a plan for several domains."""
SECONDS: Final = 60.0
"""Default time limit of the search: closing the last 0.1 % of the gap may take hours."""


def domains_of(inputs: ModelInputs, profiles: Sequence[Path]) -> dict[str, ModelInputs]:
    """The inputs of each domain, by name: one importance file of the model for each, or one saved profile for each.

    A single file or profile is that of several texts, each a domain (`text_weights.by_text`). Raises InvalidInput for
    fewer than two domains, and for files with weights.
    """
    if profiles:
        found = {str(path): replace(inputs, path=None, imatrix=(), profile_path=path) for path in profiles}
    else:
        weighed = [text for text in inputs.imatrix if named_file(text)[1] is not None]
        what = "weights are for blending domains; with --worst-case each file is its own domain"
        raise_faults([Fault(text, what) for text in weighed])
        found = {text: inputs.with_imatrix((text,)) for text in inputs.imatrix}
    texts = [text for each in found.values() for text in each.calibration_texts] if len(found) == 1 else ()
    if len(found) < 2 and len(texts) < 2:
        raise InvalidInput(Fault("--worst-case", TOO_FEW))
    names = {name: Path(name).name.removesuffix(".gguf").removesuffix(".json") for name in found}
    distinct = len(set(names.values())) == len(names)
    return {names[name] if distinct else name: each for name, each in found.items()}


def blended(inputs: ModelInputs) -> ModelInputs:
    """The inputs for writing the file: the importance of all domains with equal weights."""
    return inputs.with_imatrix(tuple(f"{text}:1" for text in inputs.imatrix))


def solve_worst_case_plan(
    profiles: Sequence[tuple[str, Profile]],
    request: Request,
    measure: WorstCaseMeasure,
    solver: SolverClient,
    limits: Limits,
    table: ModelTable | None = None,
    base: ResolvedBase | None = None,
) -> Plan:
    """Predict the losses of each domain and minimize the worst; `table` and `base` as for `build_problem`.

    The plan's table is that of the proof (all domains, weighted); the plan has no prices.
    """
    tables = tuple((name, predicted_losses(profile, request.loss)) for name, profile in profiles)
    facts = next((profile for _, profile in profiles if not profile.has_importance), profiles[0][1])
    spec = build_problem(request, facts, table, base=base)
    question = Domains(tables, spec.problem.capacity_bytes, spec.problem.constraints, measure)
    found = solver.solve_worst_case(question, Limits(SECONDS if limits.seconds is None else limits.seconds))
    problem = question.weighted(found.factors, SOURCE)
    ledger = None if found.allocation is None else account(found.allocation, problem.table, problem.capacity_bytes)
    outcome = Outcome(
        found.termination,
        found.allocation,
        ledger,
        None if ledger is None or found.bound is None else min(found.bound, ledger.loss),
        found.multiplier,
        found.least_bytes,
        found.most_bytes,
        found.seconds,
        found.constraint_multipliers,
    )
    details = WorstCaseDetails(found, _elsewhere(question, found))
    return make_plan(spec, problem, outcome, solver, limits, details)


def _elsewhere(question: Domains, found: WorstCase) -> tuple[float, ...]:
    """For each domain, its worst loss in files made for another single domain over its own optimum; NaN if unknown."""
    best = [each.best.allocation for each in found.domains]
    worst = []
    for number, (each, (_, table)) in enumerate(zip(found.domains, question.tables, strict=True)):
        least = 0.0 if each.best.ledger is None else each.best.ledger.loss
        others = [one for other, one in enumerate(best) if one is not None and other != number]
        losses = [account(one, table, question.capacity_bytes).loss for one in others]
        worst.append(max(losses) / least if losses and least > 0 else math.nan)
    return tuple(worst)
