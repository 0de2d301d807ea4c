"""Write the reference of the command lines, which is what their --help prints, or check that the committed pages are.

Usage: python .ci/cli_reference.py [--check]
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from raq_client.cli.commands import COMMANDS, Command
from raq_client.cli.help import command_help, group_help
from raq_client.cli.root import load
from raq_server.cli import APP

PAGES = Path(__file__).resolve().parent.parent / "docs" / "reference"
TERMINAL = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}


def client_page() -> str:
    """The help of raq-client, and all of that of each command."""
    root = typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)), info_name="raq-client")
    return page([("raq-client", group_help("raq-client", ()) or ""), *client_helps(COMMANDS, root)])


def client_helps(commands: Iterable[Command], above: Any) -> Iterator[tuple[str, str]]:
    """Names and helps of commands, those in groups too."""
    for entry in commands:
        command = load(entry)
        context = typer.Context(command, info_name=entry.name, parent=above)
        if entry.parts:
            yield from client_helps(entry.parts, context)
        else:
            yield context.command_path, command_help(context, everything=True)


def server_page() -> str:
    """The help of raq-server and of its commands."""
    names = getattr(typer.main.get_command(APP), "commands", ())
    return page((" ".join(["raq-server", *words]), server_help(words)) for words in ([], *([name] for name in names)))


def server_help(words: list[str]) -> str:
    """What raq-server prints when these words stand before --help."""
    code = "import sys; sys.argv[0] = 'raq-server'; from raq_server.cli import main; main()"
    command = [sys.executable, "-c", code, *words, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


def page(helps: Iterable[tuple[str, str]]) -> str:
    """A page with a section for each command; the first is the program itself."""
    parts = []
    for number, (title, text) in enumerate(helps):
        lines = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
        parts.append(f"{'##' if number else '#'} {title}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Write, or compare; 1 when a committed page is not what the commands print."""
    os.environ.update(TERMINAL)
    stale = []
    for name, text in (("raq-client.md", client_page()), ("raq-server.md", server_page())):
        path = PAGES / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if "--check" not in sys.argv:
        return 0
    for name in stale:
        print(f"docs/reference/{name} is not what `just generate` writes", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
