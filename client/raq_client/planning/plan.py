"""From what the user asked for to a plan: facts measured or loaded, losses predicted, the problem solved."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from platformdirs import user_cache_path

from raq_client.importance.imatrix import Importance
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.quantizable import EMBEDDINGS, is_quantizable
from raq_client.models.table import NUMBERS, ModelTable, guessed_architecture, numbers_of, table_of
from raq_client.models.type_choice import AUTO, chosen_types
from raq_client.planning.premises import BaseSpec, Premises, agreements_of, base_of, premises_of
from raq_client.planning.prices import Price, prices
from raq_client.planning.selection import ConstraintSpec
from raq_client.quantizing.devices import CPU, Device
from raq_client.quantizing.quantize import Effort
from raq_client.recipes.diff import Agreement, Exchange, exchange
from raq_client.solver_client.protocol import open_solver
from raq_solver.budget import Budget
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits
from raq_solver.loss_models import default_loss_model, loss_model
from raq_solver.losses import LossTable
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.questions.worst_case import WorstCase
from raq_solver.tensor_names import OUTPUT

ProgressFactory = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Makes a progress bar with a title; entering it gives the function to report to."""


Tell = Callable[[str], None]
"""Hears a remark for people."""
NAMED = 3
"""Tensors that a remark names; of the others it gives the number."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the facts of a model come from: a saved profile, or the model and its importance.

    `imatrix` names importance files, each `FILE` or `FILE:WEIGHT`; `rows` are measured of each matrix, None for all.
    """

    model: Path | None = None
    imatrix: tuple[str, ...] = ()
    profile: Path | None = None
    types: tuple[str, ...] = ()
    effort: Effort = "fast"
    threads: int = 0
    rows: int | None = None
    cached: bool = True
    device: Device = CPU


@dataclass(frozen=True, slots=True)
class Request:
    """What to solve."""

    budget: str | None = None
    loss: str | None = None
    demands: ConstraintSpec = field(default_factory=ConstraintSpec)
    server: str | None = None
    seconds: float | None = None
    around: BaseSpec = field(default_factory=BaseSpec)


@dataclass(frozen=True, eq=False)
class WorstCaseDetails:
    """What a plan for several domains came to.

    `elsewhere`: for each domain its worst loss in the files made for the others alone, over its own best.
    """

    found: WorstCase
    elsewhere: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """A solved problem and what it was made from.

    With a `compromise` between domains the table is that of its proof, and the outcome's loss that of the table.
    """

    profile: Profile
    premises: Premises
    problem: Problem
    outcome: Outcome
    prices: tuple[Price, ...] = ()
    compromise: WorstCaseDetails | None = None

    @property
    def budget(self) -> Budget:
        """What was asked for."""
        return self.premises.budget

    @property
    def exchange(self) -> Exchange | None:
        """The moves from the base to the allocation, where there are both."""
        base, found = self.premises.base, self.outcome.allocation
        return None if base is None or found is None else exchange(base, found, self.table, self.premises.capacity)

    @property
    def agreements(self) -> tuple[Agreement, ...]:
        """What ratio, measured sensitivity and base say of each tensor; empty without a ratio and a base."""
        return agreements_of(self.premises, self.profile)

    @property
    def table(self) -> LossTable:
        """The loss table of the problem."""
        return self.problem.table


def obtain_profile(sources: Sources, bars: ProgressFactory, tell: Tell = lambda _: None) -> Profile:
    """Load the saved profile, or measure the model (answered from the cache when nothing changed).

    `tell` hears what of the model the importance does not know.
    """
    if sources.profile is not None:
        from raq_client.files.profile_file import load_profile

        return load_profile(sources.profile)
    if sources.model is None:
        what = "nothing to solve for: name a model (--model), a saved profile (--profile), or either in raq.toml"
        raise InvalidInput(Fault("", what))
    from raq_client.quantizing.measure import measure_profile

    model = open_model(sources.model)
    importance = importance_of(model, sources.imatrix)
    unknown = None if importance is None else unknown_tensors(model, importance)
    if unknown is not None:
        tell(f"note: {unknown}")
    with bars("measuring errors") as report:
        return measure_profile(
            model,
            importance,
            chosen_types(sources.types),
            effort=sources.effort,
            threads=sources.threads,
            device=sources.device,
            rows=sources.rows,
            cache=user_cache_path("raq") / "measurements" if sources.cached else None,
            progress=report,
        )


def importance_of(model: ModelFile, texts: Sequence[str]) -> Importance | None:
    """The importance in these files (`FILE` or `FILE:WEIGHT`), seen to be of this model; None for no file.

    Raises InvalidInput with every mismatch.
    """
    from raq_client.importance.domains import read_domains
    from raq_client.importance.imatrix import check_against

    if not texts:
        return None
    importance = read_domains(texts)
    check_against(importance, model.tensors, ())
    return importance


def unknown_tensors(model: ModelFile, importance: Importance) -> str | None:
    """What the importance does not know of the model, in words; None if that is the embedding and the head at most."""
    wanted = [
        tensor.name
        for tensor in model.tensors
        if is_quantizable(tensor, model.architecture) and tensor.name not in (*EMBEDDINGS, OUTPUT)
    ]
    unknown = [name for name in wanted if not importance.knows(name)]
    if not unknown:
        return None
    more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
    return (
        f"{importance.source or 'the importance'} knows nothing of {len(unknown)} of {len(wanted)} tensors "
        f"({', '.join(unknown[:NAMED])}{more}): all their columns are taken to count alike, and types that need "
        "importance are not offered for them"
    )


def widened(sources: Sources, around: BaseSpec) -> Sources:
    """The sources with the types of the base among those to measure, so that the base can be priced."""
    if sources.model is None or sources.profile is not None or around.base is None:
        return sources
    table = table_of(open_model(sources.model))
    _, base = base_of(around, table, has_importance=bool(sources.imatrix)) or (None, None)
    assert base is not None, "there is a base"
    quantizable = [tensor.name for tensor in table.tensors if is_quantizable(tensor, table.architecture)]
    names = (*(sources.types or (AUTO,)), *sorted({base.types[name] for name in quantizable}))
    return replace(sources, types=tuple(dict.fromkeys(names)))


def model_table(sources: Sources, profile: Profile) -> ModelTable:
    """The table of the model; from a saved profile with the numbers that it carries, if it is not an old one."""
    if sources.model is not None and sources.profile is None:
        return table_of(open_model(sources.model))
    return profile_table(profile)


def profile_table(profile: Profile) -> ModelTable:
    """The table of the model that a profile is of."""
    name = profile.provenance.get("model", "the model")
    architecture = profile.provenance.get("architecture") or guessed_architecture(profile.tensors)
    return ModelTable(name, architecture, profile.tensors, numbers_of(profile.provenance.get(NUMBERS, "")))


def missing_facts(profile: Profile) -> str | None:
    """What better losses would need, and how to get it; None where nothing is missing."""
    if profile.fisher is not None:
        return None
    model = default_loss_model(profile).__name__
    return (
        f"there is no Fisher information of this model, so losses are those of the model {model}, which are further "
        "from the truth; raq-client imatrix collect MODEL --text FILE -o IMATRIX gathers it"
    )


def chosen_loss(profile: Profile, name: str | None) -> LossTable:
    """The losses that the named model predicts, or the default one for None."""
    model = loss_model(name) if name else default_loss_model(profile)
    return model(profile)


def make_plan(profile: Profile, request: Request, model: ModelTable | None = None) -> Plan:
    """Predict losses, state the problem, solve it; `model` adds metadata to what the profile tells of the model."""
    losses = chosen_loss(profile, request.loss)
    table = model or profile_table(profile)
    premises = premises_of(
        request.budget,
        request.demands.constraints(losses.tensors, table),
        request.around,
        losses,
        table,
        has_importance=profile.has_importance,
    )
    problem = Problem(losses, premises.capacity, premises.constraints)
    limits = Limits(request.seconds)
    with open_solver(request.server) as asker:
        outcome = asker.solve(problem, limits)
        found = prices(problem, outcome, lambda other: asker.solve(other, limits))
    return Plan(profile, hosted(premises, outcome), problem, outcome, found)


def hosted(premises: Premises, outcome: Outcome) -> Premises:
    """The premises with what the tensors on the host have got, if there is an allocation."""
    if outcome.ledger is None:
        return premises
    return premises.hosting({entry.tensor: entry.size for entry in outcome.ledger.entries})
