"""`raq-client inspect`: what model files hold."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.app import EXIT_BAD_INPUT
from raq_client.cli.console import OUT, print_json


def inspect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="GGUF files; of a split model, any shard.")],
    with_tensors: Annotated[bool, typer.Option("--tensors", help="With --json: every tensor too.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show what GGUF files hold: sizes, blocks, types.

    Equal blocks are one line. Exit code 2 if a file can't be read; the others are shown all the same.

    Example: raq-client inspect model-f16.gguf
    """
    from raq_client.reports.contents import contents, contents_report

    found = [contents(path, with_tensors=with_tensors) for path in files]
    if as_json:
        print_json(found)
    else:
        for number, each in enumerate(found):
            OUT.print(*([""] if number else []), contents_report(each), sep="\n")
    if any(each["kind"] == "unreadable" for each in found):
        raise typer.Exit(EXIT_BAD_INPUT)
