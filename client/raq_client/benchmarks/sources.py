"""Get the file of a benchmark from its source: its bytes, and what identifies them."""

import gzip
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from raq_client.benchmarks.registry import FileSource, GeneratorSource, PackageSource, Source, UrlSource
from raq_solver.errors import Fault, InvalidInput

_SECONDS: Final = 60
_GENERATORS: Final = "reasoning-gym"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as its source gave it: where it is from, at which revision, its name there, its bytes."""

    source: str
    revision: str
    file: str
    data: bytes

    def lines(self) -> str:
        """Its lines of JSON. Raises InvalidInput if it is neither UTF-8 nor such a text compressed by gzip."""
        try:
            data = gzip.decompress(self.data) if self.data[:2] == b"\x1f\x8b" else self.data
            return data.decode()
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise InvalidInput(Fault(self.source, f"{self.file} can't be read as text: {error}")) from error


def get_file(source: Source, folder: Path) -> SourceFile:
    """The file of a source; files of the user's own are relative to `folder`.

    Raises InvalidInput if it can't be had, with the way to have it.
    """
    match source:
        case UrlSource():
            return _from_url(source)
        case PackageSource():
            return _from_package(source)
        case GeneratorSource():
            return _generated(source)
        case FileSource():
            path = folder / source.file
            try:
                return SourceFile("file", "", source.file.name, path.read_bytes())
            except OSError as error:
                raise InvalidInput(Fault(str(path), f"can't be read: {error.strerror}")) from error


def _from_url(source: UrlSource) -> SourceFile:
    url = source.url.replace("{revision}", source.revision)
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310  # http and https only: the registry
            return SourceFile(source.url, source.revision, url.rpartition("/")[2], answer.read())
    except (OSError, urllib.error.URLError) as error:
        raise InvalidInput(Fault(url, f"can't be fetched: {getattr(error, 'reason', None) or error}")) from error


def _from_package(source: PackageSource) -> SourceFile:
    try:
        found = distribution(source.package)
    except PackageNotFoundError as error:
        what = f"the package is not installed: pip install {source.package}"
        raise InvalidInput(Fault(source.package, what)) from error
    try:
        data = Path(str(found.locate_file(source.file))).read_bytes()
    except OSError as error:
        what = f"version {found.version} has no {source.file}: {error.strerror}"
        raise InvalidInput(Fault(source.package, what)) from error
    return SourceFile(source.package, found.version, source.file, data)


def _generated(source: GeneratorSource) -> SourceFile:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        what = f"the package is not installed: pip install {_GENERATORS}"
        raise InvalidInput(Fault(_GENERATORS, what)) from error
    if source.generator not in DATASETS:
        raise InvalidInput(Fault(source.generator, f"is no generator of this version of {_GENERATORS}"))
    try:
        rows = reasoning_gym.create_dataset(source.generator, seed=source.seed, size=source.size, **source.config)
        lines = [json.dumps({"question": row["question"], "answer": row["answer"]}) for row in rows]
    except (AssertionError, TypeError, ValueError) as error:  # of a wrong config
        raise InvalidInput(Fault(source.generator, f"can't be generated: {error}")) from error
    settings = {"seed": source.seed, "size": source.size, **source.config}
    name = f"{source.generator}?{'&'.join(f'{key}={value}' for key, value in settings.items())}"
    return SourceFile(_GENERATORS, distribution(_GENERATORS).version, name, "\n".join(lines).encode())
