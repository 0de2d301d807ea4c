"""Units: the parts of a model that are raised together."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, unique

from raq_solver.tensor_names import block_of, is_expert, role_of


@unique
class UnitKind(Enum):
    """What is raised as a whole."""

    BLOCK = "block"
    """All tensors of a block, and each tensor outside of blocks by itself."""
    TENSOR = "tensor"
    EXPERTS = "experts"
    """The expert tensors of a block: a GGUF file stores all experts of a matrix in one tensor of one type."""
    ROLE = "role"
    """The tensors of one role in all blocks."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a model: its name, its block (-1: none, or several), and the names of its tensors."""

    name: str
    block: int
    tensors: tuple[str, ...]


def units_of(names: Iterable[str], kind: UnitKind) -> tuple[Unit, ...]:
    """The units of these tensors, in the order of first appearance.

    >>> [unit.name for unit in units_of(["blk.0.attn_q.weight", "output.weight"], UnitKind.BLOCK)]
    ['block 0', 'output']
    """
    members: dict[tuple[str, int], list[str]] = {}
    for name in names:
        key = _key(name, kind)
        if key is not None:
            members.setdefault(key, []).append(name)
    return tuple(Unit(title, block, tuple(tensors)) for (title, block), tensors in members.items())


def _key(name: str, kind: UnitKind) -> tuple[str, int] | None:
    block = block_of(name)
    if kind is UnitKind.TENSOR:
        return name, block
    if kind is UnitKind.EXPERTS:
        return (f"experts {block}", block) if is_expert(name) and block >= 0 else None
    if kind is UnitKind.ROLE or block < 0:
        return role_of(name), -1
    return f"block {block}", block
