"""`raq-client bench`: benchmarks listed, fetched, locked, verified and made into calibration text."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, say
from raq_client.cli.written import check_written

if TYPE_CHECKING:
    from raq_client.benchmarks.lock import Entry

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Benchmarks, bundles or domains.")]
WeightedNames = Annotated[
    list[str], typer.Argument(metavar="NAME[:WEIGHT]...", help="Benchmarks, bundles or domains; all or none weighted.")
]
Registry = Annotated[
    Path | None,
    typer.Option("--registry", metavar="FILE", help="Benchmarks of your own (TOML).", show_default=False),
]
Lock = Annotated[Path, typer.Option("--lock", metavar="FILE", help="The lock file.")]
Folder = Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="Where the rows are kept.")]
LOCK, FOLDER = Path("raq-bench.lock.json"), Path("benchmarks")


def list_benchmarks(registry: Registry = None, as_json: options.Json = False) -> None:
    """List the benchmarks and bundles that raq knows.

    Example: raq-client bench list
    """
    from raq_client.benchmarks.registry import read_registry
    from raq_client.reports.tables import Field, table_of

    found = read_registry(registry)
    if as_json:
        listed = {key: each.model_dump(mode="json") for key, each in found.benchmarks.items()}
        print_json({"benchmarks": listed, "bundles": found.bundles})
        return
    fields = (
        Field("name", read=lambda pair: pair[0]),
        Field("domain", read=lambda pair: pair[1].domain),
        Field("from", read=lambda pair: pair[1].source.kind),
        Field("licence", read=lambda pair: pair[1].licence),
        Field("title", read=lambda pair: pair[1].title),
    )
    OUT.print(table_of(list(found.benchmarks.items()), fields))
    for name, keys in found.bundles.items():
        say(f"bundle {name}: {', '.join(keys)}")


def lock_benchmarks(
    names: Names,
    registry: Registry = None,
    lock: Lock = LOCK,
    folder: Folder = FOLDER,
    force: Annotated[bool, typer.Option("--force", "-f", help="Pin data that has drifted from the lock.")] = False,
    as_json: options.Json = False,
) -> None:
    """Fetch benchmarks and pin their data in the lock file.

    An entry has the source's revision, the SHA-256 of its file and of the rows in raq's own form, their number, and the
    licence. Data that differs from an entry is refused.

    Example: raq-client bench lock reasoning humaneval
    """
    from raq_client.benchmarks.lock import check_drift, fetch, read_lock, store, write_lock
    from raq_client.benchmarks.registry import read_registry

    known = read_registry(registry)
    entries = read_lock(lock) if lock.exists() else {}
    fetched = {name: fetch(known.benchmarks[name], known.folder) for name in known.select(names)}
    for name, each in fetched.items():
        if name in entries and not force:
            check_drift(name, entries[name], each.entry)
    folder.mkdir(parents=True, exist_ok=True)
    for name, each in fetched.items():
        store(name, each, folder)
    write_lock(entries | {name: each.entry for name, each in fetched.items()}, lock)
    _show({name: each.entry for name, each in fetched.items()}, f"pinned in {lock}", as_json=as_json)


def fetch_benchmarks(
    names: Names, registry: Registry = None, lock: Lock = LOCK, folder: Folder = FOLDER, as_json: options.Json = False
) -> None:
    """Fetch benchmarks that the lock pins; anything else is refused.

    Example: raq-client bench fetch gsm8k --lock raq-bench.lock.json
    """
    from raq_client.benchmarks.lock import check_drift, fetch, locked_entries, store
    from raq_client.benchmarks.registry import read_registry

    known = read_registry(registry)
    entries = locked_entries(lock, known.select(names))
    fetched = {name: fetch(known.benchmarks[name], known.folder) for name in entries}
    for name, each in fetched.items():
        check_drift(name, entries[name], each.entry)
    folder.mkdir(parents=True, exist_ok=True)
    for name, each in fetched.items():
        store(name, each, folder)
    _show(entries, "as pinned", as_json=as_json)


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Benchmarks; else all in the lock.")
    ] = None,
    lock: Lock = LOCK,
    folder: Folder = FOLDER,
    as_json: options.Json = False,
) -> None:
    """Check the rows on this disk against the lock, without the network.

    Example: raq-client bench verify
    """
    from raq_client.benchmarks.lock import checked_rows, locked_entries, read_lock

    entries = locked_entries(lock, tuple(names)) if names else read_lock(lock)
    checked_rows(entries, folder)
    _show(entries, "as pinned", as_json=as_json)


def corpus(
    called: typer.Context,
    names: WeightedNames,
    *,
    output: options.Output,
    lock: Lock = LOCK,
    folder: Folder = FOLDER,
    registry: Registry = None,
    model: options.Model = None,
    answers: Annotated[
        bool, typer.Option("--answers/--no-answers", help="With the answers, or questions only.")
    ] = True,
    cap: Annotated[
        int | None,
        typer.Option("--cap", min=1, metavar="ROWS", help="At most this many rows of each.", show_default=False),
    ] = None,
    libllama: options.Library = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Make calibration text of locked benchmarks, interleaved in a stated mix.

    Weights are shares of the text; rows are interleaved so that every beginning of it has the mix. With --model each
    row is a chat by that model's template, for imatrix collect --parse-special. What the text is made of is written
    beside it, to OUTPUT.json.

    Example: raq-client bench corpus gsm8k:3 humaneval:1 --model model-f16.gguf -o corpus.txt
    """
    from raq_client.benchmarks.corpus import make_corpus, weights_of
    from raq_client.benchmarks.registry import read_registry
    from raq_client.files.atomic_file import atomic_file
    from raq_client.prompts.template import require_template

    provenance = output.with_name(f"{output.name}.json")
    check_written(called, {"output": output, "provenance": provenance}, force=force)
    weights = weights_of(names, read_registry(registry))
    template = None if model is None else require_template(model, libllama)
    made = make_corpus(weights, lock, folder, template=template, answers=answers, cap=cap)
    with atomic_file(output, force=force, needed=len(made.text)) as file:
        file.write(made.text)
    with atomic_file(provenance, force=force) as file:
        file.write(json.dumps(made.provenance, indent=1, ensure_ascii=False).encode() + b"\n")
    if as_json:
        print_json({"output": str(output), **made.provenance})
    else:
        mix = made.mix
        for name in mix.used:
            say(f"{name}: {mix.used[name]} rows, {mix.sizes[name]:,} bytes; {mix.left_out[name]} rows left out")
        say(f"{output}: {len(mix.rows)} rows, {len(made.text):,} bytes")


def _show(entries: "dict[str, Entry]", how: str, *, as_json: bool) -> None:
    if as_json:
        print_json({name: entry.model_dump() for name, entry in entries.items()})
    else:
        for name, entry in entries.items():
            say(f"{name}: {entry.rows} rows, {how} ({entry.source} {entry.revision})")
