"""`raq-client recipe` for build recipes: written, built, replayed, compared; their schema."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli import options
from raq_client.cli.check import EXIT_NOT_PASSED
from raq_client.cli.console import OUT, fail, print_json, say
from raq_client.cli.follow import followed
from raq_client.cli.machine_options import MachineOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.recipe_show import Store, workshop_in
from raq_client.cli.written import check_written
from raq_client.solver_client.protocol import chosen_server, open_solver
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raq_client.building.build import Built, HowToBuild
    from raq_client.building.units import BuildUnits
    from raq_client.building.workshop import Workshop
    from raq_client.recipes.build_recipe import BuildRecipe
    from raq_client.recipes.recipe_file import Recipe
    from raq_client.reports.build import Change

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A build recipe (.toml or .json).")]


def new(
    output: Annotated[Path, typer.Argument(metavar="[FILE]", help="The recipe to write.")] = Path("recipe.toml"),
    model: options.Model = None,
    force: options.Force = False,
) -> None:
    """Write a commented build recipe.

    A name that ends in .json gets the same recipe without comments.

    Example: raq-client recipe new coder.toml --model model-f16.gguf
    """
    from raq_client.files.atomic_file import atomic_file
    from raq_client.recipes.new_recipe import new_recipe

    named = model
    if named is None:
        found = sorted(Path().glob("*.gguf"))
        named = found[0] if len(found) == 1 else None
    elif not named.is_file():
        raise InvalidInput(Fault(str(named), "there is no such file"))
    with atomic_file(output, force=force) as file:
        file.write(new_recipe(output, named).encode())
    say(f"{output}: {f'model {named}' if named else 'write your model into it'}; then raq-client recipe build {output}")


@spread
def build(
    recipe: RecipeFile,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write here, in place of the recipe's file.", show_default=False
        ),
    ] = None,
    store: Store = None,
    no_reuse: Annotated[bool, typer.Option("--no-reuse", help="Quantize every tensor again.")] = False,
    threads: options.Threads = 0,
    device: options.Device = "cpu",
    machines: MachineOptions,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Build what a recipe states: the model file, its check and its manifest.

    Collects importance, measures errors, resolves rules, solves, quantizes, checks, has original and file answer
    benchmarks, and writes manifest and model card. Every stage
    is kept by content: run again after an interruption, a build goes on, and ends with the same bytes; after a change
    of the recipe only the tensors that changed are quantized. Exit code 6 if the file does not pass the check.
    With --index and --of it makes a part of the file, which --merge, or a build without them, puts together.

    Example: raq-client recipe build coder.toml
    """
    from raq_client.building.build import HowToBuild, build_part
    from raq_client.building.build import build as carry_out
    from raq_client.building.manifest import build_manifest
    from raq_client.building.units import check_parts
    from raq_client.files.manifest import write_manifest
    from raq_client.quantizing.devices import chosen_device
    from raq_client.recipes.build_recipe import read_build_recipe
    from raq_client.reports.build import built_dict, built_report
    from raq_client.reports.plain import plain

    found = read_build_recipe(recipe)
    if output is not None:
        found = found.written_to(output)
    if machines.check():
        check_parts(found)
    wanted = machines.part()
    how = HowToBuild(workshop_in(store), threads, chosen_device(device, say), force=force, reuse=not no_reuse)
    with (
        _units(found, how, machines) as units,
        followed() as progress,
        open_solver(chosen_server(None, found.server)) as solver,
    ):
        if wanted is not None:
            made = build_part(found, how, solver, wanted, progress=progress, notes=say)
            machines.say_part(found.output.file, made, as_json=as_json)
            return
        built = carry_out(found, how, solver, units=units, progress=progress, notes=say)
    write_manifest(build_manifest(built, ["raq-client", *sys.argv[1:]], plain(built.check)), found.output.manifest_path)
    cards = _written_card(found)
    if as_json:
        print_json(built_dict(built))
    else:
        OUT.print(built_report(built))
    _say_built(built, cards)
    if built.too_far is not None:
        fail(f"{found.name}: {built.too_far}")
        raise typer.Exit(EXIT_NOT_PASSED)


@contextmanager
def _units(recipe: "BuildRecipe", how: "HowToBuild", machines: MachineOptions) -> "Iterator[BuildUnits | None]":
    """The units of a build that a cluster makes, or that parts have made; None without either."""
    from raq_client.building.units import FOUND_ONLY, BuildUnits, made_by

    target, share = recipe.output.file, machines.share()
    if machines.cluster is not None:
        with machines.connected(threads=how.threads, gpu=how.device.name != "cpu") as executor:
            yield BuildUnits(target, made_by(executor), share)
    else:
        yield BuildUnits(target, FOUND_ONLY, share) if machines.merge else None


def _say_built(built: "Built", cards: tuple[Path, ...]) -> None:
    from raq_client.reports.benchmarks import paired_notes

    counts = f"{len(built.quantized)} tensors quantized, {len(built.reused)} reused"
    say(f"{built.written.path}: {built.written.size:,} bytes, {counts}, SHA-256 {built.written.sha256}")
    for note in paired_notes(built.benchmarks, "original", "file"):
        say(note)
    say(f"{built.resolved.recipe.output.manifest_path}: repeat and compare with raq-client recipe replay")
    if cards:
        say(f"{' and '.join(map(str, cards))}: the model card")


def _written_card(recipe: "BuildRecipe") -> tuple[Path, ...]:
    """Write the card that a recipe asks for, from the manifest that was just written."""
    if recipe.card is None:
        return ()
    from raq_client.publishing.card import About, base_model_of, write_card
    from raq_client.publishing.release import read_release

    release = read_release([recipe.output.manifest_path])
    about = About(base_model_of(release, recipe.card.base_model), by=recipe.card.by, license=recipe.card.license)
    return write_card(release, about, recipe.card.file, force=True)


def replay(
    called: typer.Context,
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="The manifest of a build.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Keep the file that is built here.", show_default=False),
    ] = None,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Use what is kept from earlier builds, which is faster.")
    ] = False,
    store: Store = None,
    threads: options.Threads = 0,
    device: options.Device = "cpu",
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Build again what a manifest describes, and compare every hash.

    Inputs must be those of the build. Importance is collected again, the plan is solved again, and the file is made
    from the recorded types. Exit code 6 if anything differs.

    Example: raq-client recipe replay model-5bpw.gguf.manifest.json
    """
    from raq_client.building.build import HowToBuild
    from raq_client.building.replay import replay as repeat
    from raq_client.quantizing.devices import chosen_device
    from raq_client.reports.build import replay_table
    from raq_client.reports.plain import plain

    check_written(called, {"output": output}, force=force)
    how = HowToBuild(workshop_in(store), threads, chosen_device(device, say), force=force, reuse=reuse)
    with followed() as progress, open_solver(chosen_server(None, None)) as solver:
        found = repeat(manifest, how, solver, output=output, progress=progress, notes=say)
    if as_json:
        print_json({"equal": found.equal, "compared": plain(list(found.compared))})
    else:
        OUT.print(replay_table(found.compared))
    if not found.equal:
        fail(f"{manifest}: {found.why_not}")
        raise typer.Exit(EXIT_NOT_PASSED)


def diff(
    one: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe: a file, a name, or a mixture.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The recipe to compare it with.")],
    store: Store = None,
    as_json: options.Json = False,
) -> None:
    """Compare two recipes: their keys, and the types that they come to.

    Types are compared where both are build recipes and all that they need has been collected and measured.

    Example: raq-client recipe diff coder.toml coder-smaller.toml
    """
    from raq_client.recipes.build_recipe import BuildRecipe, read_any_recipe
    from raq_client.reports.build import changed_keys, changes_table

    recipes = [read_any_recipe(name) for name in (one, other)]
    data = [each.as_data() if isinstance(each, BuildRecipe) else each.model_dump(mode="json") for each in recipes]
    keys = changed_keys(*data)
    types = _changed_types(recipes, workshop_in(store)) if all(isinstance(r, BuildRecipe) for r in recipes) else None
    if as_json:
        print_json({"keys": _listed(keys), "types": None if types is None else _listed(types)})
        return
    OUT.print(changes_table(keys, one, other) if keys else "the recipes say the same")
    if types is not None:
        OUT.print("")
        OUT.print(changes_table(types, one, other) if types else "they come to the same types")


def schema() -> None:
    """Print the JSON schema of build recipes.

    Editors check and complete a recipe with it.

    Example: raq-client recipe schema > raq-recipe.schema.json
    """
    from raq_client.recipes.build_recipe import recipe_schema

    print_json(recipe_schema())


def _changed_types(recipes: "list[BuildRecipe | Recipe]", workshop: "Workshop") -> "list[Change] | None":
    """The tensors whose types differ; None if they can't be known without measuring."""
    from raq_client.building.inputs import NotMadeError, prepare
    from raq_client.building.resolve import changed_types, resolve
    from raq_client.recipes.build_recipe import BuildRecipe

    try:
        with open_solver(chosen_server(None, None)) as solver:
            before, after = (
                resolve(prepare(each, workshop, makes=False), solver)
                for each in recipes
                if isinstance(each, BuildRecipe)
            )
    except NotMadeError as error:
        say(f"types are not compared: {error.faults[0]}; build the recipe first")
        return None
    return [(name, was, now) for name, (was, now) in changed_types(before, after).items()]


def _listed(changes: "list[Change]") -> list[dict[str, object]]:
    return [{"name": name, "before": before, "after": after} for name, before, after in changes]
