"""What a recipe comes to on its model: rules resolved to tensors, and a type for every tensor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raq_client import pipeline
from raq_client.building.inputs import Prepared
from raq_client.files.profile_file import load_profile
from raq_client.importance.domains import read_parts
from raq_client.importance.ratio import Thresholds
from raq_client.models.gguf_header import Value
from raq_client.models.writer import file_size
from raq_client.planning.build_problem import ProblemSpec
from raq_client.planning.plan import Plan, solve_plan
from raq_client.planning.request import BaseSpec, Request
from raq_client.planning.settings_request import request_of
from raq_client.progress import Notes, Progress, silent
from raq_client.quantizing.quantize import STALE, Quantization, resolved_types
from raq_client.recipes.build_recipe import AutoRule, BuildRecipe
from raq_client.recipes.patterns import matching
from raq_client.solver_client.local import LocalSolver
from raq_client.solver_client.protocol import SolverClient
from raq_client.suggestions.raises import Raise
from raq_client.suggestions.scores import Evidence, Rule
from raq_client.suggestions.suggest import Question, suggest
from raq_client.suggestions.units import UnitKind
from raq_solver.allocation import Allocation, Ledger, account
from raq_solver.backends.libraries import check_libraries
from raq_solver.constraints import Pin
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits
from raq_solver.problem import Problem
from raq_solver.quant_types import QuantType, quant_type
from raq_solver.solve import NO_LIMITS
from raq_solver.tensors import Tensor


@dataclass(frozen=True, slots=True)
class RaisedUnit:
    """A unit that a rule raises: its score, and the types that its tensors are raised to.

    `kept` are its tensors that have enough already, and the types that they keep at least.
    """

    unit: str
    score: float
    types: Mapping[str, str]
    kept: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ResolvedRule:
    """An `auto` rule of a recipe, and what it came to on the recipe's model."""

    rule: AutoRule
    units: tuple[RaisedUnit, ...]

    @property
    def types(self) -> dict[str, str]:
        """The raised tensors and their types."""
        return {name: chosen for one in self.units for name, chosen in one.types.items()}


@dataclass(frozen=True, eq=False)
class Resolved:
    """A recipe resolved for its model.

    `plan` is the solver's, None where the base gives the types. `ledger` has exact sizes and predicted losses.
    """

    prepared: Prepared
    allocation: Allocation
    ledger: Ledger
    loss_source: str
    rules: tuple[ResolvedRule, ...]
    plan: Plan | None = None

    @property
    def recipe(self) -> BuildRecipe:
        """The recipe."""
        return self.prepared.recipe

    @property
    def types(self) -> dict[Tensor, QuantType]:
        """The type of every tensor in file order. Raises InvalidInput with every tensor that can't have its type."""
        inputs = self.prepared.inputs
        return resolved_types(inputs.model, self.allocation, inputs.importance)

    @property
    def metadata(self) -> dict[str, Value]:
        """The metadata that a build adds to that of `quantize_model`."""
        return {"raq.recipe": self.recipe.name}

    def quantization(self, target: Path) -> Quantization:
        """Writing the recipe's file to `target`."""
        inputs = self.prepared.inputs
        return Quantization(inputs.model, self.allocation, target, inputs.rounding, metadata=self.metadata)

    @property
    def file_bytes(self) -> int:
        """The exact size of the file that a build writes."""
        wanted = self.quantization(self.recipe.output.file)
        return file_size(wanted.model, wanted.types_by_name, wanted.keys, STALE)


def recipe_request(recipe: BuildRecipe) -> Request:
    """The request that a recipe makes, without its rules. Raises InvalidInput as `request_of` does."""
    base = BaseSpec(
        base=recipe.base,
        overrides=recipe.overrides,
        counting=recipe.counting,
        moves=recipe.moves,
        domain=recipe.domain,
        general=recipe.general,
        thresholds=Thresholds(recipe.demote_below, recipe.promote_above),
        exo=recipe.exo,
        architecture=recipe.architecture or "none",
    )
    return request_of(recipe, base)


def check_solvable(recipe: BuildRecipe, solver: SolverClient) -> None:
    """Raise InvalidInput if this process is to solve the recipe's problem and a library for that is missing."""
    if isinstance(solver, LocalSolver) and recipe_request(recipe).constraints.on_several:
        check_libraries()


def resolve(
    prepared: Prepared,
    solver: SolverClient,
    limits: Limits = NO_LIMITS,
    *,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> Resolved:
    """Resolve a recipe's rules and find a type for every tensor.

    Raises InvalidInput with the faults of inputs and recipe, and if nothing fits its budget or a rule raises nothing.
    """
    recipe, request = prepared.recipe, recipe_request(prepared.recipe)
    check_solvable(recipe, solver)
    spec = pipeline.pose(prepared.inputs, request, progress=progress, notes=notes)
    if recipe.types_from == "base":
        return _from_base(prepared, spec, solver, limits)
    rules: tuple[ResolvedRule, ...] = ()
    if recipe.auto:
        start = solver.solve(spec.problem, limits).unwrap()[0]
        rules = tuple(_resolved(prepared, spec, start, solver, limits))
        kept = replace(request.constraints, floor=(*request.constraints.floor, *_floors(rules)))
        spec = pipeline.pose(prepared.inputs, replace(request, constraints=kept), notes=notes)
    plan = solve_plan(spec, solver, limits)
    if plan.outcome.allocation is None:
        raise InvalidInput(Fault(recipe.name, _nothing(plan, rules)))
    allocation, ledger = plan.outcome.unwrap()
    return Resolved(prepared, allocation, ledger, plan.table.source, rules, plan)


def _from_base(prepared: Prepared, spec: ProblemSpec, solver: SolverClient, limits: Limits) -> Resolved:
    """The base's types, with the recipe's pins, then each rule's raises in turn."""
    assert spec.base is not None, 'a recipe with types_from = "base" has one'
    problem = spec.problem
    known = set(problem.table.tensors)
    types = {name: chosen for name, chosen in spec.base.allocation.types.items() if name in known}
    types |= _pins(problem)
    rules = []
    for one in _resolved(prepared, spec, Allocation(types), solver, limits, in_turn=True):
        rules.append(one)
        types |= one.types
    allocation = Allocation(types)
    ledger = account(allocation, problem.table, 0)
    return Resolved(prepared, allocation, replace(ledger, capacity=ledger.size), problem.table.source, tuple(rules))


def _resolved(
    prepared: Prepared,
    spec: ProblemSpec,
    start: Allocation,
    solver: SolverClient,
    limits: Limits,
    *,
    in_turn: bool = False,
) -> Iterator[ResolvedRule]:
    """Each rule resolved: all from the same start, or each (`in_turn`) from what the ones before it made of it."""
    names = spec.problem.table.tensors
    choices = dict(zip(names, spec.problem.allowed().sum(axis=1).tolist(), strict=True))
    for number, rule in enumerate(prepared.recipe.auto, start=1):
        question = Question(Rule(rule.rule), UnitKind(rule.unit), rule.most, rule.type, rule.families)
        try:
            found = suggest(spec.problem, start, question, _evidence(rule, prepared, spec), solver, limits)
        except InvalidInput as error:
            raise InvalidInput(
                [Fault(f"auto rule {number} ({rule.rule})", str(each)) for each in error.faults]
            ) from None
        matched = set(matching(rule.families, names, "families") if rule.families else names)
        movable = {name for name in matched if choices[name] > 1}
        resolved = ResolvedRule(
            rule, tuple(_raised(one.raised, one.score.value, rule, start, movable) for one in found.chosen)
        )
        yield resolved
        if in_turn:
            start = Allocation({**start.types, **resolved.types})


def _raised(raised: Raise, score: float, rule: AutoRule, start: Allocation, movable: set[str]) -> RaisedUnit:
    types = {move.tensor: move.after for move in raised.moves}
    kept = {}
    for name in raised.unit.tensors:
        if name in movable and name not in types:
            own = start.types[name]
            if rule.type is None:
                kept[name] = own
            elif quant_type(own).bits_per_weight >= quant_type(rule.type).bits_per_weight:
                kept[name] = quant_type(rule.type).name
    return RaisedUnit(raised.unit.name, score, types, kept)


def _evidence(rule: AutoRule, prepared: Prepared, spec: ProblemSpec) -> Evidence:
    importance = prepared.inputs.importance
    own = () if importance is None else (importance,)
    profile = spec.profile if rule.profile is None else load_profile(rule.profile)
    return Evidence(
        profile, read_parts(rule.domain) if rule.domain else own, read_parts(rule.general), _experts(prepared)
    )


def _experts(prepared: Prepared) -> int:
    found = prepared.inputs.model.architecture_value("expert_count")
    return found if isinstance(found, int) else 0


def _pins(problem: Problem) -> dict[str, str]:
    return {name: one.quant_type for one in problem.constraints if isinstance(one, Pin) for name in one.tensors}


def _floors(rules: Sequence[ResolvedRule]) -> list[str]:
    """Constraints that keep what the rules raise; where two rules raise one tensor, both hold."""
    units = [unit for one in rules for unit in one.units]
    return [f"{name}={chosen}" for unit in units for name, chosen in (*unit.types.items(), *unit.kept.items())]


def _nothing(plan: Plan, rules: Sequence[ResolvedRule]) -> str:
    """Why there is no allocation."""
    least = plan.outcome.least_bytes
    if least <= plan.problem.capacity_bytes:
        return "no types satisfy all of its constraints together; leave some out"
    because = " with what its rules raise" if rules else ""
    what = f"does not fit its budget of {plan.problem.capacity_bytes:,} bytes: the smallest types{because} take"
    return f"{what} {least:,}; allow more, or less to be raised"


def changed_types(one: Resolved, other: Resolved) -> dict[str, tuple[str, str]]:
    """The tensors whose types differ between two resolved recipes, with both types."""
    before, after = one.allocation.types, other.allocation.types
    return {name: (before[name], after[name]) for name in before if name in after and before[name] != after[name]}
