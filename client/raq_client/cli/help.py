"""Help texts: of the program and its groups from the table of commands, of a command from its reference.

Every paragraph is wrapped once, for the width of the terminal. Imports little, as `--help` is to be quick.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any, Final

from raq_client.cli.commands import COMMANDS, MORE
from raq_client.cli.reference import Parameter, Reference

SUMMARY: Final = "Choose the best quant type for every tensor of a GGUF model, and prove it."
OPTIONS: Final = (
    ("-q, --quiet", "Print results and errors only: no remarks, no progress."),
    ("-v, --verbose", "Print versions, time and memory too, and tracebacks."),
    ("--events", "Print progress and remarks as JSON lines on stderr."),
    ("-V, --version", "Print the version."),
    ("-h, --help", "Print this help, or that of the command before it."),
    ("--install-completion", "Install completion for this shell."),
)
ONE_SCREEN: Final = 40
"""Lines of a help text above which a command's panels of options are only named; --help-all explains them."""
WIDEST: Final = 100
"""Columns beyond which lines would be hard to read."""
NAMES_WIDTH: Final = 26
"""Most columns of the names of options and commands; what is said of longer ones begins on a line of its own."""


_TIED: Final = "\u00a0"
"""A blank that no line is broken at, while lines are being made."""


def program() -> str:
    """The name that this program was called by."""
    name = os.path.basename(sys.argv[0])  # noqa: PTH119  # pathlib takes as long to import as all the rest
    if name == "__main__.py":
        return "python -m raq_client"
    return name.removesuffix(".exe") if name not in {"", "-c"} else "raq-client"


def version_text() -> str:
    """The program's name and version."""
    from importlib.metadata import version

    return f"{program()} {version('raq')}"


def group_help(name: str, path: Sequence[str]) -> str | None:
    """Help of the program called `name`, or of the group of commands at `path` in it; None if that is no group."""
    summary, commands = SUMMARY, COMMANDS
    for part in path:
        found = next((each for each in commands if each.name == part and each.parts), None)
        if found is None:
            return None
        summary, commands = found.summary, found.parts
    rows = [] if path else list(OPTIONS)
    lines = [*_usage(" ".join([name, *path, *(["[OPTIONS]"] if rows else []), "COMMAND [ARGS]..."]))]
    lines += ["", *_paragraphs(summary)]
    names = max(len(row[0]) for row in (*commands, *rows))
    for panel in dict.fromkeys(command.panel for command in commands):
        members = [(command.name, command.summary) for command in commands if command.panel == panel]
        lines += ["", _heading(panel or "Commands")]
        if panel == MORE:  # only named: a screen has no room for what is seldom asked for
            lines += ["  " + line for line in wrap(", ".join(name for name, _ in members), width() - 2)]
        else:
            lines += _definitions(members, names)
    if rows:
        lines += ["", _heading("Options"), *_definitions(rows, names)]
    return "\n".join(lines) + "\n"


def command_help(called: str, command: Reference, *, everything: bool = False) -> str:
    """Help of a command that was called by the words `called`: usage, description, arguments, options.

    Panels of options are only named, with their options if there is room, where not all fits on one screen; unless
    `everything` is wanted.
    """
    description, _, examples = command.text.partition("Example")
    head = [
        *_usage(" ".join([called, "[OPTIONS]", *command.positions])),
        "",
        *_paragraphs(description),
        *_examples(examples),
    ]
    panels = {name: [(each.shown, _said(each)) for each in rows] for name, rows in command.panels.items()}
    common = {name: rows for name, rows in panels.items() if name in {"Arguments", "Options"}}
    full = head + [line for name, rows in panels.items() for line in ("", _heading(name), *_definitions(rows))]
    if everything or len(full) <= ONE_SCREEN or common == panels:
        return "\n".join(full) + "\n"
    lines = head + [line for name, rows in common.items() for line in ("", _heading(name), *_definitions(rows))]
    lines += ["", _heading("More options, explained by --help-all")]
    rest = {name: rows for name, rows in panels.items() if name not in common}
    named = _definitions([(name, ", ".join(_long(row[0]) for row in rows)) for name, rows in rest.items()])
    briefly = ["  " + line for line in wrap(", ".join(rest), width() - 2)]
    return "\n".join(lines + (named if len(lines) + len(named) <= ONE_SCREEN else briefly)) + "\n"


def _said(parameter: Parameter) -> str:
    """What is said of an option, its default and range behind it, which no line break parts."""
    return f"{parameter.text} {parameter.facts.replace(' ', _TIED)}" if parameter.facts else parameter.text


def width() -> int:
    """Columns of the terminal, or COLUMNS; at most WIDEST. 80 where there is neither."""
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and int(wanted):
        return min(int(wanted), WIDEST)
    try:
        columns = os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ is not None else 1).columns
    except (OSError, ValueError):
        columns = 0
    return min(columns or 80, WIDEST)


def _long(names: str) -> str:
    """The long name of an option."""
    return next((name for name in names.replace(",", " ").split() if name.startswith("--")), names)


def _usage(text: str) -> list[str]:
    first, *others = wrap(f"Usage: {text}", width(), subsequent_indent=" " * 7, break_on_hyphens=False)
    return [_heading("Usage") + first.removeprefix("Usage:"), *others]


def _paragraphs(text: str) -> list[str]:
    """Paragraphs, each wrapped as one, with empty lines between."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += ["", *wrap(" ".join(paragraph.split()), width(), break_on_hyphens=False)]
    return lines[1:]


def _examples(text: str) -> list[str]:
    """The examples of a docstring, `: COMMAND` or `s:` and commands in paragraphs, ready to be copied."""
    commands = [" ".join(each.split()) for each in text.removeprefix("s").removeprefix(":").split("\n\n")]
    lines = []
    for each in filter(None, commands):
        indented = wrap(each, width() - 4, break_on_hyphens=False, break_long_words=False)
        lines += ["  " + indented[0], *("    " + line for line in indented[1:])]
        lines[-len(indented) : -1] = [line + " \\" for line in lines[-len(indented) : -1]]
    return ["", _heading("Examples" if text.startswith("s") else "Example"), *lines] if lines else []


def _definitions(rows: Iterable[tuple[str, str]], names: int | None = None) -> list[str]:
    """Names and what is said of them, in two columns."""
    rows = list(rows)
    widest = min(names or max(len(name) for name, _ in rows), NAMES_WIDTH, width() // 2)
    indent = " " * (2 + widest + 2)
    lines = []
    for name, text in rows:
        said = [line.replace(_TIED, " ") for line in wrap(text, width() - len(indent), break_on_hyphens=False)] or [""]
        if len(name) > widest:
            lines += ["  " + _bold(name), *(indent + line for line in said if line)]
        else:
            lines.append(f"  {_bold(name)}{' ' * (widest - len(name))}  {said[0]}".rstrip())
            lines += [indent + line for line in said[1:]]
    return lines


def _heading(text: str) -> str:
    return _styled(text + ":", "1;32")


def _bold(text: str) -> str:
    return _styled(text, "1;36")


def _styled(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if _in_colour() else text


def _in_colour() -> bool:
    stream: Any = sys.stdout
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and stream is not None and stream.isatty()
