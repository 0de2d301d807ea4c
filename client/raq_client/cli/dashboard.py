"""`raq-client dashboard`: the web pages over a folder of models."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli.console import say


def dashboard(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Folder of models, profiles, recipes.", show_default="this one")
    ] = Path(),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0: any that is free.")] = 8484,
    host: Annotated[str, typer.Option("--host", metavar="NAME", help="Name or address to listen on.")] = "127.0.0.1",
) -> None:
    """Show models, plans, builds and comparisons in a browser.

    Prints an address with a token that changes at every start; only who has it can see or do anything. Builds go on
    when the dashboard ends, and are there again when it starts. Needs raq[dashboard].

    Example: raq-client dashboard models --port 8484
    """
    try:
        from raq_client.dashboard.refusal import Refusal
        from raq_client.dashboard.serve import serve
    except ImportError as error:
        _fail("dashboard", f"needs {error.name}: pip install 'raq[dashboard]'")
    if not folder.is_dir():
        _fail(str(folder), "is not a folder")
    try:
        serve(folder, host, port, say)
    except Refusal as error:
        _fail("", str(error))


def _fail(where: str, what: str) -> None:
    # Imported only here: it brings the solver's native code, which the dashboard's process does without.
    from raq_solver.errors import Fault, InvalidInput

    raise InvalidInput(Fault(where, what))
