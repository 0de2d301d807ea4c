"""`raq-client recipe attest` and `verify-attestation`: statements that a build can be repeated, and their proof."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli import options
from raq_client.cli.check import EXIT_NOT_PASSED
from raq_client.cli.console import OUT, fail, print_json, say
from raq_client.cli.follow import followed
from raq_client.cli.recipe_show import Store, workshop_in
from raq_client.cli.written import check_written
from raq_client.solver_client.protocol import chosen_server, open_solver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raq_client.building.replay import Comparison


def attest(
    called: typer.Context,
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="The manifest of a build.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The statement; else MODEL.intoto.json.", show_default=False
        ),
    ] = None,
    threads: options.Threads = 0,
    device: options.Device = "cpu",
    store: Store = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Build again what a manifest describes and, if every byte is the same, write a statement of it.

    Everything is made again from the inputs, as `recipe replay` does, and compared with the file that is there. The
    statement is of the form in-toto v1 with SLSA provenance; sign it with a tool of your choice. Exit code 6, and
    nothing is written, if anything differs.

    Example: raq-client recipe attest model-5bpw.gguf.manifest.json
    """
    from raq_client.building.attestation import attest as repeat
    from raq_client.building.attestation import write_statement
    from raq_client.building.build import HowToBuild
    from raq_client.building.manifest import read_build_manifest
    from raq_client.quantizing.devices import chosen_device

    name = next(iter(read_build_manifest(manifest).outputs), manifest.name)
    target = output or manifest.parent / f"{name}.intoto.json"
    check_written(called, {"output": target}, force=force)
    how = HowToBuild(workshop_in(store), threads, chosen_device(device, say), reuse=False)
    with followed() as progress, open_solver(chosen_server(None, None)) as solver:
        found, content = repeat(manifest, how, solver, progress=progress, notes=say)
    if found.equal:
        write_statement(content, target, force=force)
    _show(found.compared, as_json=as_json)
    if not found.equal:
        fail(f"{manifest}: {found.why_not}; no statement was written")
        raise typer.Exit(EXIT_NOT_PASSED)
    say(f"{target}: written; check it with raq-client recipe verify-attestation")


def verify_attestation(
    statement: Annotated[Path, typer.Argument(metavar="STATEMENT", help="A statement of `recipe attest`.")],
    manifest: Annotated[
        Path | None,
        typer.Option("--rebuild", metavar="MANIFEST", help="Build again from this manifest too.", show_default=False),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", metavar="FOLDER", help="Where the model is; else beside STATEMENT.", show_default=False
        ),
    ] = None,
    threads: options.Threads = 0,
    device: options.Device = "cpu",
    store: Store = None,
    as_json: options.Json = False,
) -> None:
    """Check a model against a statement: its bytes, and with --rebuild that its inputs lead to them.

    Exit code 6 if anything differs.

    Example: raq-client recipe verify-attestation model-5bpw.gguf.intoto.json --rebuild model-5bpw.gguf.manifest.json
    """
    from raq_client.building import attestation
    from raq_client.building.build import HowToBuild
    from raq_client.building.replay import Replayed
    from raq_client.quantizing.devices import chosen_device

    stated = attestation.read_statement(statement)
    compared = attestation.verify_attestation(stated, folder or statement.parent)
    if manifest is not None:
        how = HowToBuild(workshop_in(store), threads, chosen_device(device, say), reuse=False)
        with followed() as progress, open_solver(chosen_server(None, None)) as solver:
            compared += attestation.rebuilt(stated, manifest, how, solver, progress=progress, notes=say)
    _show(compared, as_json=as_json)
    if not (found := Replayed(compared)).equal:
        fail(f"{statement}: {'does not hold: what differs is marked' if found.disproved else found.why_not}")
        raise typer.Exit(EXIT_NOT_PASSED)


def _show(compared: "Sequence[Comparison]", *, as_json: bool) -> None:
    from raq_client.reports.build import replay_table
    from raq_client.reports.plain import plain

    if as_json:
        print_json({"equal": all(one.equal for one in compared), "compared": plain(list(compared))})
    else:
        OUT.print(replay_table(compared))
