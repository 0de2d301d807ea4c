"""Options in groups: Typer sees each field, the command its group."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from raq_client.cli.option_groups import spread


@dataclass(frozen=True)
class Speed:
    fast: Annotated[bool, typer.Option("--fast")] = False
    laps: Annotated[int, typer.Option("--laps", min=1)] = 3


@spread
def drive(car: str, colour: Annotated[str, typer.Option("--colour")] = "red", *, speed: Speed) -> None:
    """Drive a car."""
    typer.echo(f"{car} {colour} {speed}")


APP = typer.Typer()
APP.command()(drive)


def run(*arguments: str) -> str:
    return CliRunner().invoke(APP, arguments).output


def test_a_group_arrives_as_one_value() -> None:
    assert run("beetle", "--laps", "7", "--colour", "blue") == "beetle blue Speed(fast=False, laps=7)\n"
    assert run("beetle", "--fast") == "beetle red Speed(fast=True, laps=3)\n"


def test_help_and_ranges_are_those_of_the_fields() -> None:
    assert "--laps" in run("--help")
    assert "Drive a car." in run("--help")
    refused = CliRunner().invoke(APP, ["beetle", "--laps", "0"])
    assert refused.exit_code == 2
    assert "--laps" in refused.output
