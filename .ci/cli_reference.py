"""Write the reference of the command lines, which is what their --help prints, or check that it is current.

Two pages of the documentation, and the table that raq-client's help and completion read (raq_client.cli.reference).

Usage: python .ci/cli_reference.py [--check]
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import typer

from raq_client.cli import reference
from raq_client.cli.help import command_help, group_help
from raq_client.cli.reference import Reference
from raq_client.cli.root import references
from raq_server.cli import APP

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"
TERMINAL = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}


def client_page(known: Mapping[str, Reference]) -> str:
    """The help of raq-client, and all of that of each command."""
    helps = [(f"raq-client {path}", each) for path, each in known.items()]
    commands = [(called, command_help(called, each, everything=True)) for called, each in helps]
    return page([("raq-client", group_help("raq-client", ()) or ""), *commands])


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
    known = references()
    wanted = {
        PAGES / "raq-client.md": client_page(known),
        PAGES / "raq-server.md": server_page(),
        Path(reference.FILE): reference.written(known),
    }
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" in sys.argv:
            print(f"{path.relative_to(ROOT)} is not what `just generate` writes", file=sys.stderr)
        else:
            path.write_text(wanted[path], encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
