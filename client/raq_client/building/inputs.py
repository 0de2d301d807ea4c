"""The inputs of a build: its files with their digests, its importance, collected or read, and its profile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raq_client.building.workshop import Workshop, digests_of
from raq_client.files.names import readable
from raq_client.files.profile_file import load_profile, save_profile
from raq_client.importance.domains import named_file, read_domains
from raq_client.importance.imatrix import Importance, check_against
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_client.models.model_file import open_model
from raq_client.planning.model_inputs import ModelInputs
from raq_client.progress import Notes, Progress, silent, stage
from raq_client.quantizing.measure import WAY_OF_MEASURING, kernels_digest
from raq_client.recipes.build_recipe import BuildRecipe, Collecting
from raq_solver.errors import Fault, InvalidInput
from raq_solver.profile import Profile

if TYPE_CHECKING:
    from raq_client.engine import Engine
    from raq_client.engine.windows import Text

_VERSION: Final = "1"
"""Changed whenever the same inputs would be collected to other importance; what was kept is then not found."""


class NotMadeError(InvalidInput):
    """A stage has no kept result, and was not to be carried out."""


@dataclass(frozen=True, eq=False)
class BuildInputs(ModelInputs):
    """The inputs of a recipe's plan; profiles are kept in `workshop`, and only read there unless `makes`."""

    known: Importance | None = None
    workshop: Workshop | None = None
    makes: bool = True

    @cached_property
    def importance(self) -> Importance | None:
        """The recipe's importance. Raises InvalidInput with every mismatch between it and the model."""
        if self.known is not None:
            check_against(self.known, self.model.tensors, ())
        return self.known

    def _profile(self, more_types: tuple[str, ...], progress: Progress | None, notes: Notes) -> Profile:
        if self.workshop is None:
            return super()._profile(more_types, progress, notes)
        importance = self.importance
        parts = (
            self.model.fingerprint(),
            "none" if importance is None else importance.digest() + importance.fisher_digest(),
            "none" if self.compensation is None else self.compensation.gram.digest(),
            ",".join((*self.types, "+", *more_types)),
            f"{self.effort} {self.rows} {kernels_digest()} {WAY_OF_MEASURING}",
        )
        path = self.workshop.stage("profiles", parts, ".json")
        if path.exists():
            return load_profile(path)
        if not self.makes:
            raise NotMadeError(Fault(str(self.model.path), "its errors have not been measured yet"))
        found = super()._profile(more_types, progress, notes)
        save_profile(found, path, force=True)
        return found


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recipe with its inputs, and the SHA-256 of every file that it names as input."""

    recipe: BuildRecipe
    inputs: BuildInputs
    digests: Mapping[Path, str]


def prepare(
    recipe: BuildRecipe,
    workshop: Workshop,
    *,
    makes: bool = True,
    digests: Mapping[Path, str] | None = None,
    threads: int = 0,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> Prepared:
    """Read and hash all inputs, and collect importance if the recipe asks for it; unless `makes`, only kept is used.

    `digests` are those of the inputs, if they have just been hashed.
    Raises InvalidInput with every input that can't be read, NotMadeError for importance that has not been collected.
    """
    digests = digests_of(input_files(recipe)) if digests is None else digests
    known, files = _importance(recipe, digests, workshop, makes=makes, threads=threads, progress=progress, notes=notes)
    inputs = BuildInputs(
        path=recipe.model,
        imatrix=files,
        gram=recipe.gram,
        types=recipe.types,
        effort=recipe.effort,
        threads=threads,
        rows=recipe.rows,
        cached=workshop.cached,
        known=known,
        workshop=workshop,
        makes=makes,
    )
    return Prepared(recipe, inputs, digests)


def model_path(recipe: BuildRecipe) -> Path:
    """The model of a recipe, which every valid one has."""
    assert recipe.model is not None, "a build recipe without a model is refused when it is read"
    return recipe.model


def input_files(recipe: BuildRecipe) -> tuple[Path, ...]:
    """Every file that a build of the recipe reads. Raises InvalidInput if the model can't be opened."""
    path = model_path(recipe)
    named = [named_file(text)[0] for text in recipe.imatrix]
    rules = [file for rule in recipe.auto for file in (*rule.domain, *rule.general, rule.profile)]
    collecting = () if recipe.importance is None else recipe.importance.texts
    texts = (recipe.base, recipe.architecture)
    found = (
        *open_model(path).shards,
        *named,
        *collecting,
        *recipe.text,
        *recipe.domain,
        *recipe.general,
        *rules,
        recipe.gram,
        recipe.overrides,
        *(Path(text) for text in texts if text is not None and Path(text).is_file()),
    )
    return tuple(dict.fromkeys(file for file in found if file is not None))


def _importance(
    recipe: BuildRecipe,
    digests: Mapping[Path, str],
    workshop: Workshop,
    *,
    makes: bool,
    threads: int,
    progress: Progress | None,
    notes: Notes,
) -> tuple[Importance | None, tuple[str, ...]]:
    """The importance and the files that it is in. Its source and texts are named without their folders.

    A file's header has these names: with folders in them, the same recipe would give other bytes elsewhere.
    """
    if recipe.importance is None:
        if not recipe.imatrix:
            return None, ()
        names = " + ".join(named_file(text)[0].name for text in recipe.imatrix)
        return replace(read_domains(recipe.imatrix), source=readable(names)), tuple(recipe.imatrix)
    path = workshop.stage("importance", _collecting_parts(recipe, recipe.importance, digests), ".gguf")
    if not path.exists():
        if not makes:
            raise NotMadeError(Fault(recipe.name, "its importance has not been collected yet"))
        _collect(recipe, recipe.importance, path, threads, progress, notes)
    texts = ", ".join(text.name for text in recipe.importance.texts)
    source = f"{model_path(recipe).name} on {texts}"
    return replace(read_importance(path), source=readable(source)), (str(path),)


def _collecting_parts(recipe: BuildRecipe, asked: Collecting, digests: Mapping[Path, str]) -> tuple[str, ...]:
    """Everything that collected importance depends on."""
    shards = open_model(model_path(recipe)).shards
    options = asked.model_dump_json(exclude={"texts"})
    texts = [f"{text.name} {digests[text]}" for text in asked.texts]
    return (_VERSION, version("xllamacpp"), options, *(digests[shard] for shard in shards), *texts)


def _collect(
    recipe: BuildRecipe, asked: Collecting, path: Path, threads: int, progress: Progress | None, notes: Notes
) -> None:
    """Collect importance into `path`. An interrupted collection goes on, and ends with the same bits."""
    from raq_client.engine.loading import loaded
    from raq_client.importance.collect import collect
    from raq_client.prompts.calibration import read_calibration

    partial = path.with_suffix(".partial.gguf")
    resume = _resumed(partial)
    given = read_calibration(asked.texts, model_path(recipe), special=asked.parse_special)
    texts = [replace(text, name=readable(Path(text.name).name)) for text in given]

    def save(found: Importance) -> None:
        write_importance(found, partial, force=True)

    with loaded(model_path(recipe), context=asked.context, threads=threads) as engine:
        found = collect(
            engine,
            texts,
            windows=asked.windows,
            output_head=asked.output_head,
            resume=resume,
            save=save,
            progress=stage(progress, "collecting importance"),
        )
        if asked.fisher:
            if resume is not None:
                found = replace(found, fisher=resume.fisher, fisher_windows=resume.fisher_windows)
            save(found)
            found = _with_fisher(found, recipe, asked, engine, texts, save, progress, notes)
    write_importance(found, path, force=True)
    partial.unlink(missing_ok=True)


def _resumed(partial: Path) -> Importance | None:
    try:
        return read_importance(partial) if partial.exists() else None
    except InvalidInput:  # of another version of raq, or damaged: it is collected again
        return None


def _with_fisher(
    found: Importance,
    recipe: BuildRecipe,
    asked: Collecting,
    engine: "Engine",
    texts: "list[Text]",
    save: Callable[[Importance], None],
    progress: Progress | None,
    notes: Notes,
) -> Importance:
    """The importance with Fisher information; without, if the recipe did not ask for it by number and it can't be."""
    from raq_client.importance.collect_fisher import add_fisher

    try:
        return add_fisher(
            found,
            open_model(model_path(recipe)),
            engine,
            texts,
            asked.fisher,
            limit=asked.windows,
            save=save,
            progress=stage(progress, "Fisher information"),
        )
    except InvalidInput as error:
        if "fisher" in asked.model_fields_set:
            raise
        for fault in error.faults:
            notes(f"note: no Fisher information: {fault}")
        return replace(found, fisher={}, fisher_windows=0)
