"""The commands of `raq-client` as Typer runs them. A command's module is imported when the command is called."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from raq_client.cli.commands import COMMANDS, Command
from raq_client.cli.describe import described
from raq_client.cli.help import command_help, group_help
from raq_client.cli.reference import Reference, paths

EXIT_NO_COMMAND = 2
NAMES_OF_HELP = {"help_option_names": ["-h", "--help"]}


class LazyCommand(TyperCommand):
    """A command with its help in panels, --help-all, and the program's own options (--quiet, …) after its name too."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(command_help(ctx.command_path, described(ctx)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, unless --help-all is among them."""
        if "--help-all" in args:
            typer.echo(command_help(ctx.command_path, described(ctx), everything=True), nl=False)
            ctx.exit()
        return super().parse_args(ctx, args)


class LazyGroup(TyperGroup):
    """A group of commands from the table: listed without importing them."""

    table: tuple[Command, ...] = COMMANDS
    path: tuple[str, ...] = ()

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands.update({each.name: TyperCommand(each.name, help=each.summary) for each in self.table})

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(group_help(ctx.find_root().command_path, self.path))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; without any, print the help."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit(EXIT_NO_COMMAND)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is called, and load it."""
        name, found, rest = super().resolve_command(ctx, args)
        entry = next((each for each in self.table if each.name == name), None)
        return name, found if entry is None else load(entry), rest


def load(entry: Command) -> Any:
    """The command of an entry of the table, its module imported; a group with its table."""
    if entry.parts:
        kind = type(entry.name, (LazyGroup,), {"table": entry.parts, "path": (entry.name,)})
        return kind(name=entry.name, context_settings=NAMES_OF_HELP)
    module, _, function = entry.target.partition(":")
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(entry.name, cls=LazyCommand, context_settings=NAMES_OF_HELP)(
        getattr(import_module(f"raq_client.cli.{module}"), function)
    )
    command = get_command(app)
    command.params += _verbosity_options()
    return command


def references() -> dict[str, Reference]:
    """The references of all commands, by the words that call them; imports every command."""
    return {
        " ".join(path): described(
            typer.Context(
                load(entry),
                info_name=entry.name,
                resilient_parsing=True,
                help_option_names=NAMES_OF_HELP["help_option_names"],
            )
        )
        for path, entry in paths()
    }


def _set_quiet(quiet: bool) -> None:
    from raq_client.cli import console

    if quiet:
        console.set_verbosity(console.QUIET)


def _set_verbose(verbose: bool) -> None:
    from raq_client.cli import console

    if verbose:
        console.set_verbosity(console.VERBOSE)


def _set_events(wanted: bool) -> None:
    from raq_client.cli import events

    if wanted:
        events.set_events(True)


def _print_version(asked: bool) -> None:
    if asked:
        from raq_client.cli.help import version_text

        typer.echo(version_text())
        raise typer.Exit


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Print results and errors only.", hidden=True)
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_set_verbose, help="Print more, tracebacks too.", hidden=True)
]

Events = Annotated[
    bool,
    typer.Option(
        "--events",
        callback=_set_events,
        is_eager=True,
        help="Print progress and remarks as JSON lines on stderr.",
        hidden=True,
    ),
]


def _verbosity_options() -> list[Any]:
    """--quiet, --verbose and --events as parameters that no command's function is given."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def silent(quiet: Quiet = False, verbose: Verbose = False, events: Events = False) -> None:
        """Do nothing."""

    found = [each for each in get_command(app).params if each.name in {"quiet", "verbose", "events"}]
    for each in found:
        each.expose_value = False
    return found


APP = typer.Typer(
    name="raq-client",
    cls=LazyGroup,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=NAMES_OF_HELP,
)


@APP.callback()
def common(
    quiet: Quiet = False,
    verbose: Verbose = False,
    events: Events = False,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of all commands: their callbacks do what there is to do."""
