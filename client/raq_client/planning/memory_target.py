"""Memory targets: the bytes left for weights on a device on which the model runs with a given context."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from raq_client.models.table import ModelTable
from raq_client.planning.memory_budget import MemoryBudget, Serving, weights_budget
from raq_client.planning.memory_shape import memory_shape
from raq_client.recipes.diff import stored_size
from raq_client.recipes.patterns import matching
from raq_solver.allocation import Allocation
from raq_solver.constraints import Constraint, Pin, Region
from raq_solver.errors import Fault, InvalidInput
from raq_solver.losses import LossTable
from raq_solver.problem import Problem

_HOST_BITS: Final = Fraction(17, 2)
"""Limit on bits per weight for tensors on the host without a type in a base: that of Q8_0, nearly lossless."""


@dataclass(frozen=True, slots=True)
class MemoryTarget:
    """A device's memory in bytes, how the model runs there, and patterns of tensors kept on the host.

    With `host_memory` (bytes) device and host are optimized together, each within its own limit; without it the tensors
    on the host are pinned.
    """

    memory: int
    serving: Serving
    host: tuple[str, ...] = ()
    host_memory: int | None = None


def memory_budget(target: MemoryTarget, table: ModelTable) -> MemoryBudget:
    """The memory left for weights on the device. Raises InvalidInput if there is none."""
    return weights_budget(target.memory, memory_shape(table), target.serving)


def host_pins(
    target: MemoryTarget | None, losses: LossTable, candidates: Mapping[str, Sequence[str]], base: Allocation | None
) -> tuple[Pin, ...]:
    """A pin for each tensor on the host, which takes no device memory; none if `host_memory` is given.

    Pinned to the base's type if there is a base, else to the largest candidate with at most the bits of Q8_0.
    """
    patterns = () if target is None or target.host_memory is not None else target.host
    pins = []
    for name in matching(patterns, losses.tensors, "--host") if patterns else ():
        possible = sorted(candidates[name], key=lambda one: stored_size(name, one, losses))
        most = _HOST_BITS * int(losses.weights[losses.row_of[name]]) / 8
        small = [one for one in possible if stored_size(name, one, losses) <= most] or possible[:1]
        in_base = None if base is None else base.types[name]
        chosen = in_base if in_base in possible else small[-1]
        pins.append(Pin((name,), chosen, reason="--host: takes no device memory"))
    return tuple(pins)


def sides(target: MemoryTarget | None, losses: LossTable, device: MemoryBudget | None) -> tuple[Region, ...]:
    """Regions that limit the tensors on the host and on the device; empty if those on the host are pinned.

    Raises InvalidInput if every tensor is on the host.
    """
    if target is None or target.host_memory is None or device is None:
        return ()
    hosted = matching(target.host, losses.tensors, "--host")
    rest = tuple(name for name in losses.tensors if name not in set(hosted))
    if not rest:
        raise InvalidInput(Fault("--host", "every tensor is on the host; no weights are left for the device"))
    return (
        Region(rest, device.weights, reason="--vram: what is left of the device"),
        Region(hosted, target.host_memory, reason="--host-memory"),
    )


def candidates_of(losses: LossTable, constraints: Sequence[Constraint]) -> dict[str, list[str]]:
    """The types that each tensor may still get under the constraints (ties are ignored)."""
    allowed = Problem(losses, 0, tuple(constraints)).allowed()
    return {
        name: [losses.quant_types[column] for column in np.flatnonzero(row)]
        for name, row in zip(losses.tensors, allowed, strict=True)
    }
