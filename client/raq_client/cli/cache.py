"""`raq-client cache`: what raq keeps in the user's cache folder, and its removal."""

from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, say


def show(as_json: options.Json = False) -> None:
    """Show what the cache holds.

    Measured errors, quantized tensors, converted models: all of it can be made again. Files from a model hub are in
    the hub's own cache, which `hf cache` shows.

    Example: raq-client cache show
    """
    from platformdirs import user_cache_path

    from raq_client.files.cache_folders import cache_parts
    from raq_client.reports.tables import Column, Table

    folder = user_cache_path("raq")
    parts = cache_parts(folder)
    if as_json:
        found = [{"name": part.name, "files": part.files, "bytes": part.size} for part in parts]
        print_json({"folder": str(folder), "bytes": sum(part.size for part in parts), "parts": found})
        return
    OUT.print(f"{folder}: {sum(part.size for part in parts):,} bytes", soft_wrap=True)
    if parts:
        rows = [[part.name, f"{part.files:,}", f"{part.size:,}"] for part in parts]
        OUT.print(
            "", Table([Column("part"), Column("files", figures=True), Column("bytes", figures=True)], rows), sep="\n"
        )


def clean(
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART]...", help="Parts that `cache show` lists; else all.", show_default=False),
    ] = None,
    days: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, help="Only files not changed for this many days.")
    ] = 0,
    as_json: options.Json = False,
) -> None:
    """Remove what the cache holds.

    Nothing is lost but the time to make it again.

    Example: raq-client cache clean measurements --older-than 30
    """
    from platformdirs import user_cache_path

    from raq_client.files.cache_folders import clean_cache

    folder = user_cache_path("raq")
    removed = clean_cache(folder, parts or (), days=days)
    if as_json:
        print_json([{"name": part.name, "files": part.files, "bytes": part.size} for part in removed])
        return
    files, size = sum(part.files for part in removed), sum(part.size for part in removed)
    say(f"{folder}: {files:,} files of {size:,} bytes removed")
