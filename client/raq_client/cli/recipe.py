"""`raq-client recipe`: recipes of both kinds listed, shown and verified."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.base import Architecture
from raq_client.cli.check import EXIT_NOT_PASSED
from raq_client.cli.console import OUT, fail, print_json, say
from raq_client.cli.recipe_show import Store, show_build, verify_build
from raq_client.cli.written import check_written
from raq_solver.errors import Fault, InvalidInput

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or file, or a mixture.")]
OptionalTable = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="For recipes that state types: GGUF file (its header is enough) or web address of one, folder of "
        "safetensors, .csv or .map of shapes.",
        show_default=False,
    ),
]


def list_recipes(as_json: options.Json = False) -> None:
    """List the recipes of raq and the mixtures of llama.cpp.

    Mixtures can be used like recipes.

    Example: raq-client recipe list
    """
    from raq_client.models.file_types import FILE_TYPES
    from raq_client.recipes.recipe_file import presets
    from raq_client.reports.tables import facts_table

    if as_json:
        print_json({"recipes": dict(presets()), "mixtures": list(FILE_TYPES)})
        return
    OUT.print(facts_table((*presets().items(), ("mixtures", ", ".join(FILE_TYPES)))))


def show(
    recipe: Name,
    tensors: Annotated[bool, typer.Option("--tensors", help="Of a build recipe: one line for each tensor.")] = False,
    store: Store = None,
    as_json: options.Json = False,
) -> None:
    """Show a recipe: what it states, and what a build would write.

    Of a build recipe: the type of every tensor, paths and exact bytes, from what has been collected and measured;
    nothing is run. Of another: its base, its moves, the recipes it extends; the output of --json is a recipe file
    itself.

    Example: raq-client recipe show ra2
    """
    from raq_client.recipes.build_recipe import BuildRecipe, read_any_recipe
    from raq_client.recipes.recipe_file import ladder
    from raq_client.reports.recipe import recipe_table

    found = read_any_recipe(recipe)
    if isinstance(found, BuildRecipe):
        show_build(found, store, tensors=tensors, as_json=as_json)
        return
    if as_json:
        OUT.out(found.as_json(), end="", highlight=False)
        return
    for step in ladder(found):
        OUT.print(recipe_table(step))


def verify(
    called: typer.Context,
    recipe: Name,
    model: OptionalTable = None,
    model_architecture: Architecture = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the moves into this .svg or .png.", show_default=False),
    ] = None,
    store: Store = None,
    as_json: options.Json = False,
) -> None:
    """Check a recipe before it is built or carried out.

    Of a build recipe: inputs read and hashed, importance, budget, disk, and whether its runtime accepts every type.
    Another is carried out on the table of MODEL, which needs no weights, and every step is shown with the bytes that it
    frees and spends. Exit code 6 if something fails, or a size differs from what the recipe's author says.

    Example: raq-client recipe verify ra4 model-f16.gguf
    """
    from raq_client.models.read_table import read_table
    from raq_client.recipes.build_recipe import BuildRecipe, read_any_recipe
    from raq_client.recipes.steps import carry_out, verify
    from raq_client.reports.recipe import step_dict, steps_table

    check_written(called, {}, {"plot": plot}, force=False)
    found = read_any_recipe(recipe)
    if isinstance(found, BuildRecipe):
        if model is not None or plot is not None:
            raise InvalidInput(Fault(recipe, "is a build recipe, which names its model: give neither MODEL nor --plot"))
        verify_build(found, store, as_json=as_json)
        return
    if model is None:
        raise InvalidInput(Fault("MODEL", f"which model? {recipe} states types only; name a table of tensors"))
    table = read_table(model, model_architecture or "")
    steps = carry_out(found, table)
    _, faults = verify(found, table)
    if as_json:
        print_json({"steps": [step_dict(step, table) for step in steps], "differs": [str(fault) for fault in faults]})
    else:
        OUT.print(steps_table(steps))
    if plot is not None:
        from raq_client.reports.plots import plot_moves, step_bars

        before, after = ({t.name: q.name for t, q in step.types.items()} for step in (steps[0], steps[-1]))
        plot_moves(plot, f"{steps[0].name} to {found.name} on {table.name}", step_bars(steps), 0, before, after)
        say(f"drawn: {plot}")
    for fault in faults:
        fail(f"{found.name}: {fault}")
    if faults:
        raise typer.Exit(EXIT_NOT_PASSED)
