"""Recipes and their steps, for people and programs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from raq_client.models.table import ModelTable
from raq_client.recipes.recipe_file import Base, Recipe
from raq_client.recipes.steps import Step
from raq_client.reports.plan import types_table
from raq_client.reports.words import dim, worded
from raq_solver.allocation import Entry, Ledger

GIB = 2**30


def step_dict(step: Step, table: ModelTable) -> dict[str, Any]:
    """A step as plain data; its `allocation` can be given to quantize and to --base."""
    return {
        "name": step.name,
        "bytes": step.size,
        "bits_per_weight": float(step.bits_per_weight),
        "weights": table.weights,
        "freed_bytes": step.freed,
        "spent_bytes": step.spent,
        "moves": [asdict(move) for move in step.moves],
        "types": dict(Counter(chosen.name for chosen in step.types.values()).most_common()),
        "allocation": {tensor.name: chosen.name for tensor, chosen in step.types.items()},
    }


def types_of_step(step: Step, table: ModelTable) -> RenderableType:
    """Which roles got which types, and the size of the whole."""
    entries = tuple(Entry(t.name, q.name, t.weights, q.size(t.weights), 0.0) for t, q in step.types.items())
    size = f"{step.size:,} bytes, {step.size / GIB:.3f} GiB, {bits_text(step)} bpw"
    title = worded(dim(f"{step.name} of {table.name}"), f"  {len(table.tensors)} tensors, {table.weights:,} weights")
    return Group(title, worded(dim("size"), f"  {size}"), "", types_table(Ledger(entries, step.size)))


def bits_text(step: Step) -> str:
    """Bits per weight as llama.cpp and recipes round them: to the nearest."""
    return f"{float(step.bits_per_weight):.4f}"


def steps_table(steps: Sequence[Step]) -> Table:
    """One line for each step of a ladder."""
    table = _table(("step", False), ("moves", True), ("freed", True), ("spent", True), ("bytes", True), ("GiB", True))
    table.add_column("bpw", justify="right")
    for step in steps:
        moves, freed, spent = (f"{n:,}" if step.moves else "" for n in (len(step.moves), step.freed, step.spent))
        bits = bits_text(step)
        table.add_row(step.name, moves, freed, spent, f"{step.size:,}", f"{step.size / GIB:.3f}", bits)
    return table


def recipe_table(recipe: Recipe) -> RenderableType:
    """A recipe's own words."""
    table = _table(("moves", False), ("to", False), ("from", False), ("because", False))
    for move in recipe.moves:
        table.add_row(" ".join(move.tensors), move.type, " or ".join(move.before), dim(move.reason))
    lines = [
        worded(f"{recipe.name}  ", dim(recipe.description)),
        worded(dim("starts from"), f" {_base_text(recipe.base)}"),
    ]
    return Group(*lines, *([table] if recipe.moves else []), "")


def _base_text(base: Base) -> str:
    start = base.recipe or (str(base.file) if base.file else f"the mixture {base.mixture}")
    more = f", {len(base.overrides)} overrides laid over it ({base.counting} counting)" if base.overrides else ""
    return start + more + (", pure" if base.pure else "")


def _table(*columns: tuple[str, bool]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name, figures in columns:
        table.add_column(name, justify="right" if figures else "left")
    return table
