"""The commands of `raq-client` by their names. No logic."""

from typing import Annotated

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
