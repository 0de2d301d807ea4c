"""The inputs of a build: its files with their digests, its importance, collected or read, and its profile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raq_client.benchmarks.corpus import Corpus
from raq_client.building.benchmarks import benchmark_files, recipe_corpus
from raq_client.building.workshop import Workshop, digests_of
from raq_client.files.names import readable
from raq_client.files.profile_file import load_profile, save_profile
from raq_client.importance.domains import named_file, read_domains
from raq_client.importance.imatrix import Importance, check_against
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.sources import is_here
from raq_client.models.type_choice import AUTO
from raq_client.planning.model_inputs import ModelInputs
from raq_client.progress import Notes, Progress, silent, stage
from raq_client.quantizing.measure import WAY_OF_MEASURING, kernels_digest
from raq_client.recipes.build_recipe import BuildRecipe, Collecting
from raq_solver.errors import Fault, InvalidInput
from raq_solver.profile import Profile

if TYPE_CHECKING:
    from raq_client.building.units import BuildUnits
    from raq_client.engine import Engine
    from raq_client.engine.windows import Text
    from raq_client.units.collecting import CollectJob

_VERSION: Final = "1"
"""Changed whenever the same inputs would be collected to other importance; what was kept is then not found."""


class NotMadeError(InvalidInput):
    """A stage has no kept result, and was not to be carried out."""


@dataclass(frozen=True, eq=False)
class BuildInputs(ModelInputs):
    """The inputs of a recipe's plan; profiles are kept in `workshop`, and only read there unless `makes`.

    The importance is `known`, or that of the files under the name `source`. With `units` errors are measured in units.
    """

    known: Importance | None = None
    workshop: Workshop | None = None
    makes: bool = True
    source: str = ""
    units: "BuildUnits | None" = None

    @cached_property
    def importance(self) -> Importance | None:
        """The recipe's importance. Raises InvalidInput with every mismatch between it and the model."""
        found = self.known
        if found is None and self.imatrix:
            found = replace(read_domains(self.imatrix), source=self.source)
        if found is not None:
            check_against(found, self.model.tensors, ())
        return found

    @property
    def for_units(self) -> "BuildInputs":
        """The same inputs as paths and settings, which can be sent to another machine."""
        source = self.source if self.known is None else self.known.source
        return replace(self, known=None, source=source, workshop=None, units=None)

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
        if self.units is None:
            found = super()._profile(more_types, progress, notes)
        else:
            from raq_client.units.profiling import ProfileJob

            types = tuple(dict.fromkeys((*(self.types or (AUTO,)), *more_types))) if more_types else self.types
            found = self.units.profile(ProfileJob(replace(self.for_units, types=types)), progress, notes)
        save_profile(found, path, force=True)
        return found


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recipe with its inputs, and the SHA-256 of every file that it names as input.

    `corpus` is the text of benchmarks that importance was collected on, None without.
    """

    recipe: BuildRecipe
    inputs: BuildInputs
    digests: Mapping[Path, str]
    corpus: Corpus | None = None


def prepare(
    recipe: BuildRecipe,
    workshop: Workshop,
    *,
    makes: bool = True,
    digests: Mapping[Path, str] | None = None,
    units: "BuildUnits | None" = None,
    threads: int = 0,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> Prepared:
    """Read and hash all inputs, and collect importance if the recipe asks for it; unless `makes`, only kept is used.

    `digests` are those of the inputs, if they have just been hashed. With `units` importance is collected in units.
    Raises InvalidInput with every input that can't be read, for benchmarks that have drifted from their lock and for
    Gram statistics that are not of the model or lack what rounding in turn needs; NotMadeError for a model that has not
    been downloaded and for importance that has not been collected.
    """
    if not makes and not is_here(model_path(recipe)):
        raise NotMadeError(Fault(str(recipe.model), "is not downloaded yet"))
    digests = digests_of(input_files(recipe)) if digests is None else digests
    corpus = recipe_corpus(recipe)
    _check_feedback(recipe)
    collecting = _Collecting(recipe, corpus, digests, units, threads, progress, notes)
    known, files = _importance(collecting, workshop, makes=makes)
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
        units=units,
        sequential=recipe.sequential,
    )
    return Prepared(recipe, inputs, digests, corpus)


def _check_feedback(recipe: BuildRecipe) -> None:
    """Raise InvalidInput, before anything is collected or measured, if blocks can't be rounded as the recipe says."""
    if recipe.gram is not None:
        _ = ModelInputs(path=recipe.model, gram=recipe.gram, sequential=recipe.sequential).rounding


def model_path(recipe: BuildRecipe) -> Path:
    """The model of a recipe, which every valid one has."""
    assert recipe.model is not None, "a build recipe without a model is refused when it is read"
    return recipe.model


def input_files(recipe: BuildRecipe) -> tuple[Path, ...]:
    """Every file that a build of the recipe reads.

    Raises InvalidInput if the model can't be opened, and for unknown benchmarks.
    """
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
        *benchmark_files(recipe),
        *(Path(text) for text in texts if text is not None and Path(text).is_file()),
    )
    return tuple(dict.fromkeys(file for file in found if file is not None))


@dataclass(frozen=True, eq=False)
class _Collecting:
    """What importance is collected from, and how."""

    recipe: BuildRecipe
    corpus: Corpus | None
    digests: Mapping[Path, str]
    units: "BuildUnits | None"
    threads: int
    progress: Progress | None
    notes: Notes

    @property
    def asked(self) -> Collecting:
        """The recipe's wishes."""
        assert self.recipe.importance is not None, "nothing else collects"
        return self.recipe.importance

    @cached_property
    def model(self) -> ModelFile:
        """The recipe's model."""
        return open_model(model_path(self.recipe))

    @property
    def corpus_name(self) -> str:
        """What stands for the text of benchmarks in names of importance."""
        return f"benchmarks {' '.join(self.asked.benchmarks)}"

    def parts(self) -> tuple[str, ...]:
        """Everything that the result depends on."""
        shards = self.model.shards
        options = self.asked.model_dump_json(exclude={"texts", "benchmarks", "answers", "cap"})
        texts = [f"{text.name} {self.digests[text]}" for text in self.asked.texts]
        if self.corpus is not None:
            texts.append(f"{self.corpus_name} {self.corpus.provenance['corpus_sha256']}")
        return (_VERSION, version("xllamacpp"), options, *(self.digests[shard] for shard in shards), *texts)

    def texts(self) -> "list[Text]":
        """The texts, named without their folders."""
        from raq_client.engine.windows import Text
        from raq_client.prompts.texts import read_texts_for

        given = read_texts_for(self.model.path, self.asked.texts, special=self.asked.parse_special)
        texts = [replace(text, name=readable(Path(text.name).name)) for text in given]
        if self.corpus is not None:
            templated = self.corpus.provenance["template_sha256"] is not None
            texts.append(Text(self.corpus_name, self.corpus.text.decode(), special=templated))
        return texts

    def job(self, output: Path) -> "CollectJob":
        """The same as units, with what they make beside `output`."""
        from raq_client.units.collecting import CollectJob

        asked = self.asked
        return CollectJob(
            self.model.path,
            tuple(self.texts()),
            output,
            context=asked.context,
            limit=asked.windows,
            output_head=asked.output_head,
            fisher=asked.fisher if asked.fisher == 0 or "fisher" in asked.model_fields_set else None,
            threads=self.threads,
        )


def _importance(
    collecting: _Collecting, workshop: Workshop, *, makes: bool
) -> tuple[Importance | None, tuple[str, ...]]:
    """The importance and the files that it is in. Its source and texts are named without their folders.

    A file's header has these names: with folders in them, the same recipe would give other bytes elsewhere.
    """
    recipe = collecting.recipe
    if recipe.importance is None:
        if not recipe.imatrix:
            return None, ()
        names = " + ".join(named_file(text)[0].name for text in recipe.imatrix)
        return replace(read_domains(recipe.imatrix), source=readable(names)), tuple(recipe.imatrix)
    path = workshop.stage("importance", collecting.parts(), ".gguf")
    if not path.exists():
        if not makes:
            raise NotMadeError(Fault(recipe.name, "its importance has not been collected yet"))
        _collect(collecting, path)
    texts = [text.name for text in recipe.importance.texts]
    texts += [] if collecting.corpus is None else [collecting.corpus_name]
    source = f"{collecting.model.path.name} on {', '.join(texts)}"
    return replace(read_importance(path), source=readable(source)), (str(path),)


def _collect(collecting: _Collecting, path: Path) -> None:
    """Collect importance into `path`. An interrupted collection goes on, and ends with the same bits."""
    from raq_client.engine.loading import loaded
    from raq_client.importance.collect import collect

    asked = collecting.asked
    if collecting.units is not None:
        job = collecting.job(collecting.units.output)
        write_importance(collecting.units.importance(job, collecting.progress, collecting.notes), path, force=True)
        return
    partial = path.with_suffix(".partial.gguf")
    resume = _resumed(partial)
    texts = collecting.texts()

    def save(found: Importance) -> None:
        write_importance(found, partial, force=True)

    with loaded(collecting.model.path, context=asked.context, threads=collecting.threads) as engine:
        found = collect(
            engine,
            texts,
            windows=asked.windows,
            output_head=asked.output_head,
            resume=resume,
            save=save,
            progress=stage(collecting.progress, "collecting importance"),
        )
        if asked.fisher:
            if resume is not None:
                found = replace(
                    found, fisher=resume.fisher, fisher_windows=resume.fisher_windows, windows=resume.windows
                )
            save(found)
            found = _with_fisher(found, collecting, engine, texts, save)
    write_importance(found, path, force=True)
    partial.unlink(missing_ok=True)


def _resumed(partial: Path) -> Importance | None:
    try:
        return read_importance(partial) if partial.exists() else None
    except InvalidInput:  # of another version of raq, or damaged: it is collected again
        return None


def _with_fisher(
    found: Importance,
    collecting: _Collecting,
    engine: "Engine",
    texts: "list[Text]",
    save: Callable[[Importance], None],
) -> Importance:
    """The importance with Fisher information; without, if the recipe did not ask for it by number and it can't be."""
    from raq_client.importance.collect_fisher import add_fisher

    asked = collecting.asked
    try:
        return add_fisher(
            found,
            collecting.model,
            engine,
            texts,
            asked.fisher,
            limit=asked.windows,
            save=save,
            progress=stage(collecting.progress, "Fisher information"),
        )
    except InvalidInput as error:
        if "fisher" in asked.model_fields_set:
            raise
        for fault in error.faults:
            collecting.notes(f"note: no Fisher information: {fault}")
        return replace(found, fisher={}, fisher_windows=0)
