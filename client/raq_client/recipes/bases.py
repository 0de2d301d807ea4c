"""Bases by name: a llama.cpp mixture, optionally with overrides, a GGUF file, an allocation, or a recipe."""

from pathlib import Path
from typing import Literal

from raq_client.files.reading import parse_json, read_text
from raq_client.models.file_types import FILE_TYPES
from raq_client.recipes.recipe_file import FORMAT, Base, Recipe, read_recipe
from raq_solver.errors import Fault, InvalidInput

Counting = Literal["llama.cpp", "resolved"]


def base_recipe(
    name: str,
    *,
    overrides: Path | None = None,
    counting: Counting = "llama.cpp",
    pure: bool = False,
    has_importance: bool = True,
) -> Recipe:
    """The recipe for a base given by name.

    `name` is a file type (Q4_K_M), the name or file of a recipe, a GGUF file (its own types), the output of
    `solve --json`, or a file of override lines (other tensors keep their types). `overrides`, a file of such lines, is
    applied to a mixture as in llama-quantize, or with `counting` "resolved" without shifting other tensors' types.

    Raises InvalidInput for names that are none of these, and for overrides on anything but a mixture.
    """
    if name.upper() in FILE_TYPES:
        mixture = FILE_TYPES[name.upper()].name
        title = mixture if overrides is None else f"{mixture} with {overrides.name}"
        lines = () if overrides is None else tuple(read_text(overrides).split())
        base = Base(mixture=mixture, importance=has_importance, overrides=lines, counting=counting, pure=pure)
        return Recipe(format=FORMAT, name=title, base=base)
    if overrides is not None or pure:
        what = "overrides and pure can be applied to a mixture only, such as Q4_K_M"
        raise InvalidInput(Fault(name, what))
    path = Path(name)
    if path.is_file() and not _is_recipe(path):
        return Recipe(format=FORMAT, name=path.name, base=Base(file=path))
    return read_recipe(name)


def reference(name: str, recipe: Recipe) -> Base:
    """The base with which another recipe starts from this one, which was read from `name`. Paths become absolute."""
    if name.upper() in FILE_TYPES:
        return recipe.base
    path = Path(name)
    if path.is_file() and not _is_recipe(path):
        return Base(file=path.resolve())
    return Base(recipe=str(path.resolve()) if path.exists() else name)


def _is_recipe(path: Path) -> bool:
    if path.suffix != ".json":
        return path.suffix == ".toml"
    content = parse_json(read_text(path), path)
    return isinstance(content, dict) and "allocation" not in content
