"""`raq-client help`: the help of a command, by its name."""

from typing import Annotated

import typer

from raq_client.cli.root import LazyGroup


def show_help(
    called: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND...", help="Name of a command; of one in a group, both names.")
    ] = None,
) -> None:
    """Print the help of a command.

    Example: raq-client help imatrix show
    """
    context = called.find_root()
    for name in command or ():
        if not isinstance(context.command, LazyGroup):
            context.fail(f"No such command '{name}': {context.command_path} has none.")
        _, found, _ = context.command.resolve_command(context, [name])
        context = type(context)(found, info_name=name, parent=context)
    typer.echo(context.get_help())
