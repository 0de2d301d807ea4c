"""Manifests: inputs, outputs and versions of a run, so that it can be repeated and verified."""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from raq_client.files.atomic_file import atomic_file

FORMAT: Final = "raq-manifest-1"
_LIBRARIES: Final = ("gguf", "numpy", "ortools", "xllamacpp")


def make_manifest(
    command: Sequence[str], inputs: Iterable[Path], outputs: Iterable[Path], result: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest of a run: its command, SHA-256 of every input and output file, versions, and the result."""
    return {
        "format": FORMAT,
        "command": list(command),
        "versions": versions(),
        "inputs": {str(path): file_digest(path) for path in inputs},
        "outputs": {str(path): file_digest(path) for path in outputs},
        **result,
    }


def versions() -> dict[str, str]:
    """The versions of raq and of the libraries that results depend on."""
    return {"raq": version("raq")} | {name: found for name in _LIBRARIES if (found := _version(name))}


def host() -> dict[str, Any]:
    """The machine, as far as it may matter for a result; without its name."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
    }


def write_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    """Write a manifest as JSON, replacing an older one."""
    with atomic_file(path, force=True) as file:
        file.write(json.dumps(manifest, indent=1, allow_nan=False).encode() + b"\n")


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError

    try:
        return version(name)
    except PackageNotFoundError:
        return None
