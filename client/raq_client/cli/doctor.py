"""`raq-client doctor`: what raq finds on this machine."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import typer

from raq_client.cli import options
from raq_client.cli.app import EXIT_BAD_INPUT
from raq_client.cli.console import OUT, print_json
from raq_solver.errors import InvalidInput

_EXTRAS: Final = {
    "bench": "reasoning-gym",
    "capture": "httpx",
    "cluster": "ray",
    "dashboard": "uvicorn",
    "hub": "huggingface_hub",
    "plot": "matplotlib",
    "remote": "grpcio",
    "server": "sqlalchemy",
    "solver": "ortools",
}
"""Extras of the package that commands need, with a library that each brings."""
_LITTLE_ROOM: Final = 2**30
"""Free bytes of a disk below which doctor warns."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `trouble` is what to do about it, empty if nothing is wrong."""

    name: str
    found: str
    trouble: str = ""


def doctor(libllama: options.Library = None, as_json: options.Json = False) -> None:
    """Show what raq finds on this machine.

    Versions, processor, GPU, libllama, cache, disk. Exit code 2 if something is missing that the commands need.

    Example: raq-client doctor
    """
    findings = [*_versions(), *_processor(), *_gpus(), *_libllama(libllama), *_folders()]
    if as_json:
        print_json([_plain(each) for each in findings])
    else:
        begin = max(len(each.name) for each in findings) + 2
        for each in findings:
            text = f"{each.found}  ! {each.trouble}" if each.trouble else each.found
            # Not a table, which would break paths.
            lines = wrap(text, OUT.console.width - begin, break_long_words=False, break_on_hyphens=False)
            OUT.print(f"{each.name:<{begin}}" + f"\n{' ' * begin}".join(lines), soft_wrap=True)
    if any(each.trouble for each in findings):
        raise typer.Exit(EXIT_BAD_INPUT)


def _plain(finding: Finding) -> dict[str, Any]:
    return {"name": finding.name, "found": finding.found, "trouble": finding.trouble}


def _versions() -> Iterator[Finding]:
    from raq_client.files.manifest import versions

    yield Finding("versions", ", ".join(f"{name} {number}" for name, number in versions().items()))
    yield Finding("system", f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    for extra, library in _EXTRAS.items():
        try:
            yield Finding(f"extra {extra}", f"{library} {version(library)}")
        except PackageNotFoundError:
            yield Finding(f"extra {extra}", f"not installed (pip install 'raq[{extra}]')")


def _processor() -> Iterator[Finding]:
    import raq_native

    kernels = ", ".join(raq_native.instruction_sets())
    yield Finding("processor", f"{os.cpu_count()} cores; kernels for it: {kernels}")


def _gpus() -> Iterator[Finding]:
    import raq_native

    if not raq_native.cuda_built:
        yield Finding("GPU", "this build has no CUDA kernels; tensors are quantized on the processor")
        return
    devices = raq_native.cuda_devices()
    if not devices:
        yield Finding("GPU", "no CUDA device; tensors are quantized on the processor")
    for device in devices:
        what = f"cuda:{device.number} {device.name}, {device.memory_bytes:,} bytes"
        yield Finding("GPU", what if device.usable else f"{what}, too old for the kernels (7.5 is needed)")


def _libllama(library: Path | None) -> Iterator[Finding]:
    from raq_client.engine.library import open_library

    try:
        opened = open_library(library)
    except InvalidInput as error:
        yield Finding("libllama", "none that can be used", "; ".join(map(str, error.faults)))
        return
    yield Finding("libllama", f"{opened.version}, {opened.path}")


def _folders() -> Iterator[Finding]:
    from platformdirs import user_cache_path

    from raq_client.files.cache_folders import cache_parts

    cache = user_cache_path("raq")
    try:
        yield Finding("cache", f"{cache}: {sum(part.size for part in cache_parts(cache)):,} bytes")
    except InvalidInput as error:
        yield Finding("cache", str(cache), str(error))
    there = next(each for each in (cache, *cache.parents) if each.exists())
    for name, folder in (("disk of the cache", there), ("disk of this folder", Path.cwd())):
        free = shutil.disk_usage(folder).free
        trouble = "" if free >= _LITTLE_ROOM else "less than 1 GiB is free; remove files, or see raq-client cache clean"
        writable = "" if os.access(folder, os.W_OK) else f"{folder} can't be written"
        yield Finding(name, f"{free:,} bytes free", trouble or writable)
