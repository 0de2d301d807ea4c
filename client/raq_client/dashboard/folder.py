"""The folder of a dashboard: its files by kind, and the only way from a name in a request to a path."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from raq_client.dashboard.refusal import Refusal

STATE: Final = ".raq"
"""Folder for the state of the dashboard: jobs, their logs, digests."""
MOST_FILES: Final = 5_000
"""Files beyond which a folder is not listed further."""
DEEPEST: Final = 3
"""Folders within folders that are looked into."""
_HEAD: Final = 4096
"""Bytes at the start of a JSON or TOML file in which its format is looked for."""
_FORMATS: Final = {
    b'"raq-profile-1"': "profile",
    b'"raq-manifest-1"': "manifest",
    b'"raq-build-1"': "manifest",
    b'"raq-recipe-1"': "recipe",
    b'"raq-recipe-2"': "recipe",
    b'"termination"': "plan",
}
_NAMED: Final = {"raq.toml": "settings"}
_ENDINGS: Final = {".gguf": "gguf", ".dat": "importance", ".txt": "text", ".jsonl": "text", ".md": "text"}


@dataclass(frozen=True, slots=True)
class File:
    """A file of the folder: its name relative to the folder, kind, size in bytes, and time of change in seconds.

    `kind` is gguf, importance, profile, plan, manifest, recipe, settings, text; files of other kinds are not listed.
    """

    name: str
    kind: str
    size: int
    changed: float


class Folder:
    """A folder that files are read from and written to, and nowhere else."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def path(self, name: str) -> Path:
        """The path of a file by its name relative to the folder; it need not be there.

        Raises Refusal for a name that leads out of the folder, by `..`, an absolute path or a link, and for one that no
        file should have.
        """
        if not name or "\0" in name or "\\" in name or not name.isprintable():
            raise Refusal("a file's name must be plain text")
        if name.startswith(("/", "-")) or ".." in PurePosixPath(name).parts:
            raise Refusal(f"{name}: is not a file of this folder")
        try:
            path = (self.root / name).resolve()
        except (OSError, RuntimeError):
            raise Refusal(f"{name}: is not a file of this folder") from None
        if not path.is_relative_to(self.root) or STATE in path.relative_to(self.root).parts:
            raise Refusal(f"{name}: leads out of this folder")
        return self.root / name

    def existing(self, name: str) -> Path:
        """The path of a file that is there. Raises Refusal otherwise."""
        path = self.path(name)
        if not path.is_file():
            raise Refusal(f"{name}: there is no such file", 404)
        return path

    def files(self) -> list[File]:
        """The files that raq can use, by name. Links that lead out of the folder are not followed, nor listed."""
        found = []
        for path, state in _walk(self.root, self.root, 0):
            kind = kind_of(path)
            if kind is not None:
                name = path.relative_to(self.root).as_posix()
                found.append(File(name, kind, state.st_size, state.st_mtime))
            if len(found) >= MOST_FILES:
                break
        return sorted(found, key=lambda each: each.name)


def kind_of(path: Path) -> str | None:
    """What a file is by its ending, or the format in its first bytes; None if raq has no use for it."""
    named = _NAMED.get(path.name) or _ENDINGS.get(path.suffix)
    if named is not None or path.suffix not in {".json", ".toml"}:
        return named
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    named = "recipe" if path.stem.endswith(".recipe") else None
    return next((kind for mark, kind in _FORMATS.items() if mark in head), named)


def _walk(root: Path, folder: Path, depth: int) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda each: each.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith((".", "-")) or not entry.name.isprintable():
            continue
        path = Path(entry.path)
        try:
            if entry.is_symlink() and not path.resolve().is_relative_to(root):
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < DEEPEST:
                    yield from _walk(root, path, depth + 1)
            elif entry.is_file():
                yield path, entry.stat()
        except (OSError, RuntimeError):
            continue  # it went away meanwhile, may not be read, or is a circle of links
