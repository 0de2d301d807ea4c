"""`raq-client publish`: the folder of a release, and its upload."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raq_client.cli import options
from raq_client.cli.card import BaseModel, By, Licence, Manifests
from raq_client.cli.console import print_json, say
from raq_client.cli.progress import size_bar
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.publishing.folder import Folder
    from raq_client.publishing.release import Release

_ROOT: Final = Path("publish")


def publish(
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the hub.", show_default=False)],
    manifests: Manifests,
    base_model: BaseModel = None,
    folder: Annotated[
        Path,
        typer.Option("--folder", "-o", metavar="FOLDER", help="Where to write ORG/NAME; models are linked into it."),
    ] = _ROOT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder, upload nothing.")] = False,
    private: Annotated[bool, typer.Option("--private", help="A repository that is created is private.")] = False,
    message: Annotated[
        str | None, typer.Option("--message", metavar="TEXT", help="Message of the commit.", show_default=False)
    ] = None,
    by: By = None,
    licence: Licence = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Upload quantized files with card, plans and manifests.

    Writes a folder with the models, their plans, importance, manifests and card, a Modelfile for Ollama and a picture,
    and uploads it as one commit (pip install 'raq[hub]', HF_TOKEN). Run again after a cut, it sends what is missing.
    FOLDER is laid out as LM Studio's folder of models. No file names a folder of this machine.

    Example: raq-client publish me/model-GGUF run.manifest.json --base-model org/model --dry-run
    """
    from raq_client.publishing.card import About, base_model_of
    from raq_client.publishing.folder import make_folder
    from raq_client.publishing.release import read_release

    if not dry_run:
        _check_upload(repo)
    release = read_release(manifests)
    about = About(base_model_of(release, base_model), by=by, repo=repo, license=licence)
    with size_bar("comparing", _size(release)) as report:
        made = make_folder(release, about, folder, force=force, progress=report)
    address = None if dry_run else _uploaded(made, repo, message, private=private)
    if as_json:
        print_json(_result(made, address))
        return
    say(f"{made.path}: {len(made.files)} files, {made.size:,} bytes; read README.md there")
    say(f"uploaded: {address}" if address else "nothing was uploaded: --dry-run")


def _size(release: "Release") -> int:
    return sum(quant.size for quant in release.quants)


def _check_upload(repo: str) -> None:
    """Raise InvalidInput, before any work, if nothing can be uploaded."""
    try:
        from raq_client.publishing.upload import check_upload
    except ImportError:
        what = "uploading needs the hub's library: pip install 'raq[hub]', or write the folder only with --dry-run"
        raise InvalidInput(Fault(repo, what)) from None
    check_upload(repo)


def _uploaded(made: "Folder", repo: str, message: str | None, *, private: bool) -> str:
    from raq_client.publishing.upload import MESSAGE, upload

    say(f"uploading {made.size:,} bytes to {repo}")
    return upload(made, repo, message=message or MESSAGE, private=private)


def _result(made: "Folder", address: str | None) -> dict[str, Any]:
    return {"folder": str(made.path), "files": list(made.files), "bytes": made.size, "commit": address}
