"""A plan for several domains: one profile for each, and the allocation whose worst domain loses least."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from raq_client.importance.domains import named_file
from raq_client.models.table import ModelTable
from raq_client.planning.plan import Plan, Request, Sources, WorstCaseDetails, chosen_loss, hosted, profile_table
from raq_client.planning.premises import premises_of
from raq_client.solver_client.protocol import open_solver
from raq_solver.allocation import account
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.knapsack import Limits
from raq_solver.outcome import Outcome
from raq_solver.profile import Profile
from raq_solver.questions.worst_case import Domains, Measure, WorstCase

SOURCE: Final = "losses of all domains, each in its unit, weighted as in the proof"
"""Where the losses of a plan for several domains come from."""


def domains_of(sources: Sources, profiles: Sequence[Path]) -> dict[str, Sources]:
    """The sources of each domain, by name: an importance file each of a model, or saved profiles.

    Raises InvalidInput for fewer than two, and for files with weights.
    """
    if profiles:
        found = {str(path): replace(sources, model=None, imatrix=(), profile=path) for path in profiles}
    else:
        found = {text: replace(sources, profile=None, imatrix=(text,)) for text in sources.imatrix}
    weighed = [text for text in sources.imatrix if named_file(text)[1] is not None]
    what = "a weight blends domains; with --worst-case each file is a domain by itself"
    raise_faults([Fault(text, what) for text in weighed if not profiles])
    if len(found) < 2:
        what = "needs two domains or more: an importance file (-i) for each, or a saved profile (-p) for each"
        raise InvalidInput(Fault("--worst-case", what))
    names = {name: Path(name).name.removesuffix(".gguf").removesuffix(".json") for name in found}
    distinct = len(set(names.values())) == len(names)
    return {names[name] if distinct else name: each for name, each in found.items()}


def blended(sources: Sources) -> Sources:
    """The sources for writing the file: the importance of all domains, each counting alike."""
    return replace(sources, imatrix=tuple(f"{text}:1" for text in sources.imatrix))


def make_domain_plan(
    profiles: Sequence[tuple[str, Profile]], request: Request, measure: Measure, model: ModelTable | None = None
) -> Plan:
    """Predict the losses of each domain and solve for the worst; `model` adds metadata to what profiles tell of it.

    The plan's table is that of the proof: all domains, weighted. Constraints are not priced.
    """
    tables = tuple((name, chosen_loss(profile, request.loss)) for name, profile in profiles)
    first = profiles[0][1]
    known = model or profile_table(first)
    premises = premises_of(
        request.budget,
        request.demands.constraints(tables[0][1].tensors, known),
        request.around,
        tables[0][1],
        known,
        has_importance=all(profile.has_importance for _, profile in profiles),
    )
    question = Domains(tables, premises.capacity, premises.constraints, measure)
    with open_solver(request.server) as asker:
        found = asker.solve_worst_case(question, Limits(request.seconds))
    problem = question.weighted(found.factors, SOURCE)
    ledger = None if found.allocation is None else account(found.allocation, problem.table, premises.capacity)
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
    return Plan(
        first,
        hosted(premises, outcome),
        problem,
        outcome,
        compromise=WorstCaseDetails(found, _elsewhere(question, found)),
    )


def _elsewhere(question: Domains, found: WorstCase) -> tuple[float, ...]:
    """For each domain its worst loss in the files made for the others alone, over its own best; NaN if not known."""
    best = [each.best.allocation for each in found.domains]
    worst = []
    for number, (each, (_, table)) in enumerate(zip(found.domains, question.tables, strict=True)):
        least = 0.0 if each.best.ledger is None else each.best.ledger.loss
        others = [one for other, one in enumerate(best) if one is not None and other != number]
        losses = [account(one, table, question.capacity_bytes).loss for one in others]
        worst.append(max(losses) / least if losses and least > 0 else math.nan)
    return tuple(worst)
