"""Cells of blocks: the experts of a mixture of experts, or distinct inputs; importance files as arrays over them.

An expert that no token reached has no data: its count is 0, or its values are the ones by which the older format
stands in for what it can't express.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.statistics import tied_groups
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.tensor_names import block_of, is_expert, role_of

_ONES: Final = 1e-6
"""Distance from 1 up to which all values of an expert count as the ones that stand for "not reached"."""


@unique
class Cells(Enum):
    """What the cells of a block are."""

    EXPERTS = "experts"
    ROLES = "roles"


@dataclass(frozen=True, eq=False)
class Shape:
    """The kind of the cells, the numbers of the blocks, and the names of the cells."""

    cells: Cells
    blocks: Int64[np.ndarray, " blocks"]
    columns: tuple[str, ...]


Levels = Float64[np.ndarray, "files families blocks cells"]
"""Sums (of column means) and tokens by file, tensor of the block, block and cell."""


def has_experts(importance: Importance, experts: int = 0) -> bool:
    """Whether the file has figures for single experts; `experts` is their number, for files that do not state it."""
    return any(is_expert(name) and (experts or entry.counts.size > 1) for name, entry in importance.entries.items())


def usual_cells(importance: Importance, experts: int) -> Cells:
    """Experts where the file has figures for them, else roles."""
    return Cells.EXPERTS if has_experts(importance, experts) else Cells.ROLES


def laid_out(parts: Sequence[Importance], cells: Cells, experts: int) -> tuple[Shape, Levels, Levels]:
    """The entries of all files as arrays over one set of blocks and cells."""
    places, columns = _expert_places(parts, experts) if cells is Cells.EXPERTS else _role_places(parts)
    if not places:
        what = "has no figures for single experts" if cells is Cells.EXPERTS else "has no tensors in blocks"
        more = "; its format does not state their number: give --experts" if _unstated(parts) else ""
        raise InvalidInput(Fault(parts[0].source or "importance", what + more))
    blocks = np.array(sorted({block_of(name) for name in places}), dtype=np.int64)
    row_of = {block: row for row, block in enumerate(blocks.tolist())}
    families = 1 + max(family for family, _ in places.values())
    sums = np.zeros((len(parts), families, blocks.size, len(columns)))
    tokens = np.zeros_like(sums)
    faults = []
    for number, part in enumerate(parts):
        for name, (family, first) in places.items():
            if name not in part.entries:
                continue
            means, counts = squares_by_expert(name, part.entries[name], experts)
            levels = means.mean(axis=1) * counts
            if cells is Cells.ROLES:
                levels, counts = levels.sum(keepdims=True), counts.sum(keepdims=True)
            elif levels.size != len(columns):
                faults.append(Fault(name, f"{levels.size} experts in {part.source}, {len(columns)} elsewhere"))
                continue
            place = (number, family, row_of[block_of(name)], slice(first, first + levels.size))
            sums[place], tokens[place] = levels, counts
    raise_faults(faults)
    return Shape(cells, blocks, columns), sums, tokens


def _unstated(parts: Sequence[Importance]) -> bool:
    return any(is_expert(name) and entry.counts.size == 1 for name, entry in parts[0].entries.items())


def _expert_places(parts: Sequence[Importance], experts: int) -> tuple[dict[str, tuple[int, int]], tuple[str, ...]]:
    """Family and first cell of every expert tensor."""
    names = [
        name
        for part in parts
        for name, entry in part.entries.items()
        if is_expert(name) and block_of(name) >= 0 and (experts or entry.counts.size > 1)
    ]
    roles = sorted({role_of(name) for name in names})
    counts = [experts or part.entries[name].counts.size for part in parts for name in names if name in part.entries]
    return {name: (roles.index(role_of(name)), 0) for name in names}, tuple(map(str, range(max(counts, default=0))))


def _role_places(parts: Sequence[Importance]) -> tuple[dict[str, tuple[int, int]], tuple[str, ...]]:
    """Cell of one tensor of every distinct input in every block; roles that share an input share a cell."""
    ties = tied_groups(parts[0])
    named: dict[str, str] = {}
    for name in dict.fromkeys(name for part in parts for name in part.entries):
        if block_of(name) < 0:
            continue
        group = [other for other in ties.get(name, (name,)) if block_of(other) == block_of(name)]
        if name == min(group):
            named[name] = ", ".join(role_of(other) for other in group)
    columns = tuple(sorted(dict.fromkeys(named.values()), key=_role_order))
    return {name: (0, columns.index(roles)) for name, roles in named.items()}, columns


def _role_order(roles: str) -> tuple[int, str]:
    """The order within a block: attention, state-space parts, feed-forward network."""
    kinds = ("attn_(q|k|v)", "attn_output", "attn", "ssm", "ffn_gate_inp", "ffn_(gate|up)", "ffn_down")
    return next((number for number, kind in enumerate(kinds) if re.match(kind, roles)), len(kinds)), roles


def squares_by_expert(
    name: str, entry: Entry, experts: int = 0
) -> tuple[Float64[np.ndarray, "experts columns"], Float64[np.ndarray, " experts"]]:
    """Mean squares of each expert of a tensor (one, if it has none), and tokens; 0 tokens where nothing is known.

    `experts` is their number, for entries that do not state it. An expert whose values are all 1 was not reached: the
    older format, which can't say so, has ones there. Raises InvalidInput if the values are not so many experts'.
    """
    means, counts = entry.mean_squares.astype(np.float64), entry.counts.astype(np.float64)
    if is_expert(name) and experts and counts.size == 1:
        if means.size % experts:
            raise InvalidInput(Fault(name, f"has {means.size:,} values, which are not those of {experts} experts"))
        # Without counts all experts weigh alike.
        means, counts = means.reshape(experts, -1), np.full(experts, counts[0])
    if counts.size > 1:
        counts = np.where((np.abs(means - 1) <= _ONES).all(axis=1), 0.0, counts)
    return means, counts
