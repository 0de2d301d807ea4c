"""`raq-client ladder`: several steps, each quantized and checked against the previous one."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raq_client import pipeline
from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, say
from raq_client.cli.follow import followed
from raq_client.cli.groups import CheckOptions, MeasureOptions, project_model
from raq_client.cli.option_groups import spread
from raq_client.cli.problem_options import ProblemOptions
from raq_client.cli.progress import progress_bar
from raq_client.cli.written import check_written
from raq_client.files.settings import Settings, read_settings
from raq_client.prompts.texts import read_texts_for
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.planning.model_inputs import ModelInputs
    from raq_client.publishing.card import About
    from raq_client.refinement.ladder import LadderSetup, Rung, StepResult
    from raq_client.refinement.landmarks import MeasuredMixture

MANIFEST: Final = "ladder.json"
REPORTS_PANEL: Final = "Reports"


@spread
def ladder(
    called: typer.Context,
    model: options.OptionalTable = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="Replay this recipe's steps.", show_default=False)
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", "-b", help="Or solve for this budget; repeat it for each step.", show_default=False),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", "-o", help="Write the steps here, and ladder.json.", show_default=False)
    ] = None,
    *,
    measure: MeasureOptions,
    sequential: options.Sequential = False,
    posed: ProblemOptions,
    checks: CheckOptions,
    nested: Annotated[
        bool, typer.Option("--nested", help="No tensor gets fewer bytes than in the step before.")
    ] = False,
    climb_all: Annotated[bool, typer.Option("--all", help="Continue after a step that gains nothing.")] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="MIXTURE",
            rich_help_panel=REPORTS_PANEL,
            help="Measure llama.cpp's mixture (as Q4_K_M) too; 'nearest': that nearest each step's size.",
            show_default=False,
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            "--card",
            metavar="ORG/NAME",
            rich_help_panel=REPORTS_PANEL,
            help="Write the steps' model card too; ORG/NAME: the repository that is quantized.",
            show_default=False,
        ),
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Quantize several steps and check each against the last.

    The steps are those of a recipe (and of the recipes it extends), or the optimum of each budget. Without --folder
    they are only shown. Stops at the first step that gains nothing: whose KL divergence is not significantly lower than
    that of the previous step (paired bootstrap, 95 % confidence of all verdicts together).

    Examples:

    raq-client ladder model-f16.gguf --recipe ra4 -i reasoning.gguf -t held-out.txt -o ladder

    raq-client ladder model-f16.gguf -b 4.5 -b 5.0 -b 5.5 -i imatrix.gguf -t held-out.txt -o ladder

    raq-client ladder model-f16.gguf -b 4.5 -b 5.5 -i i.gguf -t held-out.txt -o ladder --against nearest --card org/name
    """
    from raq_client.models.read_table import read_table
    from raq_client.recipes.recipe_file import read_recipe
    from raq_client.refinement.ladder import recipe_rungs
    from raq_client.reports.ladder import ladder_dict, ladder_table

    settings = read_settings(Path.cwd())
    about = _about(card, folder, force=force)
    against = _mixtures(against, folder)
    _check_folder(called, folder, settings, {})
    if bool(recipe) == bool(budget):
        raise InvalidInput(Fault("", "which ladder? Give either a --recipe or a --budget for each step"))
    if recipe and nested:
        raise InvalidInput(Fault("--nested", "is for budgets; a recipe defines its own steps"))
    if sequential and folder is None:
        raise InvalidInput(Fault("--sequential", "is how files are written: give --folder"))
    named = model or str(project_model(None, settings))
    inputs = replace(measure.inputs_of(Path(named), settings), sequential=sequential)
    rungs = (
        recipe_rungs(read_recipe(recipe), read_table(named))
        if recipe
        else _solved(inputs, budget or [], posed, settings, nested=nested)
    )
    climbed: list[StepResult] = []
    mixtures: list[MeasuredMixture] = []
    if folder is not None:
        paths = checks.texts(settings)
        setup = _setup(inputs, folder, paths, checks, force=force)
        _check_folder(called, folder, settings, {f"step {rung.name}": setup.path(rung) for rung in rungs})
        climbed = _climbed(rungs, setup, climb_all=climb_all)
        mixtures = _beside(against, climbed, setup)
        _keep_manifest(setup, paths, ladder_dict(rungs, climbed, mixtures))
        if about is not None:
            _write_card(folder, about, force=force)
    if as_json:
        print_json(ladder_dict(rungs, climbed, mixtures))
    else:
        OUT.print(ladder_table(rungs, climbed, mixtures))
    _say_end(climbed)


def _mixtures(names: list[str] | None, folder: Path | None) -> list[str]:
    """What --against names. Raises InvalidInput, before any work, for what is no mixture, or if nothing is measured."""
    from raq_client.models.file_types import file_type
    from raq_client.refinement.landmarks import NEAREST

    if names and folder is None:
        raise InvalidInput(Fault("--against", "is measured as the steps are: give --folder"))
    for name in names or ():
        if name != NEAREST:
            file_type(name)
    return names or []


def _about(card: str | None, folder: Path | None, *, force: bool) -> "About | None":
    """What --card says. Raises InvalidInput, before any work, if it names no repository, or if a card is there."""
    if card is None:
        return None
    if folder is None:
        raise InvalidInput(Fault("--card", "is written beside the steps: give --folder"))
    from raq_client.files.output_checks import check_output
    from raq_client.publishing.card import CARD, About, picture_of

    for path in (folder / CARD, picture_of(folder / CARD)):
        if path.exists():
            check_output(path, force=force)
    return About(card.removeprefix("hf:"))


def _write_card(folder: Path, about: "About", *, force: bool) -> None:
    from raq_client.publishing.card import CARD, write_card
    from raq_client.publishing.release import read_release

    write_card(read_release([folder / MANIFEST]), about, folder / CARD, force=force)


def _setup(
    inputs: "ModelInputs", folder: Path, texts: list[Path], checks: CheckOptions, *, force: bool
) -> "LadderSetup":
    from raq_client.refinement.ladder import LadderSetup

    return LadderSetup(
        model=inputs.model,
        rounding=inputs.rounding,
        folder=folder,
        texts=read_texts_for(inputs.model.path, texts, library=checks.libllama),
        windows=checks.windows,
        context=checks.context,
        library=checks.libllama,
        force=force,
    )


def _check_folder(called: typer.Context, folder: Path | None, settings: Settings, steps: dict[str, Path]) -> None:
    """Raise InvalidInput if the folder can't be written or made, or a file to be written there is read too."""
    if folder is not None:
        if steps:
            folder.mkdir(parents=True, exist_ok=True)
        there = next((each for each in (folder, *folder.absolute().parents) if each.exists()), folder)
        if not there.is_dir():
            raise InvalidInput(Fault(str(there), "is not a folder; give another one for the steps"))
        written = {"folder": there / MANIFEST} | steps  # by the name of its parameter, as it is not read
        check_written(called, {}, written, force=False, also=settings.files())


def _say_end(climbed: "list[StepResult]") -> None:
    """Print why the ladder ends, if its last step gained nothing."""
    if climbed and climbed[-1].step is not None and not climbed[-1].gains:
        step, before = climbed[-1].step, climbed[-2].rung.name
        say(f"{climbed[-1].rung.name} against {before}: {step.verdict.value}; the ladder ends here")


def _solved(
    inputs: "ModelInputs", budgets: list[str], posed: ProblemOptions, settings: Settings, *, nested: bool
) -> "tuple[Rung, ...]":
    """The rungs with the optimum of each budget, from one profile."""
    from raq_client.planning.build_problem import build_problem
    from raq_client.planning.plan import solve_plan
    from raq_client.refinement.ladder import solved_rungs

    requests = [posed.request(settings, budget) for budget in budgets]
    with followed() as progress:
        first = pipeline.pose(inputs, requests[0], progress=progress, notes=say)
    assert first.profile is not None, "a model has a profile"
    table = inputs.table(first.profile)
    specs = [build_problem(request, first.profile, table, base=first.base) for request in requests]
    with posed.solver(settings) as solver:
        plans = [solve_plan(spec, solver, posed.limits) for spec in specs]
        named = list(zip(budgets, plans, strict=True))
        return solved_rungs(named, solver, posed.limits, nested=nested)


def _climbed(rungs: "tuple[Rung, ...]", setup: "LadderSetup", *, climb_all: bool) -> "list[StepResult]":
    """Quantize and measure rungs until one gains nothing, with two or three progress bars for each."""
    from raq_client.refinement.ladder import climb

    found: list[StepResult] = []
    with ExitStack() as bars:

        def bar(verb: str) -> "Callable[[Rung], Callable[[int, int], None]]":
            return lambda rung: bars.enter_context(progress_bar(f"{verb} {rung.name}"[:22]))

        for one in climb(rungs, setup, bar("writing"), bar("checking"), bar("rounding")):
            found.append(one)
            bars.close()
            if not one.gains and not climb_all:
                break
    return found


def _beside(names: list[str], climbed: "list[StepResult]", setup: "LadderSetup") -> "list[MeasuredMixture]":
    """Quantize and measure llama.cpp's mixtures, with two progress bars for each."""
    from raq_client.refinement.landmarks import measured_mixtures

    if not names:
        return []
    found: list[MeasuredMixture] = []
    with ExitStack() as bars:

        def bar(verb: str) -> "Callable[[str], Callable[[int, int], None]]":
            return lambda name: bars.enter_context(progress_bar(f"{verb} {name}"[:22]))

        sizes = [one.rung.size for one in climbed]
        for one in measured_mixtures(names, sizes, setup, bar("writing"), bar("checking")):
            found.append(one)
            bars.close()
    return found


def _keep_manifest(setup: "LadderSetup", texts: list[Path], result: dict[str, Any]) -> None:
    from raq_client.files.manifest import make_manifest, write_manifest

    inputs = [*setup.model.shards, *texts]
    outputs = [Path(step["file"]) for step in result["steps"] if "file" in step]
    importance = setup.rounding.importance
    about = {
        "imatrix": None if importance is None else importance.digest(),
        "texts": [path.name for path in texts],
        "context": setup.context,
    }
    write_manifest(make_manifest(sys.argv, inputs, outputs, result | about), setup.folder / MANIFEST)
