"""Recipes: files that define, step by step, which tensors of a model get which quant types, and why.

A recipe starts from a base (a llama.cpp mixture, optionally with overrides, a file, or another recipe) and applies
moves. A recipe that extends another is the next step of a ladder. The result is a type for every tensor.
Recipes are TOML or JSON files; the included recipes and every mixture can be used by name.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raq_client.files.user_files import parse_user_text, read_user_file
from raq_client.models.file_types import FILE_TYPES, file_type
from raq_solver.errors import Fault, InvalidInput, near_misses, raise_faults
from raq_solver.quant_types import quant_type

FORMAT: Final = "raq-recipe-1"
_WHAT: Final = "a recipe"
_DEEPEST: Final = 64
"""Limit on recipes that extend one another; more can only be a cycle."""


class Base(BaseModel):
    """The start of a recipe: exactly one of `mixture`, `file` and `recipe`.

    `mixture` is a file type of llama.cpp, to which `overrides` (lines `PATTERN=TYPE` as for llama-quantize) can be
    applied; `counting` determines whether they shift the types of later tensors, as in llama-quantize. `file` is a GGUF
    file, an allocation or an override file, `recipe` another recipe by path or name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mixture: str | None = None
    file: Path | None = None
    recipe: str | None = None
    importance: bool = True
    overrides: tuple[str, ...] = ()
    counting: Literal["llama.cpp", "resolved"] = "llama.cpp"
    pure: bool = False

    @model_validator(mode="after")
    def _one_base(self) -> Self:
        if sum(given is not None for given in (self.mixture, self.file, self.recipe)) != 1:
            raise ValueError("a base needs exactly one of mixture, file and recipe")
        if self.mixture is None and (self.overrides or self.pure):
            raise ValueError("overrides and pure can be applied to a mixture only")
        if self.mixture is not None:
            _checked(file_type, self.mixture)
        return self


class Move(BaseModel):
    """A type for all matching tensors; with `before`, it is a fault if they have another type until then."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensors: tuple[str, ...] = Field(min_length=1)
    type: str
    before: tuple[str, ...] = ()
    reason: str = ""

    @model_validator(mode="after")
    def _known_types(self) -> Self:
        for name in (self.type, *self.before):
            _checked(quant_type, name)
        return self


class Expected(BaseModel):
    """The result expected by the recipe's author, checked by `recipe verify`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensor_bytes: Annotated[int, Field(gt=0)] | None = None
    bits_per_weight: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")] | None = None


class ModelCheck(BaseModel):
    """The model that a recipe is for; only the given properties are checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str | None = None
    tensors: int | None = None
    weights: int | None = None


class Recipe(BaseModel):
    """A recipe as written in its file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["raq-recipe-1"]
    name: str
    description: str = ""
    source: str = ""
    model: ModelCheck = ModelCheck()
    base: Base
    moves: tuple[Move, ...] = ()
    expected: Expected = Expected()

    def as_json(self) -> str:
        """The recipe as the text of a JSON file, without unset keys."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


def presets() -> Mapping[str, str]:
    """Names and descriptions of the included recipes. Every mixture's name is also a recipe."""
    shipped = [read_recipe(name) for name in _shipped()]
    return {recipe.name: recipe.description for recipe in shipped}


def read_recipe(name: str | Path) -> Recipe:
    """The recipe of that name: an included one, a llama.cpp mixture, or a file.

    Raises InvalidInput with all faults of the file, or with the nearest names.
    """
    text = str(name)
    if text in _shipped():
        resource = files("raq_client").joinpath("presets", f"recipe-{text}.toml")
        return parse_user_text(resource.read_text(encoding="utf-8"), Recipe, f"{text}.toml", _WHAT)
    if text.upper() in FILE_TYPES:
        mixture = FILE_TYPES[text.upper()].name
        return Recipe(format=FORMAT, name=mixture, description="a mixture of llama.cpp's", base=Base(mixture=mixture))
    path = Path(name)
    if not path.exists() and not path.suffix:
        known = [*_shipped(), *FILE_TYPES]
        what = f"no recipe of that name and no such file{near_misses(text, known)}"
        raise InvalidInput(Fault(text, what))
    recipe = read_user_file(path, Recipe, _WHAT)
    return recipe.model_copy(update={"base": _beside(recipe.base, path.parent)})


def ladder(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipe and those it extends, beginning with the innermost. Raises InvalidInput if they form a cycle."""
    steps = [recipe]
    while steps[-1].base.recipe is not None:
        steps.append(read_recipe(steps[-1].base.recipe))
        if len(steps) > _DEEPEST:
            raise_faults([Fault(recipe.name, f"extends {steps[1].name}, which leads back to it")])
    return tuple(reversed(steps))


def _shipped() -> tuple[str, ...]:
    names = [entry.name for entry in files("raq_client").joinpath("presets").iterdir()]
    return tuple(sorted(n.removeprefix("recipe-").removesuffix(".toml") for n in names if n.startswith("recipe-")))


def _beside(base: Base, folder: Path) -> Base:
    """The base with paths made relative to the recipe's folder."""
    if base.file is not None:
        return base.model_copy(update={"file": folder / base.file})
    if base.recipe is not None and Path(base.recipe).suffix:
        return base.model_copy(update={"recipe": str(folder / base.recipe)})
    return base


def _checked(look_up: Callable[[str], object], name: str) -> None:
    """Call `look_up(name)`, turning InvalidInput into ValueError, so that pydantic reports a fault of the file."""
    try:
        look_up(name)
    except InvalidInput as error:
        raise ValueError(str(error)) from None
