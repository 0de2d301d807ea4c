"""Help of a command: wrapped once, with words for values, and on one screen."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.main import get_command

from raq_client.cli import reference
from raq_client.cli.commands import COMMANDS
from raq_client.cli.describe import described
from raq_client.cli.help import ONE_SCREEN, command_help, group_help
from raq_client.cli.reference import paths, reference_of, written
from raq_client.cli.root import LazyCommand, references
from support.commands import client

PANEL = {"rich_help_panel": "Of experts"}
EVERY_PATH = [*((each.name,) for each in COMMANDS if each.parts), *(path for path, _ in paths())]
SECRET = "Of no use to most. " + "It is hard to say what for in a few words. " * 4


def paint(
    house: Annotated[str, typer.Argument(metavar="HOUSE", help="What to paint.")],
    rooms: Annotated[list[str] | None, typer.Argument(metavar="ROOM...", help="Where.")] = None,
    coats: Annotated[int, typer.Option("--coats", "-c", min=1, help="Layers.")] = 2,
    gloss: Annotated[float | None, typer.Option("--gloss", min=0, max=1, help="How much it shines.")] = None,
    colour: Annotated[Literal["red", "blue"], typer.Option("--colour", help="Which.")] = "red",
    secret: Annotated[str | None, typer.Option("--secret", **PANEL, help=SECRET)] = None,
) -> None:
    """Paint a house.

    A paragraph that is wrapped in the source is
    wrapped anew for the terminal, once, so that no line of it holds a single
    word.

    Examples:

    raq-client paint cottage --coats 3 --colour blue --gloss 0.5 --secret something-long --coats 4

    raq-client paint castle
    """


def shown(columns: int, function: Any = paint, *, everything: bool = False) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        app = typer.Typer(add_completion=False)
        app.command(cls=LazyCommand)(function)
        context = typer.Context(get_command(app), info_name="raq-client paint")
        return command_help(context.command_path, described(context), everything=everything)


def test_all_of_a_help() -> None:
    assert shown(80).splitlines() == [
        "Usage: raq-client paint [OPTIONS] HOUSE [ROOM...]",
        "",
        "Paint a house.",
        "",
        "A paragraph that is wrapped in the source is wrapped anew for the terminal,",
        "once, so that no line of it holds a single word.",
        "",
        "Examples:",
        "  raq-client paint cottage --coats 3 --colour blue --gloss 0.5 \\",
        "    --secret something-long --coats 4",
        "  raq-client paint castle",
        "",
        "Arguments:",
        "  HOUSE    What to paint.",
        "  ROOM...  Where.",
        "",
        "Options:",
        "  -c, --coats N      Layers. [default: 2; at least 1]",
        "  --gloss NUMBER     How much it shines. [0 to 1]",
        "  --colour red|blue  Which. [default: red]",
        "  --help             Show this message and exit.",
        "",
        "Of experts:",
        "  --secret TEXT  Of no use to most. It is hard to say what for in a few words.",
        "                 It is hard to say what for in a few words. It is hard to say",
        "                 what for in a few words. It is hard to say what for in a few",
        "                 words.",
    ]


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 120])
def test_no_line_is_too_wide(columns: int) -> None:
    lines = shown(columns).splitlines()
    assert max(map(len, lines)) <= min(columns, 100)
    assert " ".join(" ".join(lines).split()).count("wrapped anew for the terminal, once") == 1


@pytest.mark.parametrize(("paragraphs", "named"), [(12, "More options"), (20, "More options and details")])
def test_what_does_not_fit_on_a_screen_is_named_only(
    monkeypatch: pytest.MonkeyPatch, paragraphs: int, named: str
) -> None:
    monkeypatch.setattr(paint, "__doc__", "Paint a house.\n\n" + "\n\n".join(["More of it."] * paragraphs))
    short, full = shown(80), shown(80, everything=True)
    assert "Of no use to most" not in short
    assert short.splitlines()[-2:] == [f"{named}, explained by --help-all:", "  Of experts  --secret"]
    assert "Of no use to most" in full
    assert len(full.splitlines()) > ONE_SCREEN


def test_the_short_form_leaves_details_and_examples_to_help_all(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [f"raq-client paint house-{number}" for number in range(1, 8)]
    parts = ["Paint a house.", *["More of it."] * 7, "Details:", "Paint dries.", "Examples:", *examples]
    monkeypatch.setattr(paint, "__doc__", "\n\n".join(parts))
    short, full = shown(80), shown(80, everything=True)
    assert all(example in full for example in examples)
    assert "\nDetails:\nPaint dries.\n" in full
    assert [example for example in examples if example in short] == examples[:3]
    assert "Paint dries" not in short
    assert "\nMore options, details and examples, explained by --help-all:\n  Of experts  --secret" in short


def test_examples_give_way_to_options(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [f"raq-client paint house-{number}" for number in range(1, 4)]
    parts = ["Paint a house.", *["More of it."] * 10, "Examples:", *examples]
    monkeypatch.setattr(paint, "__doc__", "\n\n".join(parts))
    short = shown(80)
    assert len(short.splitlines()) <= ONE_SCREEN
    assert 0 < sum(example in short for example in examples) < 3
    assert "--gloss" in short


def test_a_short_form_without_more_options_says_what_shows_the_rest() -> None:
    def dry(*, hours: Annotated[int, typer.Option("--hours", help="How long.")] = 1) -> None:
        pass

    dry.__doc__ = "\n\n".join(["Dry.", "Details:", *["It takes long."] * 20])
    short = shown(80, dry)
    assert short.splitlines()[-1] == "More details, explained by --help-all."
    assert "It takes long" not in short


def test_a_screen_too_narrow_for_the_short_form_shows_the_beginning_of_each_text() -> None:
    def dry(
        *,
        hours: Annotated[int, typer.Option("--hours", help="How long, e.g. 2; " + "more is better. " * 20)] = 1,
        warm: Annotated[bool, typer.Option("--warm", help="Heat. " + "It costs more. " * 20)] = False,
    ) -> None:
        pass

    dry.__doc__ = "\n\n".join(["Dry.", *["It takes long, and longer in winter."] * 9, "Example: raq-client dry"])
    wide, narrow, full = shown(100, dry), shown(60, dry), shown(60, dry, everything=True)
    assert "It takes long" in wide
    assert "It takes long" not in narrow
    assert "more is better" in narrow, "texts of options are cut last"
    assert "raq-client dry" in narrow
    assert narrow.splitlines()[-1] == "More details, explained by --help-all."
    narrower = shown(30, dry)
    assert "How long, e.g. 2. [default: 1]" in " ".join(narrower.split())
    assert "more is better" not in narrower
    assert all(text in " ".join(full.split()) for text in ("It takes long", "more is better", "It costs more"))


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("words", [[], *(list(path) for path in EVERY_PATH)], ids=" ".join)
def test_every_help_fits_on_a_screen(monkeypatch: pytest.MonkeyPatch, words: list[str], width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    command = reference_of(words)
    called = " ".join(["raq-client", *words])
    text = group_help("raq-client", words) if command is None else command_help(called, command)
    assert text is not None
    assert text.count("\n") <= ONE_SCREEN
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [60, 80])
def test_every_option_is_explained_or_of_a_named_panel(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for command in (reference_of(path) for path, _ in paths()):
        assert command is not None
        short, full = (command_help("it", command, everything=everything) for everything in (False, True))
        for panel, rows in command.panels.items():
            assert " ".join(panel.split()) in " ".join(short.split())
            assert all(each.shown in full for each in rows)
            if panel in {"Arguments", "Options"}:
                assert all(each.shown in short for each in rows)


def test_the_table_of_help_and_completion_is_that_of_the_commands() -> None:
    assert Path(reference.FILE).read_text(encoding="utf-8") == written(references()), "run `just generate`"


@pytest.mark.parametrize(
    "words", [("solve", "--help"), ("imatrix", "show", "-h"), ("run", "--help-all"), ("help", "run")]
)
def test_help_is_answered_without_the_modules_of_commands(words: tuple[str, ...]) -> None:
    code = f"""
import sys
sys.argv = {["raq-client", *words]}
from raq_client.cli.app import main
try:
    main()
finally:
    print(sorted({{"typer", "numpy", "pydantic", "rich"}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert result.stdout.startswith(client(*words).out)


def test_help_behind_other_options_is_that_of_the_command() -> None:
    assert client("solve", "--json", "--help").out == client("solve", "--help").out


def test_help_all_is_an_option_of_every_command() -> None:
    result = client("run", "--help-all")
    assert result.code == 0
    assert "--max-loss" in client("solve", "--help-all").out
    assert all(panel in result.out for panel in ("Options:", "Arguments:"))
    assert client("run", "--help").out.count("\n") <= ONE_SCREEN


def test_there_is_no_reference_of_groups_and_unknown_commands() -> None:
    assert reference_of(["imatrix"]) is None
    assert reference_of(["nothing"]) is None
