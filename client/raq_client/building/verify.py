"""Verify a recipe before it is built: inputs, importance, budget, runtime and disk, each with its finding."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, unique
from pathlib import Path

import numpy as np

from raq_client.building.benchmarks import recipe_corpus, recipe_tasks
from raq_client.building.build import check_targets
from raq_client.building.inputs import NotMadeError, Prepared, input_files, model_path, prepare
from raq_client.building.resolve import Resolved, recipe_request, resolve
from raq_client.building.workshop import Workshop
from raq_client.engine.loading import evaluable
from raq_client.files.manifest import file_digest
from raq_client.hub.names import parse_hub_name
from raq_client.importance.imatrix import check_against
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.quantizable import candidates, is_quantizable, needs_importance
from raq_client.models.sources import is_here, pinned
from raq_client.models.table import table_of
from raq_client.models.type_choice import AUTO, chosen_types
from raq_client.planning.build_problem import build_problem, resolve_base, types_in
from raq_client.quantizing.quantize import resolved_types
from raq_client.quantizing.sequential import sequences_of
from raq_client.recipes.build_recipe import BuildRecipe
from raq_client.recipes.patterns import matching
from raq_client.recipes.runtimes import runtime_faults
from raq_client.solver_client.protocol import SolverClient
from raq_solver.allocation import Allocation
from raq_solver.errors import Fault, InvalidInput
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import QuantType, quant_type


@unique
class Level(Enum):
    """How a finding bears on a build."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it bears on a build, and one sentence on it."""

    what: str
    level: Level
    text: str


def verify_recipe(recipe: BuildRecipe, workshop: Workshop, solver: SolverClient) -> tuple[Finding, ...]:
    """Everything that can be known of a build before it runs. Nothing is collected, measured or written."""
    digests: dict[Path, str] = {}
    try:
        origin = tuple(_origin(recipe))
        if not is_here(model_path(recipe)):
            what = "is not downloaded yet, so nothing else can be looked at; a build downloads it"
            return (*origin, Finding(str(recipe.model), Level.WARN, what))
        model, files = open_model(model_path(recipe)), input_files(recipe)
    except InvalidInput as error:
        return tuple(_failed("model", error))
    found = [*origin, *_files(recipe, files, digests), *_outputs(recipe), *_benchmarks(recipe)]
    if any(one.level is Level.FAIL for one in found):
        return tuple(found)
    try:
        prepared = _prepared(recipe, workshop, digests)
        found += [*_importance(prepared, model), *_feedback(prepared), *_pins(prepared, model)]
        if any(one.level is Level.FAIL for one in found):
            return tuple(found)
        problem = _sizes_only(prepared, model)
        found += _budget(problem, solver)
        resolved = _resolved(prepared, solver)
        found += _runtime(recipe, model, resolved)
        found += _disk(recipe, problem, model, resolved)
    except InvalidInput as error:
        found += _failed("recipe", error)
    return tuple(found)


def _origin(recipe: BuildRecipe) -> Iterator[Finding]:
    """Whether a model of a hub is named at a commit: a branch or a tag may move."""
    name = str(recipe.model)
    whole = pinned(name)
    if whole is None:
        return
    if parse_hub_name(name).revision == parse_hub_name(whole).revision:
        yield Finding(name, Level.OK, "is named at a commit")
    else:
        yield Finding(name, Level.WARN, f'may change; pin it: model = "{whole}"')


def _benchmarks(recipe: BuildRecipe) -> Iterator[Finding]:
    """Whether the rows of the benchmarks are those of the lock."""
    if recipe.benchmarks is None:
        return
    try:
        tasks, corpus = recipe_tasks(recipe), recipe_corpus(recipe)
    except InvalidInput as error:
        yield from _failed("benchmarks", error)
        return
    rows = sum(len(task.rows) for task in tasks.values())
    known = "none" if corpus is None else f"{len(corpus.mix.rows)} rows, {len(corpus.text):,} bytes"
    yield Finding("benchmarks", Level.OK, f"as pinned; to collect on: {known}; to answer: {rows} rows")


def _files(recipe: BuildRecipe, files: Iterable[Path], digests: dict[Path, str]) -> Iterator[Finding]:
    """Findings on the input files, whose SHA-256 are added to `digests`."""
    for path in files:
        try:
            digests[path], size = file_digest(path), path.stat().st_size
        except OSError as error:
            yield Finding(str(path), Level.FAIL, f"can't be read: {error.strerror or error}")
        else:
            yield Finding(str(path), Level.OK, f"{size:,} bytes, SHA-256 {digests[path]}")
    if recipe.importance is not None or recipe.text or (recipe.benchmarks and recipe.benchmarks.names):
        try:
            evaluable(model_path(recipe))
        except InvalidInput as error:
            yield from _failed("texts", error)


def _outputs(recipe: BuildRecipe) -> Iterator[Finding]:
    try:
        check_targets(recipe, force=False)
    except InvalidInput as error:
        yield from _failed("outputs", error)
    else:
        yield Finding("outputs", Level.OK, f"{', '.join(map(str, recipe.outputs))} can be written")


def _prepared(recipe: BuildRecipe, workshop: Workshop, digests: Mapping[Path, str]) -> Prepared:
    """The recipe's inputs; without importance where that is still to be collected."""
    try:
        return prepare(recipe, workshop, makes=False, digests=digests)
    except NotMadeError:
        known = recipe.model_copy(update={"importance": None})
        return replace(prepare(known, workshop, makes=False, digests=digests), recipe=recipe)


def _importance(prepared: Prepared, model: ModelFile) -> Iterator[Finding]:
    recipe, found = prepared.recipe, prepared.inputs.importance
    wanted = [tensor for tensor in model.tensors if is_quantizable(tensor, model.architecture)]
    if found is None:
        if recipe.importance is not None:
            yield Finding("importance", Level.OK, "will be collected when the recipe is built")
        else:
            yield Finding("importance", Level.WARN, "none: types that need it are not offered")
        return
    coverage = check_against(found, model.tensors, wanted)
    known = f"of {len(wanted) - len(coverage.missing)} of {len(wanted)} tensors that can be quantized"
    yield Finding("importance", Level.OK, f"{known}, {found.source}")
    silent = sum(coverage.silent_experts.values())
    if silent:
        what = f"{silent} experts in {len(coverage.silent_experts)} tensors were reached by no token"
        yield Finding("importance", Level.WARN, f"{what}: they get the mean of the others")


def _feedback(prepared: Prepared) -> Iterator[Finding]:
    """The Gram statistics, which `prepare` has found to be of this model and to have what the recipe needs."""
    compensation = prepared.inputs.compensation
    if compensation is not None:
        gram = compensation.gram
        known = f"{gram.windows:,} windows of {', '.join(gram.texts)}"
        in_turn = f"; blocks one after the other, {len(sequences_of(gram))} windows pass through"
        yield Finding("error feedback", Level.OK, known + (in_turn if prepared.recipe.sequential else ""))


def _sizes_only(prepared: Prepared, model: ModelFile) -> Problem:
    """The recipe's problem with exact sizes and no losses, which tells what fits without measuring anything."""
    inputs, request = prepared.inputs, recipe_request(prepared.recipe)
    collects = prepared.recipe.importance is not None
    base = resolve_base(request.base, table_of(model), has_importance=collects or bool(inputs.imatrix))
    names = dict.fromkeys((*(inputs.types or (AUTO,)), *types_in(base, table_of(model))))
    choice = chosen_types(tuple(names))
    offered = []
    for tensor in model.tensors:
        known = collects or (inputs.importance is not None and inputs.importance.knows(tensor.name))
        wanted = (*choice.of(tensor), tensor.source_type)
        offered.append(candidates(tensor, wanted, architecture=model.architecture, has_importance=known))
    profile = _without_losses(model, offered)
    return build_problem(replace(request, loss="relative"), profile, table_of(model), base=base).problem


def _without_losses(model: ModelFile, offered: list[tuple[QuantType, ...]]) -> Profile:
    columns = sorted({one for types in offered for one in types}, key=lambda one: (-one.bits_per_weight, one.name))
    errors = np.array([[0.0 if column in types else np.inf for column in columns] for types in offered])
    unknown = np.full(len(offered), np.nan)
    return Profile(model.tensors, tuple(columns), errors, np.zeros(len(offered)), unknown, unknown.copy())


def _budget(problem: Problem, solver: SolverClient) -> Iterator[Finding]:
    outcome = solver.solve(problem)
    capacity = problem.capacity_bytes
    if outcome.allocation is not None:
        yield Finding("budget", Level.OK, f"{capacity:,} bytes; the smallest types take {outcome.least_bytes:,}")
    elif outcome.least_bytes > capacity:
        yield Finding("budget", Level.FAIL, f"{capacity:,} bytes, and the smallest types take {outcome.least_bytes:,}")
    else:
        yield Finding("budget", Level.FAIL, "no types satisfy all constraints together")


def _pins(prepared: Prepared, model: ModelFile) -> Iterator[Finding]:
    """Pins to types that a tensor can't have: they do not fit its rows, or need importance that it lacks."""
    recipe, names = prepared.recipe, [tensor.name for tensor in model.tensors]
    pinned: dict[str, str] = {}
    for text in recipe.pin:
        pattern, equals, quant = text.partition("=")
        if equals:
            pinned |= dict.fromkeys(matching([pattern], names, f"pin {text}"), quant)
    if recipe.importance is not None and prepared.inputs.importance is None:  # every tensor will have importance
        pinned = {name: quant for name, quant in pinned.items() if not needs_importance(quant_type(quant), name)}
    types = {tensor.name: pinned.get(tensor.name, tensor.source_type.name) for tensor in model.tensors}
    try:
        resolved_types(model, Allocation(types), prepared.inputs.importance)
    except InvalidInput as error:
        yield from _failed("pin", error)


def _resolved(prepared: Prepared, solver: SolverClient) -> Resolved | None:
    """The types that a build would write, if all that they need has been collected and measured."""
    inputs = prepared.inputs
    if prepared.recipe.importance is not None and inputs.importance is None:
        return None
    try:
        return resolve(prepared, solver)
    except NotMadeError:
        return None


def _runtime(recipe: BuildRecipe, model: ModelFile, resolved: Resolved | None) -> Iterator[Finding]:
    if resolved is None:
        what = f"{recipe.runtime}: the types are not known before importance and errors are; a build checks them"
        yield Finding("runtime", Level.WARN if recipe.runtime == "ds4" else Level.OK, what)
        return
    faults = runtime_faults(recipe.runtime, resolved.types, model.architecture)
    yield from (Finding(fault.where, Level.FAIL, fault.what) for fault in faults)
    if not faults:
        yield Finding("runtime", Level.OK, f"{recipe.runtime} accepts the type of every tensor")


def _disk(recipe: BuildRecipe, problem: Problem, model: ModelFile, resolved: Resolved | None) -> Iterator[Finding]:
    """The file stands on the disk once: its partial file becomes the file itself.

    Tensors that are rounded one block after the other lie beside it until all are there.
    """
    header = sum(shard.stat().st_size for shard in model.shards) - sum(tensor.size for tensor in model.tensors)
    needed = problem.capacity_bytes + max(0, header) if resolved is None else resolved.file_bytes
    if recipe.sequential:
        needed *= 2
    folder = recipe.output.file.parent
    free = shutil.disk_usage(folder).free
    text = f"{'at most ' if resolved is None else ''}{needed:,} bytes are needed, {free:,} are free in {folder}"
    yield Finding("disk", Level.OK if free >= needed else Level.FAIL, text)


def _failed(what: str, error: InvalidInput) -> Iterator[Finding]:
    yield from (_finding(fault, what) for fault in error.faults)


def _finding(fault: Fault, what: str) -> Finding:
    return Finding(fault.where or what, Level.FAIL, fault.what)
