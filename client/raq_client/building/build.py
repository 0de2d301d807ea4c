"""Build a recipe: quantize, check and document its file. Every stage goes on where an earlier run ended."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raq_client.benchmarks.answers import Task
from raq_client.benchmarks.paired import Paired
from raq_client.building.benchmarks import compared_on, recipe_tasks
from raq_client.building.inputs import Prepared, input_files, prepare
from raq_client.building.resolve import Resolved, check_solvable, resolve
from raq_client.building.units import MADE_HERE, BuildUnits, check_parts, difference, has_parts, made_together
from raq_client.building.workshop import Workshop, digests_of
from raq_client.files.lock import output_lock
from raq_client.files.output_checks import check_output
from raq_client.models.model_file import open_model
from raq_client.models.writer import WrittenModel
from raq_client.progress import Notes, Progress, bytes_stage, silent, stage
from raq_client.prompts.texts import read_texts_for
from raq_client.quantizing.devices import CPU, Device
from raq_client.quantizing.effort import quantizing_work
from raq_client.quantizing.quantize import quantize_model, unfinished_folder
from raq_client.quantizing.sequential import IN_TURN
from raq_client.quantizing.tensor_store import KeptTensors
from raq_client.recipes.build_recipe import BuildRecipe
from raq_client.recipes.runtimes import runtime_faults
from raq_client.solver_client.protocol import SolverClient
from raq_client.units.journal import work_folder
from raq_client.units.quantizing import QuantizeJob
from raq_client.units.unit import Part
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.knapsack import Limits
from raq_solver.solve import NO_LIMITS

if TYPE_CHECKING:
    from raq_client.evaluation.report import CheckReport


@dataclass(frozen=True)
class HowToBuild:
    """How a build is carried out; none of it changes a byte of its file.

    `threads` 0 means one per core; `force` replaces outputs of other recipes; `reuse` takes quantized tensors from the
    workshop.
    """

    workshop: Workshop
    threads: int = 0
    device: Device = CPU
    limits: Limits = NO_LIMITS
    force: bool = False
    reuse: bool = True


@dataclass(frozen=True, eq=False)
class Built:
    """A finished build.

    `reused` and `quantized` are the names of tensors, `seconds` is by stage; `benchmarks` are the answers of the
    original (A) and the file (B), by benchmark.
    """

    resolved: Resolved
    written: WrittenModel
    reused: tuple[str, ...]
    quantized: tuple[str, ...]
    check: "CheckReport | None"
    seconds: Mapping[str, float]
    benchmarks: Mapping[str, Paired]

    @property
    def too_far(self) -> str | None:
        """Why the file does not pass its recipe's check; None if it does."""
        most = self.resolved.recipe.check.max_kl
        if most is None or self.check is None:
            return None
        found = self.check.overall.kl.value
        return None if found <= most else f"mean KL divergence {found:.6f}; at most {most:g} was to pass"


@dataclass(frozen=True)
class Stopwatch:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block under a name."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begin, 3)


def build(
    recipe: BuildRecipe,
    how: HowToBuild,
    solver: SolverClient,
    *,
    units: BuildUnits | None = None,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> Built:
    """Build a recipe's file and check it. The file appears complete or not at all.

    Run again after any interruption, it ends with the same bytes. An existing file is replaced if this recipe wrote it
    with the same types, else with `force` only. With `units` they make importance, errors and file, without the kept
    tensors; parts of this build that lie beside the output are used in any case. Raises InvalidInput with the faults of
    recipe and inputs, and if another build is writing the file.
    """
    watch, target = Stopwatch(), recipe.output.file
    if units is not None:
        check_parts(recipe)
    check_targets(recipe, force=how.force)
    check_solvable(recipe, solver)
    tasks = recipe_tasks(recipe)
    with output_lock(target):
        with watch.stage("inputs and importance"):
            prepared, units = _prepared(recipe, how, units, progress, notes)
        with watch.stage("profile and plan"):
            resolved = _resolved(prepared, how, solver, progress, notes)
        kept = KeptTensors(how.workshop.store, prepared.inputs.model)
        with watch.stage("quantizing"):
            if units is None:
                written = write_resolved(resolved, target, how, kept if how.reuse else None, progress=progress)
            else:
                written = units.written(_file_job(resolved, how), progress, notes)
        with watch.stage("check"):
            report = _checked(prepared, target, how.threads, progress)
        with watch.stage("benchmarks"):
            answers = _compared(prepared, written, tasks, how, progress)
    quantized = tuple(kept.quantized)
    if units is not None:
        units.remove()
        quantized = tuple(tensor.name for tensor, chosen in resolved.types.items() if chosen != tensor.source_type)
    return Built(resolved, written, tuple(kept.reused), quantized, report, watch.seconds, answers)


def build_part(
    recipe: BuildRecipe,
    how: HowToBuild,
    solver: SolverClient,
    wanted: Part,
    *,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> int:
    """Make one of several parts of a recipe's file, with lines beside it; the number of units of it made now.

    The parts share the work on importance and errors, then each solves for itself. `build` puts them together. Raises
    InvalidInput as `build` does, and if the parts that are there are of another recipe, of other inputs, or of another
    build of raq.
    """
    check_parts(recipe)
    check_targets(recipe, force=how.force)
    check_solvable(recipe, solver)
    recipe_tasks(recipe)
    units = BuildUnits(recipe.output.file, made_together(wanted))
    prepared, _ = _prepared(recipe, how, units, progress, notes)
    resolved = _resolved(prepared, how, solver, progress, notes)
    return units.part(_file_job(resolved, how), wanted, progress)


def _prepared(
    recipe: BuildRecipe, how: HowToBuild, units: BuildUnits | None, progress: Progress | None, notes: Notes
) -> tuple[Prepared, BuildUnits | None]:
    """The inputs of a build, and its units if there are any: those given, or those beside the output."""
    target, digests = recipe.output.file, digests_of(input_files(recipe))
    if units is not None:
        units.require_same(recipe, digests)
    elif has_parts(target):
        other = difference(target, recipe, digests)
        if other is None:
            units = BuildUnits(target, MADE_HERE)
        else:
            notes(f"note: {work_folder(target)} has parts of {other}, which are not used; it can be removed")
    prepared = prepare(
        recipe, how.workshop, digests=digests, units=units, threads=how.threads, progress=progress, notes=notes
    )
    return prepared, units


def _resolved(
    prepared: Prepared, how: HowToBuild, solver: SolverClient, progress: Progress | None, notes: Notes
) -> Resolved:
    """The resolved recipe. Raises InvalidInput if its runtime can't load it, or the file has another version."""
    found = resolve(prepared, solver, how.limits, progress=progress, notes=notes)
    raise_faults(runtime_faults(prepared.recipe.runtime, found.types, prepared.inputs.model.architecture))
    _refuse_other_types(found, force=how.force)
    return found


def _file_job(resolved: Resolved, how: HowToBuild) -> QuantizeJob:
    """Writing the file of a resolved recipe, as units."""
    inputs = replace(resolved.prepared.inputs.for_units, threads=how.threads, device=how.device)
    return QuantizeJob(inputs, resolved.allocation, resolved.recipe.output.file, metadata=resolved.metadata)


def write_resolved(
    resolved: Resolved,
    target: Path,
    how: HowToBuild,
    kept: KeptTensors | None,
    *,
    progress: Progress | None = None,
) -> WrittenModel:
    """Write the file of a resolved recipe to `target`, replacing what is there.

    Without `kept` every tensor is rounded again, also those of an interrupted build.
    """
    wanted = resolved.quantization(target)
    wanted = replace(wanted, rounding=replace(wanted.rounding, threads=how.threads, device=how.device))
    if kept is None:
        shutil.rmtree(unfinished_folder(wanted), ignore_errors=True)
    return quantize_model(
        wanted,
        keep=kept,
        force=True,
        progress=bytes_stage(progress, "quantizing", resolved.ledger.size, quantizing_work(wanted.types)),
        passed=stage(progress, IN_TURN),
    )


def check_targets(recipe: BuildRecipe, *, force: bool) -> None:
    """Raise InvalidInput, before any work, if the outputs can't be written or are not this recipe's to replace."""
    target, manifest, *cards = recipe.outputs
    inputs = input_files(recipe)
    own = target.is_file() and _written_by(target) == recipe.name
    check_output(target, force=force or own, inputs=inputs)
    check_output(manifest, force=True, inputs=(*inputs, target))
    for card in cards:
        check_output(card, force=force or own, inputs=(*inputs, target, manifest))
    if manifest == target:
        raise InvalidInput(Fault(str(manifest), "is the model file itself; name another for the manifest"))


def _written_by(path: Path) -> str | None:
    """The name of the recipe that a model file was built from."""
    try:
        found = open_model(path).value("raq.recipe")
    except InvalidInput:
        return None
    return found if isinstance(found, str) else None


def _refuse_other_types(resolved: Resolved, *, force: bool) -> None:
    """Raise InvalidInput if the file is there and holds an earlier version of the recipe."""
    target = resolved.recipe.output.file
    if force or not target.is_file():
        return
    there = {tensor.name: tensor.source_type for tensor in open_model(target).tensors}
    if there != {tensor.name: chosen for tensor, chosen in resolved.types.items()}:
        what = "holds an earlier build of this recipe with other types; name another file, or replace it with --force"
        raise InvalidInput(Fault(str(target), what))


def _checked(prepared: Prepared, target: Path, threads: int, progress: Progress | None) -> "CheckReport | None":
    recipe = prepared.recipe
    if not recipe.text:
        return None
    from raq_client.evaluation import perplexity

    measured = perplexity.measure(
        prepared.inputs.model.path,
        target,
        read_texts_for(prepared.inputs.model.path, recipe.text),
        context=recipe.check.context,
        windows=recipe.check.windows,
        threads=threads,
        progress=stage(progress, "checking"),
    )
    return measured.report()


def _compared(
    prepared: Prepared, written: WrittenModel, tasks: Mapping[str, Task], how: HowToBuild, progress: Progress | None
) -> dict[str, Paired]:
    asked, model = prepared.recipe.benchmarks, prepared.inputs.model
    if asked is None or not tasks:
        return {}
    originals = [prepared.digests[shard] for shard in model.shards]
    models = {model.path: originals, written.path: [written.sha256]}
    return compared_on(tasks, models, asked, how.workshop, threads=how.threads, progress=progress)


def rules_data(resolved: Resolved) -> list[dict[str, Any]]:
    """The rules of a resolved recipe as plain data: what they say, and the tensors that they came to."""
    return [
        {
            **one.rule.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
            "rule": one.rule.rule,
            "units": [
                {"unit": unit.unit, "score": unit.score, "types": dict(unit.types), "kept": dict(unit.kept)}
                for unit in one.units
            ],
        }
        for one in resolved.rules
    ]
