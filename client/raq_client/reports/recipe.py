"""Recipes and their steps, as tables and as plain data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType

from raq_client.models.table import ModelTable
from raq_client.recipes.recipe_file import Base, Recipe
from raq_client.recipes.steps import RecipeStep
from raq_client.reports.plan import types_table
from raq_client.reports.tables import Column, Field, Table, table_of
from raq_client.reports.words import dim, worded
from raq_solver.allocation import Ledger, LedgerEntry

GIB = 2**30


def step_dict(step: RecipeStep, table: ModelTable) -> dict[str, Any]:
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


def types_of_step(step: RecipeStep, table: ModelTable) -> RenderableType:
    """The size of a step's model, and which roles have which types."""
    entries = tuple(LedgerEntry(t.name, q.name, t.weights, q.size(t.weights), 0.0) for t, q in step.types.items())
    size = f"{step.size:,} bytes, {step.size / GIB:.3f} GiB, {bits_text(step)} bpw"
    title = worded(dim(f"{step.name} of {table.name}"), f"  {len(table.tensors)} tensors, {table.weights:,} weights")
    return Group(title, worded(dim("size"), f"  {size}"), "", types_table(Ledger(entries, step.size)))


def bits_text(step: RecipeStep) -> str:
    """Bits per weight as llama.cpp and recipes round them: to the nearest."""
    return f"{float(step.bits_per_weight):.4f}"


def steps_table(steps: Sequence[RecipeStep]) -> Table:
    """One line for each step of a ladder."""
    fields = (
        Field("step", read=lambda step: step.name),
        Field("moves", figures=True, spare=1, read=lambda step: f"{len(step.moves):,}" if step.moves else ""),
        Field("freed", figures=True, spare=3, read=lambda step: f"{step.freed:,}" if step.moves else ""),
        Field("spent", figures=True, spare=2, read=lambda step: f"{step.spent:,}" if step.moves else ""),
        Field("bytes", figures=True, read=lambda step: f"{step.size:,}"),
        Field("GiB", figures=True, spare=4, read=lambda step: f"{step.size / GIB:.3f}"),
        Field("bpw", figures=True, read=bits_text),
    )
    return table_of(steps, fields)


def recipe_table(recipe: Recipe) -> RenderableType:
    """A recipe as it was written: description, base, moves with their reasons."""
    columns = (Column("moves"), Column("to"), Column("from"), Column("because", spare=1))
    rows = [(" ".join(move.tensors), move.type, " or ".join(move.before), dim(move.reason)) for move in recipe.moves]
    lines = [
        worded(f"{recipe.name}  ", dim(recipe.description)),
        worded(dim("starts from"), f" {_base_text(recipe.base)}"),
    ]
    return Group(*lines, *([Table(columns, rows)] if rows else []), "")


def _base_text(base: Base) -> str:
    start = base.recipe or (str(base.file) if base.file else f"the mixture {base.mixture}")
    more = f", {len(base.overrides)} overrides laid over it ({base.counting} counting)" if base.overrides else ""
    return start + more + (", pure" if base.pure else "")
