"""Replay a build: carry it out again from its manifest, and compare every hash."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from raq_client.building.build import HowToBuild, write_resolved
from raq_client.building.inputs import Prepared, prepare
from raq_client.building.manifest import BuildManifest, quantizer, read_build_manifest
from raq_client.building.resolve import Resolved, resolve
from raq_client.building.workshop import Workshop, digests_of
from raq_client.files.output_checks import check_output
from raq_client.hub.names import origin_of
from raq_client.models.model_file import open_model
from raq_client.progress import Notes, Progress, silent
from raq_client.quantizing.tensor_store import KeptTensors
from raq_client.solver_client.protocol import SolverClient
from raq_solver.allocation import Allocation
from raq_solver.errors import Fault, InvalidInput, raise_faults

_OTHER_ARITHMETIC: Final = (
    "blocks were rounded one after the other, with other arithmetic than here (NumPy, its BLAS, their threads or the "
    "processor), which gives other bytes; repeat it where these are as they were (docs/compensation.md)"
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing that a manifest states and a replay made again.

    With `depends` it may differ although nothing was changed: it says on what else the thing depends.
    """

    what: str
    recorded: str
    found: str
    depends: str = ""

    @property
    def equal(self) -> bool:
        """Whether both are the same."""
        return self.recorded == self.found


@dataclass(frozen=True, slots=True)
class Replayed:
    """The comparisons of a replay."""

    compared: tuple[Comparison, ...]

    @property
    def equal(self) -> bool:
        """Whether everything is the same."""
        return all(one.equal for one in self.compared)

    @property
    def disproved(self) -> bool:
        """Whether something differs that depends on nothing but the inputs and raq."""
        return any(not one.equal and not one.depends for one in self.compared)

    @property
    def why_not(self) -> str:
        """What to say of a replay that is not equal: that it disproves the build, or that it can't tell."""
        if self.disproved:
            return "the build could not be repeated: what differs is marked"
        depends = dict.fromkeys(one.depends for one in self.compared if not one.equal)
        return f"nothing can be said of the build from here: {'; '.join(depends)}"


def replay(
    path: Path,
    how: HowToBuild,
    solver: SolverClient,
    *,
    output: Path | None = None,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> Replayed:
    """Build again what a manifest describes, from the types that it records, and compare.

    The rules and the budget are resolved again too, and compared with these types. Unless `how.reuse`, nothing kept
    from earlier builds is used. The file is written to `output`, or to a temporary place beside the manifest.
    Raises InvalidInput if an input has changed or is missing, and with the faults of the build.
    """
    manifest = read_build_manifest(path)
    recipe = manifest.recipe.beside(path.parent)
    _check_inputs(manifest, path)
    if output is not None:
        check_output(output, force=how.force, inputs=(path, *_located(manifest, path.parent).values()))
    for note in _other_tools(manifest):
        notes(note)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".raq-replay-") as folder:
        fresh = how if how.reuse else replace(how, workshop=Workshop(Path(folder), cached=False))
        prepared = prepare(recipe, fresh.workshop, threads=how.threads, progress=progress, notes=notes)
        resolved = resolve(prepared, solver, how.limits, progress=progress, notes=notes)
        target = output or Path(folder) / recipe.output.file.name
        found = _written(manifest, resolved, target, fresh, progress)
        return Replayed((*_importance(manifest, prepared), *_types(manifest, resolved), *found))


def _located(manifest: BuildManifest, folder: Path) -> dict[str, Path]:
    """The files of the inputs by their names in the manifest; on another machine, those of a hub are where it has them.

    The model is downloaded if need be.
    """
    found = {name: folder / name for name in manifest.inputs}
    elsewhere = {name: origin for name, origin in manifest.origins.items() if not found[name].exists()}
    if elsewhere and manifest.recipe.model is not None:
        shards = open_model(manifest.recipe.model).shards
        here = {origin_of(shard) or str(manifest.recipe.model): shard for shard in shards}
        found |= {name: here[origin] for name, origin in elsewhere.items() if origin in here}
    return found


def _check_inputs(manifest: BuildManifest, path: Path) -> None:
    recorded = {each: manifest.inputs[name] for name, each in _located(manifest, path.parent).items()}
    found = digests_of(recorded)
    what = "has changed since the build: its SHA-256 is {}, the manifest has {}"
    raise_faults(
        [
            Fault(str(file), what.format(found[file][:16], digest[:16]))
            for file, digest in recorded.items()
            if found[file] != digest
        ]
    )


def _written(
    manifest: BuildManifest, resolved: Resolved, target: Path, how: HowToBuild, progress: Progress | None
) -> Iterator[Comparison]:
    # The recorded types, so that a file is reproduced even where a solver would settle a tie otherwise.
    recorded = replace(resolved, allocation=Allocation(manifest.allocation))
    kept = KeptTensors(how.workshop.store, resolved.prepared.inputs.model) if how.reuse else None
    written = write_resolved(recorded, target, how, kept, progress=progress)
    if len(manifest.outputs) != 1:
        raise InvalidInput(Fault("outputs", f"{len(manifest.outputs)} files in the manifest; a build writes one"))
    depends = _OTHER_ARITHMETIC if _is_of_other_arithmetic(manifest) else ""
    for name, record in manifest.outputs.items():
        yield Comparison(f"{name}: SHA-256", record.sha256, written.sha256, depends)
        yield Comparison(f"{name}: bytes", f"{record.bytes:,}", f"{written.size:,}")


def _importance(manifest: BuildManifest, prepared: Prepared) -> Iterator[Comparison]:
    found = prepared.inputs.importance
    if manifest.importance is None or found is None:
        there = ("none" if one is None else "there" for one in (manifest.importance, found))
        yield Comparison("importance", *there)
        return
    yield Comparison("importance", manifest.importance.sha256, found.digest())
    yield Comparison("Fisher information", manifest.importance.fisher_sha256, found.fisher_digest())


def _types(manifest: BuildManifest, resolved: Resolved) -> Iterator[Comparison]:
    """The types that the recipe comes to now, against those recorded."""
    found = resolved.allocation.types
    other = [name for name in manifest.allocation if found.get(name) != manifest.allocation[name]]
    if not other:
        yield Comparison("types, solved again", f"{len(found)} tensors", f"{len(found)} tensors")
    for name in other:
        yield Comparison(f"type of {name}, solved again", manifest.allocation[name], found.get(name, "none"))


def _other_tools(manifest: BuildManifest) -> Iterator[str]:
    """Notes on tools that differ from those of the build."""
    now = quantizer(manifest.recipe)
    for name in ("raq", "kernels"):
        recorded, found = getattr(manifest.quantizer, name), getattr(now, name)
        if recorded != found:
            yield f"note: the build used {name} {recorded}, here it is {found}"
    if _is_of_other_arithmetic(manifest):
        yield f"note: {_OTHER_ARITHMETIC}"


def _is_of_other_arithmetic(manifest: BuildManifest) -> bool:
    """Whether the bytes of a build depend on arithmetic that is another one here."""
    return manifest.quantizer.arithmetic != quantizer(manifest.recipe).arithmetic
