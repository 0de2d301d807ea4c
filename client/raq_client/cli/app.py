"""`raq-client`: the commands, and what becomes of errors. No logic."""

import sys
from collections.abc import Sequence
from typing import Annotated, Final, NoReturn

import typer

from raq_client.cli import (
    base,
    check,
    collect,
    compare,
    explain,
    imatrix,
    ladder,
    profile,
    quantize,
    recipe,
    run,
    sensitivity,
    sensitivity_import,
    solve,
    sweep,
    vram,
)
from raq_solver.errors import InvalidInput, RaqError, ServiceError

EXIT_BUG: Final = 1
EXIT_BAD_INPUT: Final = 2
EXIT_UNREACHABLE: Final = 5
EXIT_INTERRUPTED: Final = 130

FAULTS_SHOWN: Final = 20
"""Lines printed of an error that names many faults; of the rest, the number."""

APP = typer.Typer(
    name="raq-client",
    help="Which quant type for which tensor: the provably best GGUF quantization under a budget, made and measured.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
APP.command(name="run")(run.run)
APP.command(name="profile")(profile.profile)
APP.command(name="solve")(solve.solve)
APP.command(name="quantize")(quantize.quantize)
APP.command(name="check")(check.check)
APP.command(name="ladder")(ladder.ladder)
APP.command(name="base")(base.base)
APP.command(name="vram")(vram.vram)
APP.add_typer(imatrix.APP, name="imatrix")
imatrix.APP.command(name="collect")(collect.collect)
APP.add_typer(recipe.APP, name="recipe")
APP.command(name="compare")(compare.compare)
APP.command(name="sweep")(sweep.sweep)
APP.command(name="explain")(explain.explain)
APP.command(name="audit")(explain.audit)
APP.command(name="sensitivity")(sensitivity.sensitivity)
APP.command(name="sensitivity-import")(sensitivity_import.sensitivity_import)


def _version(*, asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"raq-client {version('raq')}")
        raise typer.Exit


@APP.callback()
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Options of all commands."""
    _version(asked=version)


def main() -> NoReturn:
    """Entry point of `raq-client`: runs a command and turns errors into one sentence and an exit code."""
    try:
        APP()
    except RaqError as error:
        complain(str(error).splitlines())
        sys.exit(exit_code(error))
    except OSError as error:  # of the machine, where no file that the user named is at fault: standard output, mostly
        complain([f"{error.filename or 'standard output'}: {error.strerror or error}"])
        sys.exit(EXIT_BAD_INPUT)
    except SystemExit as end:  # also Typer's own answer to Ctrl-C, which says nothing
        if end.code == EXIT_INTERRUPTED:
            typer.echo("raq-client: interrupted; nothing is left half-written", err=True)
        raise
    sys.exit(0)


def complain(lines: Sequence[str]) -> None:
    """Say what is wrong on stderr, a line for each fault."""
    rest = len(lines) - FAULTS_SHOWN
    more = [f"and {rest} more faults like these"] if rest > 1 else lines[FAULTS_SHOWN:]
    for line in [*lines[:FAULTS_SHOWN], *more]:
        typer.echo(f"raq-client: {line}", err=True)


def exit_code(error: RaqError) -> int:
    """The exit code of an error."""
    if isinstance(error, InvalidInput):
        return EXIT_BAD_INPUT
    return EXIT_UNREACHABLE if isinstance(error, ServiceError) else EXIT_BUG
