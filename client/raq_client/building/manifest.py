"""Manifests of builds: the recipe, every input's hash, the resolved rules and types, the quantizer, and the result."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from raq_client.building.build import Built, rules_data
from raq_client.building.inputs import Prepared
from raq_client.files.manifest import host, versions
from raq_client.files.user_files import read_user_file
from raq_client.hub.names import origin_of
from raq_client.models.sources import pinned
from raq_client.quantizing.arithmetic import arithmetic_digest
from raq_client.quantizing.measure import kernels_digest
from raq_client.recipes.build_recipe import BuildRecipe

FORMAT: Final = "raq-build-1"


class ImportanceRecord(BaseModel):
    """The digests of a build's importance."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    fisher_sha256: str = "none"


class OutputRecord(BaseModel):
    """A written file: its SHA-256 and size in bytes."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    bytes: int = Field(ge=0)


class QuantizerRecord(BaseModel):
    """What quantized: raq's version, a digest of its kernels, and the effort.

    `arithmetic` is a digest of what NumPy and its BLAS compute, where the bytes depend on it: blocks rounded in turn.
    """

    model_config = ConfigDict(frozen=True)

    raq: str
    kernels: str
    effort: str
    arithmetic: str | None = None


class BuildManifest(BaseModel):
    """The part of a manifest from which a build is repeated. Paths are relative to the manifest's folder.

    `origins` are names at a commit of inputs from a hub; a model of a hub is named so in the recipe too.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal["raq-build-1"]
    recipe: BuildRecipe
    inputs: dict[str, str]
    origins: dict[str, str] = Field(default_factory=dict)
    importance: ImportanceRecord | None
    quantizer: QuantizerRecord
    allocation: dict[str, str]
    outputs: dict[str, OutputRecord]


def quantizer(recipe: BuildRecipe) -> QuantizerRecord:
    """What quantizes a recipe's file in this process."""
    arithmetic = arithmetic_digest() if recipe.sequential else None
    return QuantizerRecord(raq=versions()["raq"], kernels=kernels_digest(), effort=recipe.effort, arithmetic=arithmetic)


def read_build_manifest(path: Path) -> BuildManifest:
    """The manifest in a file. Raises InvalidInput with every fault of it."""
    return read_user_file(path, BuildManifest, "the manifest of a build")


def build_manifest(built: Built, command: Sequence[str], check: Mapping[str, Any] | None) -> dict[str, Any]:
    """The manifest of a build, with paths relative to its folder; `check` is the report of its check as plain data."""
    resolved = built.resolved
    recipe, prepared = resolved.recipe, resolved.prepared
    folder = recipe.output.manifest_path.parent
    written, target = built.written, _relative(recipe.output.file, folder)
    model = None if recipe.model is None else pinned(recipe.model)
    return {
        "format": FORMAT,
        "command": list(command),
        "versions": versions(),
        "host": host(),
        "recipe": recipe.relative_to(folder).as_data(whole=True) | ({"model": model} if model else {}),
        "inputs": {_relative(path, folder): digest for path, digest in prepared.digests.items()},
        "origins": _origins(prepared, model, folder),
        "importance": _importance(prepared),
        "quantizer": quantizer(recipe).model_dump(exclude_none=True),
        "auto": rules_data(resolved),
        "plan": _plan(built),
        "allocation": dict(resolved.allocation.types),
        "outputs": {target: {"sha256": written.sha256, "bytes": written.size}},
        "tensors": {"quantized": len(built.quantized), "reused": len(built.reused)},
        "check": check,
        "corpus": None if prepared.corpus is None else dict(prepared.corpus.provenance),
        "benchmarks": {name: result.as_data() for name, result in built.benchmarks.items()},
        "seconds": dict(built.seconds),
    }


def _origins(prepared: Prepared, model: str | None, folder: Path) -> dict[str, str]:
    """Where the files of the model are from: their names at a commit, of those that come from a hub."""
    origins = {shard: origin_of(shard) or model for shard in prepared.inputs.model.shards}
    return {_relative(shard, folder): origin for shard, origin in origins.items() if origin is not None}


def _importance(prepared: Prepared) -> dict[str, str] | None:
    found = prepared.inputs.importance
    return None if found is None else {"sha256": found.digest(), "fisher_sha256": found.fisher_digest()}


def _plan(built: Built) -> dict[str, Any]:
    resolved, ledger = built.resolved, built.resolved.ledger
    outcome = None if resolved.plan is None else resolved.plan.outcome
    bits = ledger.bits_per_weight
    return {
        "types_from": resolved.recipe.types_from,
        "capacity_bytes": ledger.capacity,
        "bytes": ledger.size,
        "bits_per_weight": None if bits is None else float(bits),
        "loss": ledger.loss,
        "loss_source": resolved.loss_source,
        "termination": None if outcome is None else outcome.termination.name.lower(),
        "bound": None if outcome is None else outcome.bound,
        "lambda": None if outcome is None else outcome.multiplier,
    }


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
