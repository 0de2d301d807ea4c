"""Resolve a request into the problem to solve: the only maker of a problem for every command and the Python API.

Precedence of constraints: user, then importance ratio, then memory (tensors on the host), then architecture rules. A
lower source never touches a tensor that a higher one constrains.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from raq_client.importance.domains import read_parts
from raq_client.importance.ratio import RatioReport, importance_ratio
from raq_client.models.quantizable import is_quantizable
from raq_client.models.table import ModelTable
from raq_client.planning.constraint_options import FLAG, passed_over
from raq_client.planning.memory_budget import MemoryBudget
from raq_client.planning.memory_target import candidates_of, host_pins, memory_budget, sides
from raq_client.planning.model_inputs import profile_table
from raq_client.planning.request import BaseSpec, Request
from raq_client.planning.size_budget import is_of_file, parse_size_budget
from raq_client.recipes.architecture import architecture_constraints, read_rules
from raq_client.recipes.bases import base_recipe, reference
from raq_client.recipes.diff import MoveConstraint, move_constraints, stored_size
from raq_client.recipes.patterns import matching
from raq_client.recipes.recipe_file import Base
from raq_client.recipes.steps import carry_out
from raq_solver.allocation import Allocation
from raq_solver.budget import Budget, TotalBytes, parse_budget
from raq_solver.constraints import Ceiling, Constraint, Floor, Pin
from raq_solver.errors import Fault, InvalidInput
from raq_solver.losses import LossTable
from raq_solver.make_problem import capacity_in, make_problem, predicted_losses
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import quant_type

EXO: Final = "--exo"


@dataclass(frozen=True, eq=False)
class ResolvedBase:
    """A base resolved for one model: its name, the types of all tensors, and a recipe's reference to it."""

    name: str
    allocation: Allocation
    reference: Base


@dataclass(frozen=True, eq=False)
class ProblemSpec:
    """A request resolved for one model: the problem, and the data it was made from.

    `profile` is None for a plain table of losses. `budget` is the smallest of the requested ones, None if the size is
    open. `groups` are the constraints that do not come from single options of the user, by origin: `architecture`,
    `ratio`, `exo`. `on_host` are the tensors kept on the host, `overhead` the bytes of the file beside tensor data.
    """

    request: Request
    profile: Profile | None
    problem: Problem
    budget: Budget | None
    base: ResolvedBase | None = None
    memory: MemoryBudget | None = None
    ratios: RatioReport | None = None
    on_host: tuple[str, ...] = ()
    groups: Mapping[str, tuple[Constraint, ...]] = field(default_factory=dict)
    overhead: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What users should know of how their request was taken."""
        table = self.problem.table
        given = (self.size_note, passed_over(self.request.constraints, table.tensors, fixed_tensors(table)))
        return tuple(note for note in given if note is not None)

    @property
    def size_note(self) -> str | None:
        """What of a budget that is the size of a file is not for tensor data; None for other budgets."""
        text = self.request.budget
        asked = None if text is None or not self.overhead or not is_of_file(text) else parse_budget(text)
        if not isinstance(asked, TotalBytes):
            return None
        left = asked.count - self.overhead
        return f"of {asked} of the file, up to {self.overhead:,} are for metadata, {left:,} for tensors"


def build_problem(
    request: Request,
    facts: Profile | Problem,
    table: ModelTable | None = None,
    *,
    base: ResolvedBase | None = None,
    needs_budget: bool = True,
) -> ProblemSpec:
    """The problem for a request, from a profile or from the problem of a plain file.

    `table` adds metadata to that in the profile; `base` is the request's base, if it has been resolved already. The
    capacity is the smaller of the budget and the memory left for weights; with neither, the size of the base. Without
    `needs_budget` (for questions with their own budgets) the size may be left open.

    Raises InvalidInput with the faults of the request, and if the size is needed but open.
    """
    if isinstance(facts, Problem):
        return _plain(request, facts, needs_budget=needs_budget)
    losses = predicted_losses(facts, request.loss)
    table = table or profile_table(facts)
    base = base or resolve_base(request.base, table, has_importance=facts.has_importance)
    ratios = _ratios(request.base)
    exo = _exo_pins(request.base.exo, losses, table)
    user = (*request.constraints.constraints(losses.tensors, table, fixed_tensors(losses)), *exo)
    data = _move_constraints(request.base, base, losses, ratios, user)
    hosted = host_pins(
        request.memory, losses, candidates_of(losses, (*user, *data)), None if base is None else base.allocation
    )
    memory = None if request.memory is None else memory_budget(request.memory, table)
    both = sides(request.memory, losses, memory)
    settled = (*user, *data, *hosted)
    rules = _rules(request.base, table, losses, settled)
    pinned_to_host = sum(stored_size(pin.tensors[0], pin.quant_type, losses) for pin in hosted)
    room = both[-1].capacity_bytes if both else pinned_to_host
    budget = _budget(request, memory, room, base, losses, table, needs_budget=needs_budget)
    return ProblemSpec(
        request=request,
        profile=facts,
        problem=make_problem(losses, budget, (*settled, *both, *rules)),
        budget=budget,
        base=base,
        memory=memory,
        ratios=ratios,
        on_host=both[-1].tensors if both else tuple(pin.tensors[0] for pin in hosted),
        groups=MappingProxyType({"architecture": rules, "ratio": data, "exo": exo}),
        overhead=table.overhead,
    )


def fixed_tensors(losses: LossTable) -> frozenset[str]:
    """The tensors with one type only, such as norms."""
    rows = (losses.offered.sum(axis=1) == 1).nonzero()[0].tolist()
    return frozenset(losses.tensors[row] for row in rows)


def resolve_base(spec: BaseSpec, table: ModelTable, *, has_importance: bool) -> ResolvedBase | None:
    """The base's types for this model; None if `spec` has no base.

    Raises InvalidInput for a base that can't be read or does not fit the model.
    """
    if spec.base is None:
        if spec.overrides is not None:
            raise InvalidInput(Fault("--overrides", "need a mixture to apply to; give a --base, such as Q4_K_M"))
        return None
    recipe = base_recipe(spec.base, overrides=spec.overrides, counting=spec.counting, has_importance=has_importance)
    types = carry_out(recipe, table)[-1].types
    allocation = Allocation.of(types)
    return ResolvedBase(recipe.name, allocation, reference(spec.base, recipe))


def types_in(base: ResolvedBase | None, table: ModelTable) -> tuple[str, ...]:
    """The types of the base's quantizable tensors; they must be measured so that the base's loss is known."""
    if base is None:
        return ()
    quantizable = [tensor.name for tensor in table.tensors if is_quantizable(tensor, table.architecture)]
    return tuple(sorted({base.allocation.types[name] for name in quantizable}))


def _plain(request: Request, file: Problem, *, needs_budget: bool) -> ProblemSpec:
    """The file's table and constraints, plus those of the request; options for models are refused."""
    given = {
        "--base and its options": request.base != BaseSpec(),
        "--vram": request.memory is not None,
        "--loss": request.loss is not None,
        FLAG: request.constraints.active_bytes is not None,
    }
    what = "is for models; a plain problem has its own tensors and losses, and active_bytes belong in its file"
    faults = [Fault(name, what) for name, there in given.items() if there]
    if faults:
        raise InvalidInput(faults)
    budget = None if request.budget is None else parse_budget(request.budget)
    if budget is None and (file.capacity_bytes or needs_budget):
        budget = TotalBytes(file.capacity_bytes)
    own = request.constraints.constraints(file.table.tensors, fixed=fixed_tensors(file.table))
    constraints = (*file.constraints, *own)
    return ProblemSpec(request, None, make_problem(file.table, budget, constraints), budget)


def _budget(
    request: Request,
    memory: MemoryBudget | None,
    on_host: int,
    base: ResolvedBase | None,
    losses: LossTable,
    table: ModelTable,
    *,
    needs_budget: bool,
) -> Budget | None:
    """The smallest of the requested budgets; the base's size if there is none."""
    asked: list[Budget] = [] if request.budget is None else [parse_size_budget(request.budget, table.overhead)]
    if memory is not None:
        asked.append(TotalBytes(memory.weights + on_host))
    if not asked and base is not None and request.max_loss is None and needs_budget:
        asked.append(TotalBytes(base_size(base, losses)))
    if not asked and (request.max_loss is not None or not needs_budget):
        return None
    if not asked:
        what = "how large may it be? Give a --budget, a --base whose size is kept, or a device's memory (--vram)"
        raise InvalidInput(Fault("", what))
    return min(asked, key=lambda one: capacity_in(losses, one))


def _rules(
    spec: BaseSpec, table: ModelTable, losses: LossTable, settled: Sequence[Constraint]
) -> tuple[Constraint, ...]:
    """The architecture's rules for the tensors that still have a choice."""
    rules = read_rules(spec.architecture)
    possible = {
        name: [quant_type(one) for one in types]
        for name, types in candidates_of(losses, settled).items()
        if len(types) > 1
    }
    return tuple(architecture_constraints(rules, table, possible))


def _ratios(spec: BaseSpec) -> RatioReport | None:
    if spec.domain and spec.general:
        return importance_ratio(read_parts(spec.domain), read_parts(spec.general), spec.thresholds)
    if spec.domain or spec.general or spec.moves == "ratio":
        what = "a ratio needs importance of a domain's text (--domain) and of general text (--general)"
        raise InvalidInput(Fault("ratio", what))
    return None


def _exo_pins(patterns: Sequence[str], losses: LossTable, table: ModelTable) -> tuple[Pin, ...]:
    """Pins at F16, or at the stored type if a tensor can't be F16."""
    types: dict[str, list[str]] = {}
    source = {tensor.name: tensor.source_type.name for tensor in table.tensors}
    for name in matching(patterns, losses.tensors, EXO) if patterns else ():
        column = losses.column_of.get("F16")
        wanted = "F16" if column is not None and losses.offered[losses.row_of[name], column] else source[name]
        types.setdefault(wanted, []).append(name)
    return tuple(Pin(tuple(names), wanted, reason=f"{EXO}: held at {wanted}") for wanted, names in types.items())


def _move_constraints(
    spec: BaseSpec,
    base: ResolvedBase | None,
    losses: LossTable,
    ratios: RatioReport | None,
    user: Sequence[Constraint],
) -> tuple[Constraint, ...]:
    if spec.moves == "any" or ratios is None:
        return ()
    if base is None:
        raise InvalidInput(Fault("--moves ratio", "moves need a --base to move from"))
    moves = move_constraints(base.allocation, losses, demote=ratios.demote, promote=ratios.promote)
    return without(moves, (name for one in user if isinstance(one, Pin | Floor | Ceiling) for name in one.tensors))


def without(constraints: Iterable[MoveConstraint], tensors: Iterable[str]) -> tuple[MoveConstraint, ...]:
    """The constraints without these tensors; constraints on no other tensor are dropped."""
    named = set(tensors)
    kept = (replace(one, tensors=tuple(name for name in one.tensors if name not in named)) for one in constraints)
    return tuple(one for one in kept if one.tensors)


def base_size(base: ResolvedBase, losses: LossTable) -> int:
    """The size of the base's tensor data, bytes."""
    return sum(stored_size(name, base.allocation.types[name], losses) for name in losses.tensors)
