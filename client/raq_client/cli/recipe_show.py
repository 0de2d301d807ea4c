"""Build recipes shown and verified, and the option for the folder in which their stages are kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli.check import EXIT_NOT_PASSED
from raq_client.cli.console import OUT, fail, print_json, say
from raq_client.solver_client.protocol import chosen_server, open_solver

if TYPE_CHECKING:
    from raq_client.building.workshop import Workshop
    from raq_client.recipes.build_recipe import BuildRecipe

Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="FOLDER",
        help="Where stages of builds are kept; else the user's cache folder.",
        show_default=False,
    ),
]


def workshop_in(store: Path | None) -> "Workshop":
    """The workshop in a folder, or the default one."""
    from raq_client.building.workshop import Workshop, default_workshop

    return default_workshop() if store is None else Workshop(store)


def show_build(recipe: "BuildRecipe", store: Path | None, *, tensors: bool, as_json: bool) -> None:
    """Print what a build would write; where that is not known yet, what it states and what is missing."""
    from raq_client.building.inputs import NotMadeError, prepare
    from raq_client.building.resolve import resolve
    from raq_client.reports.build import keys_table, resolved_dict, resolved_report

    try:
        prepared = prepare(recipe, workshop_in(store), makes=False)
        with open_solver(chosen_server(None, recipe.server)) as solver:
            resolved = resolve(prepared, solver, notes=say)
    except NotMadeError as error:
        if as_json:
            print_json({"recipe": recipe.as_data(), "unresolved": [str(fault) for fault in error.faults]})
        else:
            OUT.print(keys_table(recipe))
        for fault in error.faults:
            say(f"types are not known yet: {fault}; raq-client recipe build does it")
        return
    if as_json:
        print_json(resolved_dict(resolved))
    else:
        OUT.print(resolved_report(resolved, tensors=tensors))


def verify_build(recipe: "BuildRecipe", store: Path | None, *, as_json: bool) -> None:
    """Print what a verification found; exit if something fails."""
    from raq_client.building.verify import Level, verify_recipe
    from raq_client.reports.build import findings_table
    from raq_client.reports.plain import plain

    with open_solver(chosen_server(None, recipe.server)) as solver:
        findings = verify_recipe(recipe, workshop_in(store), solver)
    failed = [one for one in findings if one.level is Level.FAIL]
    if as_json:
        print_json({"passed": not failed, "findings": plain(list(findings))})
    else:
        OUT.print(findings_table(findings))
    for one in failed:
        fail(f"{one.what}: {one.text}")
    if failed:
        raise typer.Exit(EXIT_NOT_PASSED)
