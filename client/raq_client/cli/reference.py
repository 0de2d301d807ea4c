"""What is said of every command and its options, as data: help and completion read it without importing the commands.

`reference.json` is written by `.ci/cli_reference.py` (`just generate`); a test compares it with the commands.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from raq_client.cli.commands import COMMANDS, Command

FILE: Final = os.path.join(os.path.dirname(__file__), "reference.json")  # noqa: PTH118, PTH120  # pathlib is slow to import


class Parameter(NamedTuple):
    """An argument or option: `shown` as help prints it, `facts` its default and range, `values` those to choose from.

    An argument has no `names`; a flag, which takes no value, has no `values`.
    """

    shown: str
    text: str
    facts: str
    names: Sequence[str]
    values: Sequence[str] | None


class Reference(NamedTuple):
    """A command: its docstring, its arguments as its usage names them, and all parameters by panel."""

    text: str
    positions: Sequence[str]
    panels: Mapping[str, Sequence[Parameter]]


def reference_of(path: Sequence[str]) -> Reference | None:
    """The reference of the command at `path`; None if it is a group or there is no such command."""
    with open(FILE, encoding="utf-8") as stream:  # noqa: PTH123
        found = json.load(stream).get(" ".join(path))
    if found is None:
        return None
    panels = {panel: [Parameter(*each) for each in rows] for panel, rows in found["panels"].items()}
    return Reference(found["text"], found["positions"], panels)


def written(references: Mapping[str, Reference]) -> str:
    """The text of `reference.json`: a line for each parameter."""
    plain: dict[str, Any] = {path: each._asdict() for path, each in references.items()}
    rows: list[str] = []

    def row(each: Sequence[Any]) -> str:
        rows.append(json.dumps(each, ensure_ascii=False))
        return f"@{len(rows) - 1}@"

    for each in plain.values():
        each["panels"] = {panel: [row(one) for one in found] for panel, found in each["panels"].items()}
    text = json.dumps(plain, ensure_ascii=False, indent=1)
    for number, line in enumerate(rows):
        text = text.replace(f'"@{number}@"', line, 1)
    return text + "\n"


def paths(
    commands: Sequence[Command] = COMMANDS, above: Sequence[str] = ()
) -> Iterator[tuple[tuple[str, ...], Command]]:
    """Names and entries of all commands of the table, those in groups too."""
    for each in commands:
        path = (*above, each.name)
        if each.parts:
            yield from paths(each.parts, path)
        else:
            yield path, each
