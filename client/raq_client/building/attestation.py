"""Attestations: in-toto statements that a build was carried out again from its inputs with equal bytes.

Form: in-toto Statement v1 (https://in-toto.io/Statement/v1) with SLSA provenance v1 as its predicate. A statement has
no times and names no machine, so that everybody who repeats a build with the same raq writes the same statement. It is
not signed; any tool that signs in-toto statements does that.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from raq_client.building.build import HowToBuild
from raq_client.building.manifest import BuildManifest, read_build_manifest
from raq_client.building.replay import Comparison, Replayed, replay
from raq_client.files.atomic_file import atomic_file
from raq_client.files.manifest import file_digest, versions
from raq_client.files.user_files import read_user_file
from raq_client.progress import Notes, Progress, silent
from raq_client.quantizing.measure import kernels_digest
from raq_client.solver_client.protocol import SolverClient
from raq_solver.errors import Fault, InvalidInput

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:raq:recipe-build:1"
BUILDER: Final = "urn:raq:recipe-attest"


class Digests(BaseModel):
    """The digests of a file."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Described(BaseModel):
    """A file that a statement is about."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    digest: Digests


class Statement(BaseModel):
    """The part of a statement that is verified."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[Described, ...] = Field(min_length=1)
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = Field(alias="predicateType")


def read_statement(path: Path) -> Statement:
    """The statement in a file. Raises InvalidInput with every fault of it."""
    return read_user_file(path, Statement, "an in-toto statement of a build")


def attest(
    path: Path,
    how: HowToBuild,
    solver: SolverClient,
    *,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> tuple[Replayed, dict[str, Any]]:
    """Build again what a manifest describes and compare it, also with the file that is there; and the statement of it.

    The statement is true only if everything compared is equal. Raises InvalidInput as `replay` does, and if a file of
    the manifest is missing.
    """
    manifest = read_build_manifest(path)
    there = [*_subjects_there(manifest, path.parent)]
    found = replay(path, how, solver, progress=progress, notes=notes)
    return Replayed((*there, *found.compared)), statement(manifest, path)


def statement(manifest: BuildManifest, path: Path) -> dict[str, Any]:
    """The statement of the build that the manifest in the file `path` describes, as plain data."""
    return {
        "_type": STATEMENT,
        "subject": [_described(name, record.sha256) for name, record in manifest.outputs.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"recipe": manifest.recipe.as_data()},
                "internalParameters": {
                    "allocation": manifest.allocation,
                    "importance": None if manifest.importance is None else manifest.importance.model_dump(),
                    "quantizer": manifest.quantizer.model_dump(exclude_none=True),
                },
                "resolvedDependencies": [
                    _described(name, digest, manifest.origins.get(name)) for name, digest in manifest.inputs.items()
                ],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"raq": versions()["raq"], "kernels": kernels_digest()}},
                "byproducts": [_described(path.name, file_digest(path))],
            },
        },
    }


def write_statement(content: Mapping[str, Any], path: Path, *, force: bool) -> None:
    """Write a statement as JSON."""
    with atomic_file(path, force=force) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def verify_attestation(stated: Statement, folder: Path) -> tuple[Comparison, ...]:
    """The files of a folder against those that a statement is about, by their names.

    Raises InvalidInput for every file that is not there.
    """
    return tuple(_compared(((one.name, one.digest.sha256) for one in stated.subject), folder))


def rebuilt(
    stated: Statement,
    manifest: Path,
    how: HowToBuild,
    solver: SolverClient,
    *,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> tuple[Comparison, ...]:
    """Build again from a manifest, and compare the manifest's file and what was built with a statement."""
    outputs = {PurePosixPath(n).name: record.sha256 for n, record in read_build_manifest(manifest).outputs.items()}
    named = [
        Comparison(f"{one.name}: manifest", one.digest.sha256, outputs.get(one.name, "none")) for one in stated.subject
    ]
    return (*named, *replay(manifest, how, solver, progress=progress, notes=notes).compared)


def _subjects_there(manifest: BuildManifest, folder: Path) -> Iterator[Comparison]:
    yield from _compared(((name, record.sha256) for name, record in manifest.outputs.items()), folder)


def _compared(files: Iterator[tuple[str, str]], folder: Path) -> Iterator[Comparison]:
    for name, digest in files:
        path = folder / name
        if not path.is_file():
            raise InvalidInput(Fault(str(path), "is not there; the statement is about this file"))
        yield Comparison(f"{name}: the file that is there", digest, file_digest(path))


def _described(name: str, digest: str, origin: str | None = None) -> dict[str, Any]:
    """A resource descriptor."""
    found: dict[str, Any] = {"name": PurePosixPath(name).name, "digest": {"sha256": digest}}
    return found if origin is None else {**found, "uri": origin}
