"""Help texts: of the program and its groups from the table of commands, of a command from its reference.

Every paragraph is wrapped once, for the width of the terminal. Imports little, as `--help` is to be quick.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import Any, Final

from raq_client.cli.commands import COMMANDS, MORE, Command
from raq_client.cli.reference import Parameter, Reference

SUMMARY: Final = "Choose the best quant type for every tensor of a GGUF model, and prove it."
OPTIONS: Final = (
    ("-q, --quiet", "Print only results and errors."),
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
SHORT_EXAMPLES: Final = 3
"""Most examples of a help text that would not fit on a screen; --help-all has the others."""
COMMON: Final = frozenset({"Arguments", "Options"})
"""Panels that every help text explains."""
NAMES_WIDTH: Final = 26
"""Most columns of the names of options and commands; what is said of longer ones begins on a line of its own."""


_TIED: Final = "\u00a0"
"""A blank that no line is broken at, while lines are being made."""
_CLAUSE: Final = re.compile(r"(?<!e\.g)[.;:](?= )")
"""The end of the first clause of what is said of an option, where more follows."""
_VALUE: Final = re.compile(r"( --?[a-z][a-z-]*) (?=[^->])")
"""An option of an example before its value."""


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
    usage = _usage(" ".join([name, *path, *(["[OPTIONS]"] if rows else []), "COMMAND [ARGS]..."]))
    above = [*usage, "", *_paragraphs(summary)]
    panels = list(dict.fromkeys(command.panel for command in commands))
    lines: list[str] = []
    for explained in range(len(panels), 0, -1):
        lines = above + _panels(commands, panels, explained, rows)
        if len(lines) <= ONE_SCREEN:
            break
    return "\n".join(lines) + "\n"


def _panels(
    commands: Sequence[Command], panels: Sequence[str], explained: int, rows: list[tuple[str, str]]
) -> list[str]:
    """The commands by panel, those of the first `explained` panels with what they do, and the options in `rows`."""
    names = max(len(row[0]) for row in (*commands, *rows))
    lines: list[str] = []
    for number, panel in enumerate(panels):
        members = [(command.name, command.summary) for command in commands if command.panel == panel]
        lines += ["", _heading(panel or "Commands")]
        if panel == MORE or number >= explained:  # only named: a screen has no room for what is seldom asked for
            lines += ["  " + line for line in wrap(", ".join(name for name, _ in members), width() - 2)]
        else:
            lines += _definitions(members, names)
    return [*lines, "", _heading("Options"), *_definitions(rows, names)] if rows else lines


def command_help(called: str, command: Reference, *, everything: bool = False) -> str:
    """Help of a command that was called by the words `called`: usage, description, arguments, options.

    Where not all fits on one screen, and `everything` is not wanted: without the paragraphs behind `Details:`, with
    some of the examples, and with panels of options only named, with their options if there is room. On a narrow
    screen, where that is too long as well, only the beginning of each text is left.
    """
    full = _form(called, command)
    if everything or len(full) <= ONE_SCREEN:
        return "\n".join(full) + "\n"
    fewer = [(command, examples) for examples in range(SHORT_EXAMPLES, 0, -1)]
    less = [*fewer, *((shorter, 1) for shorter in _shorter(command))]
    forms = (_form(called, what, examples, options=options) for what, examples in less for options in (True, False))
    form: list[str] = []
    for form in forms:
        if len(form) <= ONE_SCREEN:
            break
    return "\n".join(form) + "\n"


def _shorter(command: Reference) -> Iterator[Reference]:
    """The command with the first paragraph of its text, the others as details; then with a clause of each text too."""
    summary, _, rest = command.text.partition("\n\n")
    command = command._replace(text=f"{summary}\n\nDetails:\n\n{rest.replace('Details:', '')}")
    yield command
    panels = {
        panel: [each._replace(text=f"{_CLAUSE.split(each.text)[0].rstrip('.')}.") for each in rows]
        for panel, rows in command.panels.items()
    }
    yield command._replace(panels=panels)


def _form(called: str, command: Reference, examples: int | None = None, *, options: bool = True) -> list[str]:
    """The lines of all of a command's help; or, given how many examples, of its short form.

    In the short form, options beside the common ones are named by their panels, and by themselves if `options`.
    """
    text, _, shown = command.text.partition("Example")
    text, _, details = text.partition("Details:")
    panels = {name: [(each.shown, _said(each)) for each in rows] for name, rows in command.panels.items()}
    rest = {name: rows for name, rows in panels.items() if examples is not None and name not in COMMON}
    lines = [*_usage(" ".join([called, "[OPTIONS]", *command.positions])), "", *_paragraphs(text)]
    if examples is None and details:
        lines += ["", _heading("Details"), *_paragraphs(details)]
    some, cut = _examples(shown, examples)
    lines += some
    for name in (name for name in panels if name not in rest):
        lines += ["", _heading(name), *_definitions(panels[name])]
    left_out = {"options": rest, "details": examples is not None and details, "examples": cut}
    more = f"More {_listed([what for what, there in left_out.items() if there])}, explained by --help-all"
    if rest:
        lines += ["", _heading(more)]
        named = _definitions([(name, ", ".join(_long(row[0]) for row in rows)) for name, rows in rest.items()])
        return lines + (named if options else ["  " + line for line in wrap(", ".join(rest), width() - 2)])
    return lines + (["", more + "."] if any(left_out.values()) else [])


def _listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them: `options, details and examples`."""
    *others, last = words or [""]
    return f"{', '.join(others)} and {last}" if others else last


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


def _examples(text: str, most: int | None) -> tuple[list[str], bool]:
    """The examples of a docstring, `: COMMAND` or `s:` and commands in paragraphs, ready to be copied.

    No more than `most` of them; and whether there are more.
    """
    commands = [" ".join(each.split()) for each in text.removeprefix("s").removeprefix(":").split("\n\n")]
    found = [each for each in commands if each]
    kept = found[:most]
    lines = []
    for each in kept:
        tied = _VALUE.sub(rf"\1{_TIED}", each)
        indented = wrap(tied, width() - 4, break_on_hyphens=False, break_long_words=False)
        indented = [line.replace(_TIED, " ") for line in indented]
        lines += ["  " + indented[0], *("    " + line for line in indented[1:])]
        lines[-len(indented) : -1] = [line + " \\" for line in lines[-len(indented) : -1]]
    heading = "Example" if len(kept) == 1 else "Examples"
    return ["", _heading(heading), *lines] if lines else [], len(kept) < len(found)


def _definitions(rows: Iterable[tuple[str, str]], names: int | None = None) -> list[str]:
    """Names and what is said of them, in two columns: names take `names` columns, or else what needs fewest lines."""
    rows = list(rows)
    most = min(NAMES_WIDTH, width() // 2)
    if names is None:
        fitting = sorted({len(name) for name, _ in rows if len(name) <= most}, reverse=True) or [most]
        return min((_columns(rows, widest) for widest in fitting), key=len)
    return _columns(rows, min(names, most))


def _columns(rows: Sequence[tuple[str, str]], widest: int) -> list[str]:
    """Names and what is said of them, in a column of this width and one beside it; longer names on their own lines."""
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
