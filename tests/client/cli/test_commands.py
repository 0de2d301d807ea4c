"""The table of commands says what is true of the commands, and asking it loads none of them."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module

import pytest

from raq_client.cli.commands import COMMANDS, Command
from raq_client.cli.help import ONE_SCREEN
from raq_client.cli.root import load
from support.commands import client

HEAVY = ("numpy", "pydantic", "rich", "typer", "raq_solver", "raq_native", "grpc")
"""What takes long to import."""


def leaves(commands: tuple[Command, ...] = COMMANDS) -> Iterator[Command]:
    for each in commands:
        yield from leaves(each.parts) if each.parts else (each,)


@pytest.mark.parametrize("entry", list(leaves()), ids=lambda entry: entry.target)
def test_a_summary_is_the_first_line_of_the_docstring(entry: Command) -> None:
    module, _, function = entry.target.partition(":")
    documented = inspect.getdoc(getattr(import_module(f"raq_client.cli.{module}"), function))
    assert documented is not None
    assert documented.splitlines()[0] == entry.summary


@pytest.mark.parametrize("entry", list(leaves()), ids=lambda entry: entry.target)
def test_every_command_loads_and_has_an_example(entry: Command) -> None:
    command = load(entry)
    assert command.name == entry.name
    assert "raq-client" in command.help.partition("Example")[2]


def quick(*arguments: str) -> str:
    """The output of a fresh process, after which nothing heavy is loaded."""
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: sys.stderr.write(' '.join(m for m in {HEAVY} if m in sys.modules)))\n"
        "from raq_client.cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("help",), ("imatrix", "-h"), ("help", "recipe")])
def test_help_of_groups_loads_no_command(arguments: tuple[str, ...]) -> None:
    group = [each for each in arguments if each.isalpha() and each != "help"]
    table = next((each.parts for each in COMMANDS if [each.name] == group), COMMANDS)
    shown = quick(*arguments)
    assert {each.name for each in table} <= set(re.findall(r"[\w-]+", shown))


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_loads_no_command(flag: str) -> None:
    name, _, version = quick(flag).partition(" ")
    assert name == "raq-client"
    assert version.strip().count(".") == 2
    assert client("-q", flag).out == quick(flag)


def test_help_fits_on_a_screen_and_in_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (60, 80, 100, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = client("--help").out.splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) <= ONE_SCREEN
        assert all(not line or line == line.rstrip() for line in lines)


def test_a_group_alone_prints_its_help_and_fails() -> None:
    for words in ((), ("imatrix",), ("-q", "recipe")):
        result = client(*words)
        assert (result.code, result.err) == (2, "")
        assert result.out == client(*words[-1:], "--help").out


def test_help_of_a_command_by_name() -> None:
    for words in (("compare",), ("imatrix", "show")):
        by_name, by_option = client("help", *words), client(*words, "--help")
        assert by_name.code == by_option.code == 0
        assert by_name.out == by_option.out
        assert f"Usage: raq-client {' '.join(words)} [OPTIONS]" in by_name.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rnu",), "No such command 'rnu'. Did you mean 'run'?"),
        (("imatrix", "shwo"), "No such command 'shwo'. Did you mean 'show'?"),
        (("help", "rnu"), "No such command 'rnu'. Did you mean 'run'?"),
        (("help", "compare", "show"), "No such command 'show': raq-client compare has none."),
        (("compare", "--txet", "x"), "No such option: --txet"),
    ],
)
def test_mistakes_are_named(words: tuple[str, ...], said: str) -> None:
    result = client(*words)
    assert result.code == 2
    assert said in result.err
    assert result.out == ""


def test_python_can_run_the_package() -> None:
    done = subprocess.run([sys.executable, "-m", "raq_client", "-h"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: python -m raq_client [OPTIONS] COMMAND")
