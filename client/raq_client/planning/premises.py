"""From what is known and wanted of a model to a capacity and constraints.

Who knows what gives way to whom: what the user names stands; what the importance ratio proposes leaves alone what the
user named; what is known of architectures leaves alone what both have settled.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from raq_client.importance.domains import read_parts
from raq_client.importance.ratio import ARTICLES, RatioReport, Thresholds, importance_ratio
from raq_client.models.table import ModelTable
from raq_client.planning.promise import MemoryTarget, candidates_of, host_pins, memory_budget, sides
from raq_client.planning.vram import MemoryBudget
from raq_client.recipes.architecture import architecture_constraints, read_rules
from raq_client.recipes.bases import Counting, base_recipe, reference
from raq_client.recipes.diff import Agreement, convergence, move_constraints, stored_size
from raq_client.recipes.patterns import matching
from raq_client.recipes.recipe_file import Base, Recipe
from raq_client.recipes.steps import carry_out
from raq_solver.allocation import Allocation
from raq_solver.budget import Budget, TotalBytes, capacity_bytes, parse_budget
from raq_solver.constraints import Ceiling, Constraint, Floor, Pin
from raq_solver.errors import Fault, InvalidInput
from raq_solver.losses import LossTable
from raq_solver.profile import Profile
from raq_solver.quant_types import quant_type

EXO: Final = "--exo"
"""How the reasons of pins at F16 begin, which the report tells apart from other wishes."""


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """What is asked for beside a budget and the user's demands.

    `base` as `base_recipe` reads it. With `moves` "ratio" only candidates of the importance ratio between the files
    of `domain` and of `general` may leave the base. `exo` are patterns of tensors held at F16. `architecture` names a
    set of rules.
    """

    base: str | None = None
    overrides: Path | None = None
    counting: Counting = "llama.cpp"
    moves: Literal["any", "ratio"] = "any"
    domain: tuple[Path, ...] = ()
    general: tuple[Path, ...] = ()
    thresholds: Thresholds = ARTICLES
    exo: tuple[str, ...] = ()
    architecture: str = "none"
    promise: MemoryTarget | None = None


@dataclass(frozen=True, eq=False)
class Premises:
    """What a problem is made from, beside the losses."""

    budget: Budget
    capacity: int
    constraints: tuple[Constraint, ...]
    base: Allocation | None = None
    base_name: str = ""
    base_reference: Base | None = None
    """What a recipe says to start from this base."""
    memory: MemoryBudget | None = None
    ratios: RatioReport | None = None
    on_host: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each tensor that stays on the host; 0 until solved where it is not pinned."""

    def hosting(self, sizes: Mapping[str, int]) -> "Premises":
        """The same with the sizes that tensors on the host have got."""
        return replace(self, on_host={name: sizes[name] for name in self.on_host})


def base_of(around: BaseSpec, table: ModelTable, *, has_importance: bool) -> tuple[Recipe, Allocation] | None:
    """The base's recipe and the types it gives this model, or None when there is no base."""
    if around.base is None:
        return None
    recipe = base_recipe(
        around.base, overrides=around.overrides, counting=around.counting, has_importance=has_importance
    )
    step = carry_out(recipe, table)[-1]
    return recipe, Allocation({tensor.name: chosen.name for tensor, chosen in step.types.items()})


def premises_of(
    budget: str | None,
    demands: Sequence[Constraint],
    around: BaseSpec,
    losses: LossTable,
    table: ModelTable,
    *,
    has_importance: bool,
) -> Premises:
    """The premises of a problem over these losses.

    The capacity is the smaller of the budget and the promise of memory; with neither it is the size of the base.
    Raises InvalidInput if there is none of the three, and with the faults of what is asked for.
    """
    recipe, base = base_of(around, table, has_importance=has_importance) or (None, None)
    ratios = _ratios(around)
    user = (*demands, *_exo_pins(around.exo, losses, table))
    data = _move_constraints(around, base, losses, ratios, user)
    hosted = host_pins(around.promise, losses, candidates_of(losses, (*user, *data)), base)
    settled = (*user, *data, *hosted)
    rules = read_rules(around.architecture)
    possible = {
        name: [quant_type(one) for one in types]
        for name, types in candidates_of(losses, settled).items()
        if len(types) > 1
    }
    memory = None if around.promise is None else memory_budget(around.promise, table)
    on_host = {pin.tensors[0]: stored_size(pin.tensors[0], pin.quant_type, losses) for pin in hosted}
    both = sides(around.promise, losses, memory)
    room = sum(on_host.values()) if not both else both[-1].capacity_bytes
    chosen = _budget(budget, memory, room, base, losses)
    return Premises(
        budget=chosen,
        capacity=capacity_bytes(chosen, losses.total_weights),
        constraints=(*settled, *both, *architecture_constraints(rules, table, possible)),
        base=base,
        base_name="" if recipe is None else recipe.name,
        base_reference=None if recipe is None or around.base is None else reference(around.base, recipe),
        memory=memory,
        ratios=ratios,
        on_host=on_host or dict.fromkeys(both[-1].tensors if both else (), 0),
    )


def _budget(
    budget: str | None, memory: MemoryBudget | None, on_host: int, base: Allocation | None, losses: LossTable
) -> Budget:
    """The narrowest of what was asked for; the base's size where nothing was."""
    asked: list[Budget] = [] if budget is None else [parse_budget(budget)]
    if memory is not None:
        asked.append(TotalBytes(memory.weights + on_host))
    if not asked and base is not None:
        asked.append(TotalBytes(sum(stored_size(name, base.types[name], losses) for name in losses.tensors)))
    if not asked:
        what = "how large may it be? Give a --budget, a --base to stay as large as, or a promise of memory (--vram)"
        raise InvalidInput(Fault("", what))
    return min(asked, key=lambda one: capacity_bytes(one, losses.total_weights))


def _ratios(around: BaseSpec) -> RatioReport | None:
    if around.domain and around.general:
        return importance_ratio(read_parts(around.domain), read_parts(around.general), around.thresholds)
    if around.domain or around.general or around.moves == "ratio":
        what = "a ratio needs importance of a domain's text (--domain) and of general text (--general)"
        raise InvalidInput(Fault("ratio", what))
    return None


def _exo_pins(patterns: Sequence[str], losses: LossTable, table: ModelTable) -> tuple[Pin, ...]:
    """Pins at F16, or where a tensor can't be that, at the type it comes in."""
    types: dict[str, list[str]] = {}
    source = {tensor.name: tensor.source_type.name for tensor in table.tensors}
    for name in matching(patterns, losses.tensors, EXO) if patterns else ():
        column = losses.column_of.get("F16")
        wanted = "F16" if column is not None and losses.offered[losses.row_of[name], column] else source[name]
        types.setdefault(wanted, []).append(name)
    return tuple(Pin(tuple(names), wanted, reason=f"{EXO}: held at {wanted}") for wanted, names in types.items())


def _move_constraints(
    around: BaseSpec,
    base: Allocation | None,
    losses: LossTable,
    ratios: RatioReport | None,
    user: Sequence[Constraint],
) -> tuple[Constraint, ...]:
    if around.moves == "any" or ratios is None:
        return ()
    if base is None:
        raise InvalidInput(Fault("--moves ratio", "moves need a --base to move from"))
    moves = move_constraints(base, losses, demote=ratios.demote, promote=ratios.promote)
    return without(moves, (name for one in user if isinstance(one, Pin | Floor | Ceiling) for name in one.tensors))


def without(constraints: Iterable[Constraint], tensors: Iterable[str]) -> tuple[Constraint, ...]:
    """The constraints with these tensors taken out; those that hold no other tensor are left out."""
    named = set(tensors)
    kept = (replace(one, tensors=tuple(name for name in one.tensors if name not in named)) for one in constraints)
    return tuple(one for one in kept if one.tensors)


def agreements_of(premises: Premises, profile: Profile) -> tuple[Agreement, ...]:
    """Where importance ratio, measured sensitivity and base agree; empty unless there are a base and a ratio."""
    if premises.base is None or premises.ratios is None:
        return ()
    known = np.isfinite(profile.sensitivities)
    names = [tensor.name for tensor in profile.tensors]
    return convergence(
        premises.base,
        {tensor.name: tensor.weights for tensor in profile.tensors},
        demote=premises.ratios.demote,
        promote=premises.ratios.promote,
        rated=[row.name for row in premises.ratios.rows],
        sensitivities={names[row]: float(profile.sensitivities[row]) for row in np.flatnonzero(known)},
    )
