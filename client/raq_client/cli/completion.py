"""Completion for the scripts that `raq-client --install-completion` writes, without loading Typer for every TAB.

Names of commands come from the table. Options and their values come from the commands, which take long to import; they
are remembered in the user's cache, by the version and the times of the modules here, and asked of the commands once.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from raq_client.cli.commands import COMMANDS, Command
from raq_client.cli.help import program

FLAGS: Final = ("-q", "--quiet", "-v", "--verbose", "--events")
_HERE: Final = os.path.dirname(__file__)  # noqa: PTH120  # pathlib takes longer to import than all the rest


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
            return _of_command(found, path, list(words), request.begun)
        table = found.parts
    if request.begun.startswith("-"):
        return None
    return [Candidate(each.name, each.summary) for each in table]


def _of_command(command: Command, path: Sequence[str], before: Sequence[str], begun: str) -> list[Candidate] | None:
    """Options of a command, or values of the option before the cursor, or of an argument."""
    if command.name == "help":
        return None
    options = _options(command, path)
    last = before[-1] if before else ""
    taking = next((each for each in options if last in each["names"] and each["values"] is not None), None)
    if taking is not None:
        return [Candidate(value) for value in taking["values"]]
    if begun.startswith("-"):
        return [Candidate(name, each["help"]) for each in options for name in each["names"]]
    return [Candidate(value) for each in options if not each["names"] for value in each["values"]]


def _options(command: Command, path: Sequence[str]) -> list[Any]:
    """Names, help and values of a command's options and arguments, from the cache or else from the command."""
    from platformdirs import user_cache_dir

    folder = os.path.join(user_cache_dir("raq"), "completion")  # noqa: PTH118
    file = os.path.join(folder, f"{'.'.join(path)}.json")  # noqa: PTH118
    try:
        with open(file, encoding="utf-8") as stream:  # noqa: PTH123
            kept = json.load(stream)
        if kept["state"] == _state():
            options: list[Any] = kept["options"]
            return options
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none yet, or it can't be read
    options = _asked_of_command(command)
    try:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        partial = f"{file}.{os.getpid()}"
        with open(partial, "w", encoding="utf-8") as stream:  # noqa: PTH123
            json.dump({"state": _state(), "options": options}, stream)
        os.replace(partial, file)  # noqa: PTH105
    except OSError:
        pass  # the next TAB is as slow as this one
    return options


def _state() -> list[str | int]:
    """What changes whenever an option may have changed: the place and the newest time of the modules of commands."""
    with os.scandir(_HERE) as entries:
        return [_HERE, max(entry.stat().st_mtime_ns for entry in entries if entry.name.endswith(".py"))]


def _asked_of_command(command: Command) -> list[Any]:
    import typer

    from raq_client.cli.root import load

    loaded = load(command)
    context = typer.Context(loaded, resilient_parsing=True)
    found = []
    for each in loaded.get_params(context):
        is_option = each.param_type_name == "option"
        if not getattr(each, "hidden", False):
            takes = not is_option or not (each.is_flag or each.count)
            values = [str(item.value) for item in each.shell_complete(context, "") if item.value] if takes else None
            names = [*each.opts, *each.secondary_opts] if is_option else []
            found.append({"names": names, "help": getattr(each, "help", None) or "", "values": values})
    return found


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
