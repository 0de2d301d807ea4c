"""Completion for the scripts that `raq-client --install-completion` writes, without loading Typer for every TAB.

Names of commands come from the table, options and their values from the reference.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from raq_client.cli.commands import COMMANDS
from raq_client.cli.help import program
from raq_client.cli.reference import reference_of

FLAGS: Final = ("-q", "--quiet", "-v", "--verbose", "--events")


class Request(NamedTuple):
    """What a shell asks: `begun` is the word at the cursor, `before` are the words from the program's name to it."""

    shell: str
    before: Sequence[str]
    begun: str


class Candidate(NamedTuple):
    """A word that may stand at the cursor, and what is said of it."""

    word: str
    help: str = ""


def is_asked() -> bool:
    """Whether a shell asks for a completion or a script of it."""
    return bool(_instruction())


def completion() -> str | None:
    """What to print for a shell that asks; None where it asks for what only Typer knows, or not at all.

    The request stands in the environment: `_RAQ_CLIENT_COMPLETE=complete_SHELL`, and the words of the line in
    COMP_WORDS and COMP_CWORD (bash) or _TYPER_COMPLETE_ARGS (zsh, fish).
    """
    request = _request()
    if request is None:
        return None
    found = _candidates(request)
    if found is None:
        return None
    found = [each for each in found if each.word.startswith(request.begun)]
    if os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
        sys.exit(0 if found else 1)
    return _FORMATS[request.shell](found)


def _instruction() -> str:
    return os.environ.get(f"_{program().replace('-', '_').upper()}_COMPLETE", "")


def _request() -> Request | None:
    shell = _instruction().removeprefix("complete_")
    if shell == "bash":
        words, at = os.environ.get("COMP_WORDS", "").split(), int(os.environ.get("COMP_CWORD", "0"))
        return Request(shell, words[1:at], "".join(words[at : at + 1]))
    if shell in {"zsh", "fish"}:
        line = os.environ.get("_TYPER_COMPLETE_ARGS", "")
        words = line.split()[1:]
        if not words or line.endswith(" "):
            return Request(shell, words, "")
        return Request(shell, words[:-1], words[-1])
    return None


def _candidates(request: Request) -> list[Candidate] | None:
    """The words that may stand at the cursor; None where only Typer knows, as of the program's own options."""
    table, path = COMMANDS, []
    words = iter(request.before)
    for word in words:
        if word in FLAGS:
            continue
        found = next((each for each in table if each.name == word), None)
        if found is None:
            return None
        path.append(word)
        if not found.parts:
            return _of_command(path, list(words), request.begun)
        table = found.parts
    if request.begun.startswith("-"):
        return None
    return [Candidate(each.name, each.summary) for each in table]


def _of_command(path: Sequence[str], before: Sequence[str], begun: str) -> list[Candidate] | None:
    """Options of a command, or values of the option before the cursor, or of an argument."""
    command = reference_of(path)
    if command is None or path == ["help"]:
        return None
    options = [each for rows in command.panels.values() for each in rows]
    last = before[-1] if before else ""
    taking = next((each for each in options if last in each.names and each.values is not None), None)
    if taking is not None:
        return [Candidate(value) for value in taking.values or ()]
    if begun.startswith("-"):
        return [Candidate(name, f"{each.text} {each.facts}".strip()) for each in options for name in each.names]
    return [Candidate(value) for each in options if not each.names for value in each.values or ()]


def _bash(found: Iterable[Candidate]) -> str:
    return "\n".join(each.word for each in found)


def _zsh(found: Sequence[Candidate]) -> str:
    if not found:
        return "_files"
    described = (f'"{_for_zsh(each.word)}"' + f':"{_for_zsh(each.help)}"' * bool(each.help) for each in found)
    return "_arguments '*: :((" + "\n".join(described) + "))'"


def _for_zsh(text: str) -> str:
    """A text within single and double quotes that is evaluated: no quotes or expansions, colons escaped."""
    for character in "'\"`$\\":
        text = text.replace(character, "")
    return text.replace(":", r"\\:")


def _fish(found: Iterable[Candidate]) -> str:
    return "\n".join(f"{each.word}\t{' '.join(each.help.split())}".rstrip() for each in found)


_FORMATS: Final = {"bash": _bash, "zsh": _zsh, "fish": _fish}
