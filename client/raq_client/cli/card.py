"""`raq-client card`: the model card of quantized files."""

from pathlib import Path
from typing import Annotated, Final

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, say
from raq_client.cli.written import check_written
from raq_solver.errors import Fault, InvalidInput

Manifests = Annotated[
    list[Path],
    typer.Argument(
        metavar="MANIFEST…", help="Manifests of run, ladder (ladder.json) or recipe build.", show_default=False
    ),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base-model",
        metavar="ORG/NAME",
        help="The repository that was quantized; else where the model was downloaded from.",
        show_default=False,
    ),
]
By = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who quantized; else the repository's owner.", show_default=False),
]
Licence = Annotated[
    str | None,
    typer.Option("--license", metavar="ID", help="The licence; else that of the model's metadata.", show_default=False),
]
_CARD: Final = Path("README.md")


def card(
    called: typer.Context,
    manifests: Manifests,
    base_model: BaseModel = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Card to write; the picture is put beside it.")
    ] = _CARD,
    repo: Annotated[
        str | None,
        typer.Option("--repo", metavar="ORG/NAME", help="Where the files are to be uploaded.", show_default=False),
    ] = None,
    by: By = None,
    licence: Licence = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Write the model card of quantized files.

    The card has the table of sizes, bits per weight and what was measured, a picture of them, commands to use, verify
    and repeat, and the front matter that model hubs read. It names no folder of this machine.

    Example: raq-client card run.manifest.json --base-model org/model -o README.md
    """
    from raq_client.publishing import card as cards
    from raq_client.publishing.release import read_release

    if output.suffix == ".svg":
        raise InvalidInput(Fault(str(output), "is the name of a picture; name a card that ends in .md"))
    picture = cards.picture_of(output)
    check_written(called, {"output": output}, force=force)
    if picture.exists() and not force:
        raise InvalidInput(Fault(str(picture), "exists; give the card another name, or overwrite it with --force"))
    release = read_release(manifests)
    about = cards.About(cards.base_model_of(release, base_model), by=by, repo=repo, license=licence)
    written = cards.write_card(release, about, output, force=force)
    if as_json:
        print_json(
            {"card": str(output), "picture": str(picture) if picture in written else None, "files": len(release.quants)}
        )
    else:
        names = ", ".join(quant.name for quant in release.quants)
        say(f"{' and '.join(map(str, written))}: the card of {names}")
