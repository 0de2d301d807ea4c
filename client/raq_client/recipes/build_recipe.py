"""Build recipes: files that state what to build, from model and importance to outputs and checks.

A build recipe has every key of raq.toml, so that `run` in a folder and `recipe build` ask for the same, and further
keys for what the flags of `run` give and for rules that are resolved when it is built. It is TOML or JSON; paths in it
are relative to its folder. The recipes of `recipe_file` state types directly, and can be the `base` of a build recipe.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raq_client.files.names import is_model_name
from raq_client.files.reading import parse_json, parse_toml, read_text
from raq_client.files.settings import Settings, Texts
from raq_client.files.user_files import parse_user_text
from raq_client.recipes.recipe_file import Recipe, read_recipe
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import quant_type

FORMAT: Final = "raq-recipe-2"
_WHAT: Final = "a build recipe"

Counted = Annotated[int, Field(ge=1)]


class Collecting(BaseModel):
    """Importance to collect by running text through the model, as `imatrix collect` does.

    The rows of benchmarks become one text, as `bench corpus` makes it; it comes after the others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    texts: tuple[Path, ...] = Field(default=(), description="texts to run through the model (.txt or .jsonl)")
    benchmarks: Texts = Field(default=(), description="NAME or NAME:WEIGHT of locked benchmarks to make a text of")
    answers: bool = Field(default=True, description="whether that text has the answers of the benchmarks")
    cap: Counted | None = Field(default=None, description="most rows of each benchmark; else all")
    context: int = Field(default=512, ge=16, description="tokens of a window")
    windows: Counted | None = Field(default=None, description="most windows of each text; else all")
    fisher: int = Field(default=16, ge=0, description="windows to take Fisher information of; 0: none")
    output_head: bool = Field(default=False, description="collect for the output head too")
    parse_special: bool = Field(default=False, description="special tokens spelled out in texts are those tokens")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.texts and not self.benchmarks:
            raise ValueError("importance of what? Give importance.texts or importance.benchmarks")
        return self


class Benchmarks(BaseModel):
    """Locked benchmarks: where their rows are, and which the original and the written file answer after a build."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lock: Path = Field(description="the lock that pins their rows (raq-client bench lock)")
    folder: Path = Field(description="the folder of their rows")
    registry: Path | None = Field(default=None, description="benchmarks of your own (TOML)")
    names: Texts = Field(default=(), description="benchmarks, bundles or domains to compare original and file on")
    limit: Counted | None = Field(default=None, description="the first rows of each; else all")
    max_tokens: Counted = Field(default=512, description="most tokens of an answer")
    run_code: bool = Field(default=False, description="run code that the models write, in processes with limits")


class AutoRule(BaseModel):
    """A rule that raises the first units of a ranking; it is resolved when the recipe is built.

    `price` ranks by predicted loss per byte at the recipe's budget, the others as `raq-client suggest` does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: Literal["price", "energy", "contrast", "trace", "sensitivity"] = Field(
        default="price", description="ranking: predicted loss per byte, or activations, or measured sensitivity"
    )
    unit: Literal["block", "tensor", "experts", "role"] = Field(default="block", description="what is raised together")
    most: Counted = Field(default=1, description="number of units to raise")
    type: str | None = Field(default=None, description="type to raise to; else each tensor's best bargain")
    families: Texts = Field(default=(), description="PATTERN of the tensors that are raised; else all")
    domain: tuple[Path, ...] = Field(default=(), description="importance of a domain's text; else the recipe's")
    general: tuple[Path, ...] = Field(default=(), description="importance of general text, for contrast")
    profile: Path | None = Field(default=None, description="a profile with measured sensitivities, for sensitivity")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.type is not None:
            _known_type(self.type)
        if self.rule == "contrast" and not self.general:
            raise ValueError("contrast compares two texts: give the importance of general text as general")
        if self.rule == "sensitivity" and self.profile is None:
            raise ValueError("sensitivity is measured beforehand (raq-client sensitivity): give its profile")
        return self


class CheckSettings(BaseModel):
    """How the written file is checked on the texts of `text`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    context: int = Field(default=512, ge=8, description="tokens of a window")
    windows: Annotated[int, Field(ge=2)] | None = Field(default=None, description="most windows of each text; else all")
    max_kl: float | None = Field(default=None, gt=0, description="largest mean KL divergence, nats per token, to pass")


class Outputs(BaseModel):
    """The files that a build writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(description="the model file to write")
    manifest: Path | None = Field(default=None, description="the manifest; else FILE.manifest.json")

    @property
    def manifest_path(self) -> Path:
        """The manifest's path."""
        return self.manifest or self.file.with_name(f"{self.file.name}.manifest.json")


class Card(BaseModel):
    """The model card to write beside the file, as `raq-client card` does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(description="the card to write; its picture is put beside it")
    base_model: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="the repository that was quantized, org/name; else where the model is from",
    )
    by: str | None = Field(default=None, description="who quantized")
    license: str | None = Field(default=None, description="the licence; else that of the model")


class BuildRecipe(Settings):
    """A build recipe as written in its file."""

    format: Literal["raq-recipe-2"] = Field(description="the format of this file")
    name: str = Field(min_length=1, description="the recipe's name")
    description: str = Field(default="", description="what the file is for")
    importance: Collecting | None = Field(default=None, description="importance to collect, in place of imatrix")
    overrides: Path | None = Field(default=None, description="a --tensor-type-file applied to the mixture of base")
    counting: Literal["llama.cpp", "resolved"] = Field(
        default="llama.cpp", description="whether overrides shift the mixture's other types"
    )
    moves: Literal["any", "ratio"] = Field(default="any", description="which tensors may leave the base")
    domain: tuple[Path, ...] = Field(default=(), description="importance of the domain's text, for moves by ratio")
    general: tuple[Path, ...] = Field(default=(), description="importance of general text, for moves by ratio")
    demote_below: float = Field(default=0.8, gt=0, le=1, description="tensors below this ratio may get fewer bits")
    promote_above: float = Field(default=1.1, ge=1, description="tensors above this ratio may get more bits")
    types_from: Literal["solver", "base"] = Field(
        default="solver", description="solver: the best types within the budget; base: those of the base"
    )
    auto: tuple[AutoRule, ...] = Field(default=(), description="rules that raise tensors, resolved at the build")
    sequential: bool = Field(
        default=False, description="round blocks one after the other, each for the inputs before it; needs gram"
    )
    effort: Literal["fast", "best"] = Field(default="fast", description="how hard to search for the best scales")
    runtime: Literal["llama.cpp", "ds4"] = Field(
        default="llama.cpp", description="the program that is to load the file"
    )
    check: CheckSettings = Field(default=CheckSettings(), description="how the written file is checked")
    benchmarks: Benchmarks | None = Field(default=None, description="locked benchmarks, to collect and compare on")
    output: Outputs = Field(description="the files to write")
    card: Card | None = Field(default=None, description="the model card to write")

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that a build writes, the model first."""
        card = () if self.card is None else (self.card.file,)
        return (self.output.file, self.output.manifest_path, *card)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model is None:
            raise ValueError("model is missing: the model file to quantize")
        if self.profile is not None:
            raise ValueError("profile has no weights to build from: give model")
        if self.sequential and self.gram is None:
            raise ValueError("sequential rounds with error feedback: give gram, the file of Gram statistics")
        if self.importance is not None and self.imatrix:
            raise ValueError("importance collects what imatrix names: give one of them")
        if self.importance is not None and self.importance.benchmarks and self.benchmarks is None:
            raise ValueError("importance.benchmarks are locked: give benchmarks.lock and benchmarks.folder")
        if self.card is not None and self.card.base_model is None and not str(self.model).startswith("hf:"):
            raise ValueError("card.base_model is missing: the repository of the model, org/name")
        if self.types_from == "base":
            self._only_base()
        elif self.budget is None and self.base is None and self.memory.vram is None:
            raise ValueError("how large may it be? Give budget, base, or memory.vram")
        return self

    def _only_base(self) -> None:
        solved = ("budget", "floor", "ceiling", "exclude", "tie", "at_most", "region", "monotone", "distinct_types")
        given = [name for name in (*solved, "active_bytes", "exo") if getattr(self, name)]
        if self.base is None:
            raise ValueError('types_from = "base" needs a base')
        if given or self.moves == "ratio" or self.memory.vram is not None:
            what = ", ".join(given) or "moves and memory"
            raise ValueError(f'{what}: for the solver; with types_from = "base" only pin and auto change types')

    def beside(self, folder: Path) -> Self:
        """The recipe with its paths, which are relative to `folder`, as paths from the working folder."""
        return self._moved(lambda path: folder / path, lambda text: (folder / text).is_file())

    def relative_to(self, folder: Path) -> Self:
        """The recipe with its paths, which are those from the working folder, relative to `folder`."""
        return self._moved(lambda path: Path(os.path.relpath(path, folder)), lambda text: Path(text).is_file())

    def _moved(self, move: Callable[[Path], Path], is_file: Callable[[str], bool]) -> Self:
        """The recipe with every path moved. A base or a set of rules is moved if it is a file, not a name."""
        changed: dict[str, Any] = {
            name: _paths_moved(getattr(self, name), move)
            for name in ("gram", "profile", "text", "overrides", "domain", "general")
        }
        if self.model is not None and not is_model_name(str(self.model)):
            changed["model"] = move(self.model)
        changed["imatrix"] = tuple(str(move(Path(text))) for text in self.imatrix)
        for name in ("base", "architecture"):
            text = getattr(self, name)
            changed[name] = str(move(Path(text))) if text is not None and is_file(text) else text
        changed["importance"] = _part_moved(self.importance, move, "texts")
        changed["auto"] = tuple(_part_moved(rule, move, "domain", "general", "profile") for rule in self.auto)
        changed["benchmarks"] = _part_moved(self.benchmarks, move, "lock", "folder", "registry")
        changed["card"] = _part_moved(self.card, move, "file")
        changed["output"] = _part_moved(self.output, move, "file", "manifest")
        return self.model_copy(update={name: value for name, value in changed.items() if name in self.model_fields_set})

    def written_to(self, file: Path) -> Self:
        """The recipe with its model file elsewhere, and the manifest and the card beside it, named after it."""
        named = {} if self.card is None else {"file": file.with_name(f"{file.stem}{self.card.file.suffix}")}
        card = None if self.card is None else self.card.model_copy(update=named)
        return self.model_copy(update={"output": Outputs(file=file), "card": card})

    def digest(self) -> str:
        """SHA-256 of what the recipe asks for, with files by their names alone, and without what it is checked on."""
        named = self._moved(lambda path: Path(path.name), lambda text: Path(text).is_file())
        data = named.model_dump(mode="json", exclude={"output", "card", "check", "text", "server"})
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def as_json(self) -> str:
        """The recipe as the text of a JSON file, with the keys that were given."""
        return json.dumps(self.as_data(), indent=2, ensure_ascii=False) + "\n"

    def as_toml(self) -> str:
        """The recipe as the text of a TOML file, with the keys that were given."""
        return "".join(f"{key} = {_toml(value)}\n" for key, value in self.as_data().items())

    def as_data(self, *, whole: bool = False) -> dict[str, Any]:
        """The recipe as plain data, `format` and `name` first: the keys that were given or, if `whole`, all."""
        data = self.model_dump(mode="json", exclude_unset=not whole, exclude_none=True)
        return {"format": self.format, "name": self.name} | data


def read_any_recipe(name: str | Path) -> Recipe | BuildRecipe:
    """A recipe of either kind: by name, or the one in a file, with paths relative to the file's folder.

    Raises InvalidInput with every unknown key (and its nearest known one) and every wrong value.
    """
    path = Path(name)
    if not path.is_file():
        return read_recipe(name)
    text = read_text(path, _WHAT)
    if not _is_build_recipe(text, path):
        return read_recipe(path)
    return parse_user_text(text, BuildRecipe, str(path), _WHAT).beside(path.parent)


def read_build_recipe(name: str | Path) -> BuildRecipe:
    """The build recipe in a file. Raises InvalidInput as `read_any_recipe` does, and for recipes of the other kind."""
    found = read_any_recipe(name)
    if isinstance(found, Recipe):
        what = f'states types, and no model or outputs to build; write a build recipe with base = "{name}"'
        raise InvalidInput(Fault(str(name), f"{what} (raq-client recipe new)"))
    return found


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of build recipes."""
    schema = BuildRecipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": "raq build recipe"}


def _is_build_recipe(text: str, path: Path) -> bool:
    """Whether a text is meant as a build recipe: by its format, or by its outputs if that line is missing."""
    try:
        content = parse_json(text, path) if path.suffix == ".json" else parse_toml(text, path)
    except InvalidInput:
        return FORMAT in text
    return isinstance(content, dict) and (content.get("format") == FORMAT or "output" in content)


def _part_moved(part: Any, move: Callable[[Path], Path], *names: str) -> Any:
    """A part of a recipe with the paths under these names moved; None stays None."""
    if part is None:
        return None
    changed = {name: _paths_moved(getattr(part, name), move) for name in names if name in part.model_fields_set}
    return part.model_copy(update=changed)


def _paths_moved(value: Any, move: Callable[[Path], Path]) -> Any:
    if isinstance(value, tuple):
        return tuple(move(path) for path in value)
    return None if value is None else move(value)


def _toml(value: Any) -> str:
    """Plain data as TOML, whose literals for texts, numbers and truth values are those of JSON."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _known_type(name: str) -> None:
    try:
        quant_type(name)
    except InvalidInput as error:
        raise ValueError(str(error)) from None
