"""Completion answers what the scripts of Typer ask, in each shell's form."""

import pytest

from raq_client.cli import completion
from raq_client.cli.commands import COMMANDS, IMATRIX
from raq_client.cli.reference import Parameter, Reference
from support.commands import client

VARIABLE = "_RAQ_CLIENT_COMPLETE"


@pytest.fixture(autouse=True)
def _called_raq_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["raq-client"])


def bash(monkeypatch: pytest.MonkeyPatch, line: str) -> str:
    """What TAB at the end of a line gets."""
    monkeypatch.setenv(VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    result = client()
    assert (result.code, result.err) == (0, "")
    return result.out


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("raq-client ", [each.name for each in COMMANDS]),
        ("raq-client s", [each.name for each in COMMANDS if each.name.startswith("s")]),
        ("raq-client -q so", ["solve"]),
        ("raq-client imatrix ", [each.name for each in IMATRIX]),
        ("raq-client imatrix s", ["show"]),
        ("raq-client nothing-like-it", []),
    ],
)
def test_names_in_bash(monkeypatch: pytest.MonkeyPatch, line: str, names: list[str]) -> None:
    assert bash(monkeypatch, line).split() == names


def test_options_and_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bash(monkeypatch, "raq-client compare --w").split() == ["--windows"]
    assert "-m" in bash(monkeypatch, "raq-client compare a.gguf -").split()
    assert bash(monkeypatch, "raq-client imatrix show --by z").split() == ["zone"]
    assert bash(monkeypatch, "raq-client imatrix show --by zone ") == "\n"
    assert bash(monkeypatch, "raq-client compare --context ") == "\n"
    assert bash(monkeypatch, "raq-client compare mod") == "\n"  # the shell completes files


def test_options_of_the_program_are_left_to_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--version" in bash(monkeypatch, "raq-client --v").split()


def test_forms_of_other_shells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "raq-client prof")
    monkeypatch.setenv(VARIABLE, "complete_zsh")
    said = "Measure the error of every tensor at every quant type."
    assert completion.completion() == f"""_arguments '*: :(("profile":"{said.replace("'", "")}"))'"""
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv(VARIABLE, "complete_fish")
    assert completion.completion() == f"profile\t{said}"
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "raq-client imatrix ")
    found = completion.completion()
    assert found is not None
    assert [line.split("\t")[0] for line in found.splitlines()] == [each.name for each in IMATRIX]


def test_zsh_and_fish_are_told_where_files_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "raq-client compare ")
    monkeypatch.setenv(VARIABLE, "complete_zsh")
    assert completion.completion() == "_files"
    monkeypatch.setenv(VARIABLE, "complete_fish")
    for line, code in (("raq-client compare ", 1), ("raq-client compare --w", 0), ("raq-client ", 0)):
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "is-args")
        assert client().code == code


def test_help_in_zsh_can_not_end_its_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Parameter("--one TEXT", "a 'b' \"c\" $(d) `e`: f", "", ["--one"], [])
    monkeypatch.setattr(completion, "reference_of", lambda _path: Reference("", [], {"Options": [one]}))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "raq-client compare -")
    monkeypatch.setenv(VARIABLE, "complete_zsh")
    assert completion.completion() == r"""_arguments '*: :(("--one":"a b c (d) e\\: f"))'"""


def test_a_program_of_another_name_asks_by_another_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_RAQ_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "raq comp")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert completion.completion() is None
    monkeypatch.setattr("sys.argv", ["/usr/bin/raq"])
    assert completion.completion() == "compare"


def test_the_script_is_typers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "source_bash")
    assert completion.completion() is None
    assert completion.is_asked()
    assert VARIABLE in client().out
