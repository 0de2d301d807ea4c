"""Architecture rules: named sets of rules that become constraints with the source "architecture".

A rule set is a TOML file: the included `default`, or a user's file of the same form. Rules are opinions, so each states
its reason and source; the set `none` is empty.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raq_client.files.user_files import parse_user_text, read_user_file
from raq_client.models.table import ModelTable
from raq_client.recipes.patterns import matches
from raq_solver.constraints import Ceiling, Constraint, Exclude, Floor, Pin, Source, Tie
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import QuantType, quant_type
from raq_solver.tensor_names import block_of

_WHAT: Final = "a set of architecture rules"

Bits = Annotated[float, Field(gt=0, le=64)]
Candidates = Mapping[str, Sequence[QuantType]]
"""The quant types that each tensor may get, by tensor name."""


class Rule(BaseModel):
    """One constraint on the matching tensors in the given blocks (negative: from the end; none: all blocks).

    With `beside` it applies only to models with a tensor that matches that pattern.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    tensors: tuple[str, ...] = Field(min_length=1)
    blocks: tuple[int, ...] = ()
    beside: str = ""
    floor: Bits | None = None
    ceiling: Bits | None = None
    pin: str | None = None
    exclude: tuple[str, ...] = ()
    tie: Literal["block", "all"] | None = None
    reason: str
    source: str = ""

    @model_validator(mode="after")
    def _one_constraint(self) -> Self:
        constraints = (self.floor, self.ceiling, self.pin, self.exclude or None, self.tie)
        if sum(constraint is not None for constraint in constraints) != 1:
            raise ValueError("a rule needs exactly one of floor, ceiling, pin, exclude and tie")
        for name in (*self.exclude, *([self.pin] if self.pin else [])):
            try:
                quant_type(name)
            except InvalidInput as error:
                raise ValueError(str(error)) from None
        return self


class RuleSet(BaseModel):
    """A named, versioned set of rules."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["raq-architecture-1"]
    name: str
    version: int = Field(ge=1)
    description: str = ""
    rules: tuple[Rule, ...] = ()


NO_RULES: Final = RuleSet(format="raq-architecture-1", name="none", version=1)


def read_rules(name: str) -> RuleSet:
    """The rule set `default` or `none`, or the one in a file. Raises InvalidInput with all faults of the file."""
    if name == "none":
        return NO_RULES
    if name == "default":
        text = files("raq_client").joinpath("presets", "architecture-default.toml").read_text(encoding="utf-8")
        return parse_user_text(text, RuleSet, "architecture-default.toml", _WHAT)
    return read_user_file(Path(name), RuleSet, _WHAT)


def architecture_constraints(rules: RuleSet, table: ModelTable, candidates: Candidates) -> tuple[Constraint, ...]:
    """The constraints that the rules give for a model whose tensors have these candidates.

    Tensors with one candidate get no constraint. A floor above all candidates of a tensor becomes the largest of them,
    a ceiling below all becomes the smallest, and a pin or exclusion that leaves no candidate is dropped, so that rules
    alone never make a problem infeasible.
    """
    free = [tensor.name for tensor in table.tensors if len(candidates.get(tensor.name, ())) > 1]
    found: list[Constraint] = []
    for rule in rules.rules:
        if rule.beside and not any(matches(rule.beside, tensor.name) for tensor in table.tensors):
            continue
        count = max(1, table.block_count)
        blocks = {block % count for block in rule.blocks}
        names = [
            name
            for name in free
            if any(matches(pattern, name) for pattern in rule.tensors) and (not blocks or block_of(name) in blocks)
        ]
        found += _constraints(rule, names, candidates, f"{rules.name} {rules.version}: {rule.name}")
    return tuple(found)


def _constraints(rule: Rule, names: Sequence[str], candidates: Candidates, title: str) -> list[Constraint]:
    reason = f"{title} ({rule.reason})"
    if rule.pin is not None:
        pinned = quant_type(rule.pin)
        kept = tuple(name for name in names if pinned in candidates[name])
        return [Pin(kept, pinned.name, Source.ARCHITECTURE, reason)] if kept else []
    if rule.exclude:
        excluded = {quant_type(name) for name in rule.exclude}
        return _exclusions(names, excluded, candidates, reason)
    if rule.tie is not None:
        return _ties(rule.tie, names, candidates, reason)
    return _limits(rule, names, candidates, reason)


def _limits(rule: Rule, names: Sequence[str], candidates: Candidates, reason: str) -> list[Constraint]:
    by_bits: dict[Fraction, list[str]] = {}
    for name in names:
        possible = [candidate.bits_per_weight for candidate in candidates[name]]
        if rule.floor is not None:
            bits = min(Fraction(rule.floor), max(possible))
        else:
            bits = max(Fraction(rule.ceiling or 0), min(possible))
        by_bits.setdefault(bits, []).append(name)
    make = Floor if rule.floor is not None else Ceiling
    return [make(tuple(members), bits, Source.ARCHITECTURE, reason) for bits, members in by_bits.items()]


def _exclusions(
    names: Sequence[str], excluded: set[QuantType], candidates: Candidates, reason: str
) -> list[Constraint]:
    by_types: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        hit = tuple(candidate.name for candidate in candidates[name] if candidate in excluded)
        if hit and len(hit) < len(candidates[name]):
            by_types.setdefault(hit, []).append(name)
    return [Exclude(tuple(members), types, Source.ARCHITECTURE, reason) for types, members in by_types.items()]


def _ties(kind: str, names: Sequence[str], candidates: Candidates, reason: str) -> list[Constraint]:
    def key(name: str) -> tuple[int, tuple[str, ...]]:
        return (block_of(name) if kind == "block" else -1, tuple(found.name for found in candidates[name]))

    groups = [tuple(members) for _, members in groupby(sorted(names, key=key), key)]
    return [Tie(group, Source.ARCHITECTURE, reason) for group in groups if len(group) > 1]
