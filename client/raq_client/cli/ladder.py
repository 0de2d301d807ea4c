"""`raq-client ladder`: several steps, each quantized and checked against the one before."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raq_client.cli import options
from raq_client.cli.base import Table
from raq_client.cli.base_options import BaseOptions, MemoryOptions
from raq_client.cli.console import OUT, print_json, progress_bar, say
from raq_client.cli.groups import CheckOptions, MeasureOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.written import check_written
from raq_client.engine.texts import read_texts
from raq_client.files.settings import Settings, read_settings
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.planning.plan import Request, Sources
    from raq_client.refinement.ladder import LadderSetup, Rung, StepResult


@spread
def ladder(
    called: typer.Context,
    model: Table,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="Replay this recipe's steps.", show_default=False)
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", "-b", help="Or solve for this budget; one for each step.", show_default=False),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", "-o", help="Write the steps here, and ladder.json.", show_default=False)
    ] = None,
    *,
    measure: MeasureOptions,
    loss: options.Loss = None,
    checks: CheckOptions,
    nested: Annotated[
        bool, typer.Option("--nested", help="Budgets: no tensor gets fewer bytes than in the step before.")
    ] = False,
    climb_all: Annotated[bool, typer.Option("--all", help="Go on after a step that gains nothing.")] = False,
    force: options.Force = False,
    as_json: options.Json = False,
    around: BaseOptions,
) -> None:
    """Climb a ladder: quantize step after step, check each against the one before, stop where nothing is gained.

    Steps are those of a recipe (and of the recipes it extends), or the optimum of each budget. Without --folder they
    are only shown. A step gains when its KL divergence is lower than the one before beyond noise (paired bootstrap;
    all verdicts together with 95 % confidence).

    Examples:

    raq-client ladder model-f16.gguf --recipe ra4 -i reasoning.gguf -t held-out.txt -o ladder

    raq-client ladder model-f16.gguf -b 4.5 -b 5.0 -b 5.5 -i imatrix.gguf -t held-out.txt -o ladder
    """
    from raq_client.models.read_table import read_table
    from raq_client.planning.plan import Request
    from raq_client.recipes.recipe_file import read_recipe
    from raq_client.refinement.ladder import recipe_rungs
    from raq_client.reports.ladder import ladder_dict, ladder_table

    settings = read_settings(Path.cwd())
    _check_folder(called, folder, settings, {})
    if bool(recipe) == bool(budget):
        raise InvalidInput(Fault("", "which ladder? Give either a --recipe or a --budget for each step"))
    sources = measure.of_model(Path(model), settings)
    request = Request(loss=loss or settings.loss, around=around.around(settings, MemoryOptions()))
    rungs = (
        recipe_rungs(read_recipe(recipe), read_table(model))
        if recipe
        else _solved(sources, request, budget or [], nested=nested)
    )
    climbed: list[StepResult] = []
    if folder is not None:
        paths = checks.texts(settings)
        route = _route(Path(model), folder, paths, sources, measure, checks, force=force)
        _check_folder(called, folder, settings, {f"step {rung.name}": route.path(rung) for rung in rungs})
        climbed = _climbed(rungs, route, climb_all=climb_all)
        _keep_manifest(route, paths, ladder_dict(rungs, climbed))
    if as_json:
        print_json(ladder_dict(rungs, climbed))
    else:
        OUT.print(ladder_table(rungs, climbed))
    _say_end(climbed)


def _route(
    model: Path,
    folder: Path,
    texts: list[Path],
    sources: "Sources",
    measure: MeasureOptions,
    checks: CheckOptions,
    *,
    force: bool,
) -> "LadderSetup":
    from raq_client.models.model_file import open_model
    from raq_client.planning.plan import importance_of
    from raq_client.refinement.ladder import LadderSetup

    opened = open_model(model)
    return LadderSetup(
        model=opened,
        importance=importance_of(opened, sources.imatrix),
        folder=folder,
        texts=read_texts(texts),
        windows=checks.windows,
        context=checks.check_context,
        effort=measure.effort,
        threads=measure.threads,
        device=sources.device,
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
            raise InvalidInput(Fault(str(there), "is no folder; name another to write the steps into"))
        written = {"folder": there / "ladder.json"} | steps  # by the name of its parameter, as it is not read
        check_written(called, {}, written, force=False, also=settings.files())


def _say_end(climbed: "list[StepResult]") -> None:
    """Why the ladder ends where it does, if its last step gained nothing."""
    if climbed and climbed[-1].step is not None and not climbed[-1].gains:
        step, before = climbed[-1].step, climbed[-2].rung.name
        say(f"{climbed[-1].rung.name} against {before}: {step.verdict.value}; the ladder ends here")


def _solved(sources: "Sources", request: "Request", budgets: list[str], *, nested: bool) -> "tuple[Rung, ...]":
    """The optimum of each budget, from one profile."""
    from raq_client.planning.plan import make_plan, model_table, obtain_profile, widened
    from raq_client.refinement.ladder import solved_rungs

    profile = obtain_profile(widened(sources, request.around), progress_bar, say)
    table = model_table(sources, profile)
    plans = [make_plan(profile, replace(request, budget=budget), table) for budget in budgets]
    return solved_rungs(list(zip(budgets, plans, strict=True)), nested=nested)


def _climbed(rungs: "tuple[Rung, ...]", route: "LadderSetup", *, climb_all: bool) -> "list[StepResult]":
    """The rungs as far as they gain something, each behind two progress bars."""
    from raq_client.refinement.ladder import climb

    found: list[StepResult] = []
    with ExitStack() as bars:

        def bar(verb: str) -> "Callable[[Rung], Callable[[int, int], None]]":
            return lambda rung: bars.enter_context(progress_bar(f"{verb} {rung.name}"[:22]))

        for one in climb(rungs, route, bar("writing"), bar("checking")):
            found.append(one)
            bars.close()
            if not one.gains and not climb_all:
                break
    return found


def _keep_manifest(route: "LadderSetup", texts: list[Path], result: dict[str, Any]) -> None:
    from raq_client.files.manifest import make_manifest, write_manifest

    inputs = [*route.model.shards, *texts]
    outputs = [Path(step["file"]) for step in result["steps"] if "file" in step]
    imatrix = {"imatrix": None if route.importance is None else route.importance.digest()}
    write_manifest(make_manifest(sys.argv, inputs, outputs, result | imatrix), route.folder / "ladder.json")
