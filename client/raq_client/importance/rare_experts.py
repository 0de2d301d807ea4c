"""Experts that few tokens reached: their importance rests on little, or on nothing."""

from dataclasses import dataclass

import numpy as np

from raq_client.importance.imatrix import Importance
from raq_client.importance.path_cells import squares_by_expert
from raq_solver.errors import Fault, InvalidInput
from raq_solver.tensor_names import block_of, is_expert, role_of


@dataclass(frozen=True, slots=True)
class RareExpert:
    """An expert of a block, the roles of its tensors, and the tokens that reached it; None where there is no data."""

    block: int
    expert: int
    tokens: int | None
    roles: tuple[str, ...]


def rare_experts(importance: Importance, least: int) -> list[RareExpert]:
    """Experts that fewer than `least` tokens reached, by block, the fewest tokens first.

    Raises InvalidInput if the file has no counts for single experts.
    """
    counted: dict[tuple[int, int, int], list[str]] = {}
    known = {name: entry for name, entry in importance.entries.items() if is_expert(name) and entry.counts.size > 1}
    if not known:
        what = "has no counts for single experts: it is of no mixture of experts, or of the older format"
        raise InvalidInput(Fault(importance.source or "importance", what))
    for name, entry in known.items():
        _, counts = squares_by_expert(name, entry)
        for expert in np.flatnonzero(counts < least).tolist():
            counted.setdefault((block_of(name), int(counts[expert]), expert), []).append(role_of(name))
    return [
        RareExpert(block, expert, tokens or None, tuple(sorted(roles)))
        for (block, tokens, expert), roles in sorted(counted.items())
    ]
