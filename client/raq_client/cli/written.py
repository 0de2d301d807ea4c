"""Check of a command's outputs before any work: they can be written, and none is a file that the command reads."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import typer

from raq_client.files.output_checks import check_output, is_same_file
from raq_client.files.settings import FILE_NAME
from raq_solver.errors import Fault, InvalidInput

NOTHING: Final[Mapping[str, Path | None]] = {}
_SHARD: Final = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})\.gguf")
_MOST_SHARDS: Final = 10_000


def check_written(
    called: typer.Context,
    made: Mapping[str, Path | None],
    replaced: Mapping[str, Path | None] = NOTHING,
    *,
    force: bool,
    also: Iterable[Path | str] = (),
) -> None:
    """Raise InvalidInput if a file that the command is to write can't be written, or is another that it deals with.

    `made` and `replaced` are files to write by the names of their parameters; those `made` must not exist unless
    `force`. What the command reads is every other parameter that names a file that is there, with all shards of a
    split model, raq.toml, and what it reads `also`.
    """
    outputs = {name: path for name, path in (*made.items(), *replaced.items()) if path is not None}
    given = [value for name, value in called.params.items() if name not in outputs]
    inputs = [path for value in (*given, *also, Path(FILE_NAME)) for path in files_named(value)]
    seen: list[Path] = []
    for name, path in outputs.items():
        for other in seen:
            if is_same_file(path, other):
                raise InvalidInput(Fault(str(path), f"is where {other} is to be written too; name another file"))
        check_output(path, force=force or name in replaced, inputs=inputs)
        seen.append(path)


def files_named(value: Any) -> Iterator[Path]:
    """The files that an argument names: FILE, FILE:WEIGHT, DOMAIN=FILE, a shard of several, several in a list."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from files_named(each)
    elif isinstance(value, str | Path):
        text = str(value)
        for name in dict.fromkeys((text, text.rpartition(":")[0], text.partition("=")[2])):
            yield from _files_at(Path(name)) if name else ()


def _files_at(path: Path) -> Iterator[Path]:
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, ValueError):  # a text that is no name at all
        return
    if is_folder:
        yield from (each for each in path.iterdir() if each.is_file())
    elif is_there:
        yield path
        yield from _shards(path)


def _shards(path: Path) -> Iterator[Path]:
    """The files of a split model, given one of them."""
    found = _SHARD.fullmatch(path.name)
    if found is None:
        return
    count = min(int(found["count"]), _MOST_SHARDS)
    names = (f"{found['stem']}-{number:05}-of-{found['count']}.gguf" for number in range(1, count + 1))
    yield from (shard for name in names if (shard := path.with_name(name)).exists())
