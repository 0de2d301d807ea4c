"""Scores: how strongly a rule asks for a unit to be raised.

`price` ranks by what a raise buys: predicted loss per byte. The others rank by activations alone, without regard to
what is lost by rounding or what a byte costs; they are there because other tools rank by them, and to be compared.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique

import numpy as np

from raq_client.importance.combining import merge
from raq_client.importance.imatrix import Importance
from raq_client.importance.path_cells import Cells, squares_by_expert
from raq_client.importance.paths import PathMap, cell_energies, contrasts, path_map
from raq_client.suggestions.units import Unit, UnitKind
from raq_solver.errors import Fault, InvalidInput
from raq_solver.profile import Profile
from raq_solver.tensor_names import block_of, role_of


@unique
class Rule(Enum):
    """A rule by which units are ranked."""

    PRICE = "price"
    """Predicted loss that a byte saves."""
    ENERGY = "energy"
    """Sum of mean squared inputs (forgequant's energy)."""
    CONTRAST = "contrast"
    """How much more a domain uses parts of a block than general text does (forgequant's divergence)."""
    TRACE = "trace"
    """Sum of mean squared inputs over all columns, a proxy for the trace of the Hessian (forgequant's sensitivity)."""
    SENSITIVITY = "sensitivity"
    """Measured sensitivity: nats per token for a unit of relative error."""


@dataclass(frozen=True, slots=True)
class Score:
    """The score of a unit, higher first; its 95 % interval, if known; the cells of the unit that lead in it."""

    value: float
    interval: tuple[float, float] | None = None
    leading: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Evidence:
    """The data for ranking: a profile, importance files of a domain and of general text, as far as they are given.

    `experts` is their number, for importance files of the older format, which do not state it.
    """

    profile: Profile | None = None
    domain: tuple[Importance, ...] = ()
    general: tuple[Importance, ...] = ()
    experts: int = 0


Scores = Mapping[str, Score]
"""Scores by the name of the unit; units without data have none."""


def scores(rule: Rule, units: Sequence[Unit], kind: UnitKind, evidence: Evidence) -> Scores:
    """The scores of units by a rule other than `price`, which is known only from the raises.

    Raises InvalidInput where the data for the rule are missing.
    """
    return _RULES[rule](units, kind, evidence)


def cells_of(kind: UnitKind) -> Cells:
    """The cells in which activations are counted for units of a kind."""
    return Cells.EXPERTS if kind is UnitKind.EXPERTS else Cells.ROLES


def _energy(units: Sequence[Unit], kind: UnitKind, evidence: Evidence) -> Scores:
    importance = _domain(evidence, Rule.ENERGY)
    found = path_map(importance, cells_of(kind), experts=evidence.experts)
    if kind is UnitKind.EXPERTS:
        by_block = dict(zip(found.blocks.tolist(), found.energies.tolist(), strict=True))
        return {
            unit.name: Score(by_block[unit.block], leading=found.leading(unit.block))
            for unit in units
            if unit.block in by_block
        }
    cell_of, energies = _columns(found), cell_energies(found)
    scored = {}
    for unit in units:
        # Tensors with one input share a cell, which counts once.
        cells = {(block_of(name), cell_of.get(role_of(name), "")) for name in unit.tensors}
        known = [energies[cell] for cell in cells if cell in energies]
        if known:
            scored[unit.name] = Score(math.fsum(known))
    return scored


def _trace(units: Sequence[Unit], kind: UnitKind, evidence: Evidence) -> Scores:
    importance = _domain(evidence, Rule.TRACE)
    cells = cells_of(kind)
    leading = path_map(importance, cells, experts=evidence.experts).leading if cells is Cells.EXPERTS else None
    scored = {}
    for unit in units:
        known = [_squares(importance, name, evidence.experts) for name in unit.tensors if name in importance.entries]
        if known:
            shown = () if leading is None else leading(unit.block)
            scored[unit.name] = Score(math.fsum(known), leading=shown)
    return scored


def _squares(importance: Importance, name: str, experts: int) -> float:
    """Sum of the mean squares of all columns of all experts that were reached."""
    means, counts = squares_by_expert(name, importance.entries[name], experts)
    return float(means[counts > 0].sum())


def _contrast(units: Sequence[Unit], kind: UnitKind, evidence: Evidence) -> Scores:
    if not evidence.domain or not evidence.general:
        raise InvalidInput(Fault("contrast", "compares two texts; give their importance with --domain and --general"))
    if kind not in (UnitKind.BLOCK, UnitKind.EXPERTS):
        raise InvalidInput(Fault("contrast", f"is known of whole blocks, not of one {kind.value}; use --unit block"))
    found = contrasts(evidence.domain, evidence.general, cells_of(kind), experts=evidence.experts)
    by_block = {one.block: Score(one.divergence, one.interval, one.leading) for one in found}
    return {unit.name: by_block[unit.block] for unit in units if unit.block in by_block}


def _sensitivity(units: Sequence[Unit], kind: UnitKind, evidence: Evidence) -> Scores:
    del kind
    profile = evidence.profile
    if profile is None or not np.isfinite(profile.sensitivities).any():
        what = "is not measured in this profile; measure it with raq-client sensitivity, and give its --profile"
        raise InvalidInput(Fault("sensitivity", what))
    row_of = {tensor.name: row for row, tensor in enumerate(profile.tensors)}
    scored = {}
    for unit in units:
        rows = [row_of[name] for name in unit.tensors if np.isfinite(profile.sensitivities[row_of[name]])]
        if rows:
            value = float(profile.sensitivities[rows].sum())
            # Errors of different tensors come from separate measurements and are independent.
            half = 1.96 * float(np.sqrt(np.square(profile.sensitivity_errors[rows]).sum()))
            scored[unit.name] = Score(value, (value - half, value + half) if math.isfinite(half) else None)
    return scored


def _domain(evidence: Evidence, rule: Rule) -> Importance:
    if not evidence.domain:
        raise InvalidInput(Fault(rule.value, "ranks by importance; give an importance file with --imatrix or --domain"))
    return evidence.domain[0] if len(evidence.domain) == 1 else merge(evidence.domain)


def _columns(found: PathMap) -> dict[str, str]:
    """The cell of each role."""
    return {role: column for column in found.columns for role in column.split(", ")}


_RULES: dict[Rule, Callable[[Sequence[Unit], UnitKind, Evidence], Scores]] = {
    Rule.ENERGY: _energy,
    Rule.CONTRAST: _contrast,
    Rule.TRACE: _trace,
    Rule.SENSITIVITY: _sensitivity,
}
