"""Apply a recipe to a model: a type for every tensor, and every move with its bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from raq_client.models.file_types import file_type
from raq_client.models.quantizable import is_quantizable
from raq_client.models.read_table import names_gguf, read_table
from raq_client.models.table import ModelTable
from raq_client.recipes.allocation_file import read_allocation
from raq_client.recipes.diff import freed_and_spent
from raq_client.recipes.mixtures import Counting, mixture, tensor_bytes
from raq_client.recipes.overrides import read_overrides
from raq_client.recipes.patterns import expand, matching
from raq_client.recipes.recipe_file import Move, Recipe, ladder
from raq_solver.budget import bits_per_weight
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import QuantType, quant_type
from raq_solver.tensors import Tensor

Types = Mapping[Tensor, QuantType]


@dataclass(frozen=True, slots=True)
class Moved:
    """One tensor that changes its type in a step. `size` is the change in bytes (negative: freed)."""

    tensor: str
    before: str
    after: str
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class RecipeStep:
    """One applied recipe of a ladder: its moves, and the types and total size after them."""

    name: str
    description: str
    moves: tuple[Moved, ...]
    types: Types
    size: int
    bits_per_weight: Fraction

    @property
    def freed(self) -> int:
        """Bytes freed by demotions."""
        return freed_and_spent(move.size for move in self.moves)[0]

    @property
    def spent(self) -> int:
        """Bytes spent on promotions."""
        return freed_and_spent(move.size for move in self.moves)[1]


def carry_out(recipe: Recipe, table: ModelTable) -> tuple[RecipeStep, ...]:
    """Apply a recipe and those it extends to a model; one step for each, beginning with the innermost.

    Raises InvalidInput with every fault: a model that the recipe is not for, patterns that match nothing, tensors that
    have another type than a move expects or can't have the type it gives.
    """
    steps: list[RecipeStep] = []
    for rung in ladder(recipe):
        _check_model(rung, table)
        types = dict(steps[-1].types) if steps else dict(_base_types(rung, table))
        moves = _apply(rung, table, types)
        size = tensor_bytes(types)
        steps.append(RecipeStep(rung.name, rung.description, moves, types, size, bits_per_weight(size, table.weights)))
    return tuple(steps)


def verify(recipe: Recipe, table: ModelTable) -> tuple[RecipeStep, tuple[Fault, ...]]:
    """The last step of the recipe, and its differences from the result expected by the author."""
    step = carry_out(recipe, table)[-1]
    faults = []
    expected = recipe.expected
    if expected.tensor_bytes not in (None, step.size):
        faults.append(Fault("tensor_bytes", f"expected {expected.tensor_bytes:,}, found {step.size:,}"))
    if expected.bits_per_weight is not None:
        places = len(expected.bits_per_weight.partition(".")[2])
        found = f"{float(round(step.bits_per_weight, places)):.{places}f}"
        if found != expected.bits_per_weight:
            faults.append(Fault("bits_per_weight", f"expected {expected.bits_per_weight}, found {found}"))
    return step, tuple(faults)


def types_in(path: Path, table: ModelTable) -> Types:
    """The types for the tensors of a model from a file: a GGUF file, an allocation, or override lines.

    Raises InvalidInput with every tensor that differs in name or shape, or can't have its type.
    """
    if names_gguf(path):
        return _types_of_file(path, table)
    given = read_allocation(path, table.tensors, table.architecture).types
    chosen = {
        t: t.source_type if given[t.name] == t.source_type.name else quant_type(given[t.name]) for t in table.tensors
    }
    raise_faults(
        [
            Fault(tensor.name, f"rows of {tensor.row_length} weights can't be stored as {found.name}")
            for tensor, found in chosen.items()
            if not found.fits(tensor.row_length)
        ]
    )
    return chosen


def _types_of_file(path: Path, table: ModelTable) -> Types:
    found = {tensor.name: tensor for tensor in read_table(path).tensors}
    faults = [
        Fault(tensor.name, f"not in {path} with the same shape")
        for tensor in table.tensors
        if tensor.name not in found or found[tensor.name].shape != tensor.shape
    ]
    raise_faults(faults)
    return {tensor: found[tensor.name].source_type for tensor in table.tensors}


def _check_model(recipe: Recipe, table: ModelTable) -> None:
    found = {"architecture": table.architecture, "tensors": len(table.tensors), "weights": table.weights}
    wanted = recipe.model.model_dump(exclude_none=True)
    raise_faults(
        [
            Fault(recipe.name, f"is for a model with {key} {value}; {table.name} has {found[key]}")
            for key, value in wanted.items()
            if value != found[key]
        ]
    )


def _base_types(recipe: Recipe, table: ModelTable) -> Types:
    base = recipe.base
    if base.mixture is None:
        assert base.file is not None, "a base is a mixture, a file or a recipe"
        return types_in(base.file, table)
    return mixture(
        table,
        file_type(base.mixture),
        has_importance=base.importance,
        overrides=read_overrides("\n".join(base.overrides)),
        counting=Counting.LLAMA_CPP if base.counting == "llama.cpp" else Counting.RESOLVED,
        pure=base.pure,
    )


def _apply(recipe: Recipe, table: ModelTable, types: dict[Tensor, QuantType]) -> tuple[Moved, ...]:
    """Apply the moves to `types`, in place."""
    by_name = {tensor.name: tensor for tensor in table.tensors}
    moved: list[Moved] = []
    faults: list[Fault] = []
    for number, move in enumerate(recipe.moves, start=1):
        where = f"{recipe.name}, move {number}"
        try:
            names = matching(move.tensors, list(by_name), where)
        except InvalidInput as error:
            faults += error.faults
            continue
        spelled_out = {glob for pattern in move.tensors for glob in expand(pattern)}
        for name in names:
            tensor = by_name[name]
            # A wildcard such as `ffn_*` means only the matrices; a norm that is written out is a fault.
            if name not in spelled_out and not is_quantizable(tensor, table.architecture):
                continue
            fault = _fault(move, tensor, types[tensor], table.architecture)
            if fault is not None:
                faults.append(Fault(where, fault))
                continue
            after = quant_type(move.type)
            change = after.size(tensor.weights) - types[tensor].size(tensor.weights)
            moved.append(Moved(name, types[tensor].name, after.name, change, move.reason))
            types[tensor] = after
    raise_faults(faults)
    return tuple(moved)


def _fault(move: Move, tensor: Tensor, present: QuantType, architecture: str) -> str | None:
    after = quant_type(move.type)
    if not is_quantizable(tensor, architecture):
        return f"{tensor.name} stays {tensor.source_type.name}: llama.cpp can't use such tensors otherwise"
    if not after.fits(tensor.row_length):
        return f"{tensor.name}: rows of {tensor.row_length} weights can't be stored as {after.name}"
    if move.before and present not in {quant_type(name) for name in move.before}:
        return f"{tensor.name} is {present.name} until then, expected {' or '.join(move.before)}"
    return None
