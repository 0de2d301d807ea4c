"""`raq-client bench ab`: two models on the same items of locked benchmarks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raq_client.cli import bench, options
from raq_client.cli.console import OUT, print_json, say
from raq_client.cli.progress import progress_bar
from raq_client.cli.written import check_written
from raq_solver.errors import Fault, InvalidInput, raise_faults

if TYPE_CHECKING:
    from raq_client.benchmarks.answers import Run, Task
    from raq_client.benchmarks.paired import Paired


def ab(
    called: typer.Context,
    a: Annotated[Path, typer.Argument(metavar="A", help="GGUF model, or a saved run of one (.json).")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, or the same from another quantization.")],
    names: bench.Names,
    *,
    lock: bench.Lock = bench.LOCK,
    folder: bench.Folder = bench.FOLDER,
    registry: bench.Registry = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="ROWS", help="The first rows of each.", show_default=False)
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens of an answer.")] = 512,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Run code that the models write, in processes with limits (no jail).")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FOLDER", help="Keep the answers in NAME.run.json.", show_default=False),
    ] = None,
    threads: options.Threads = 0,
    libllama: options.Library = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Compare two models on locked benchmarks, item by item.

    Both answer the same rows greedily, by their chat template if they have one. Answers are graded by their last number
    (GSM8K), their text (reasoning-gym) or by running them (HumanEval, with --run-code). The exact test of McNemar says
    whether the difference is more than chance; also said is how many items would show one of this size. Refused are
    data that has drifted from the lock, and runs on different data.

    Example: raq-client bench ab model-f16.gguf model-q4.gguf gsm8k --limit 200
    """
    from raq_client.benchmarks.answers import compared, write_run

    given = {"a": a, "b": b}
    saved = {name: _saved(path, save) for name, path in given.items()}
    if saved["a"] is not None and saved["a"] == saved["b"]:
        raise InvalidInput(Fault("--save", f"both runs would be {saved['a']}; give the models different names"))
    check_written(called, saved, force=force)
    tasks = _tasks(lock, folder, registry, names, limit, run_code=run_code)
    runs = {name: _run(path, tasks, max_tokens, threads, libllama) for name, path in given.items()}
    for name, path in saved.items():
        if path is not None:
            write_run(runs[name], path, force=force)
    results = compared(runs["a"], runs["b"])
    if as_json:
        print_json({"a": str(a), "b": str(b), "benchmarks": {key: _plain(each) for key, each in results.items()}})
    else:
        _show(results)


def _saved(path: Path, folder: Path | None) -> Path | None:
    return None if folder is None or path.suffix == ".json" else folder / f"{path.stem}.run.json"


def _tasks(
    lock: Path, folder: Path, registry: Path | None, names: list[str], limit: int | None, *, run_code: bool
) -> "dict[str, Task]":
    from raq_client.benchmarks.answers import Task
    from raq_client.benchmarks.registry import read_registry

    known = read_registry(registry)
    entries = bench.locked_entries(lock, known.select(names))
    rows = bench.checked_rows(entries, folder)
    forms = {name: known.benchmarks[name].form for name in entries}
    what = "is graded by running code that the models write; allow that with --run-code"
    raise_faults([Fault(name, what) for name, form in forms.items() if form == "humaneval" and not run_code])
    return {name: Task(forms[name], tuple(rows[name][:limit]), entry.content_sha256) for name, entry in entries.items()}


def _run(path: Path, tasks: "dict[str, Task]", most: int, threads: int, library: Path | None) -> "Run":
    from raq_client.benchmarks.answers import answered, read_run

    if path.suffix == ".json":
        return read_run(path)
    with progress_bar(f"answers of {path.name}") as report:
        return answered(path, tasks, most=most, threads=threads, library=library, progress=report)


def _plain(result: "Paired") -> dict[str, Any]:
    return {
        "items": result.items,
        "right_a": result.right_a,
        "right_b": result.right_b,
        "only_a": result.only_a,
        "only_b": result.only_b,
        "p_value": result.p_value(),
        "items_needed": result.items_needed(),
    }


def _show(results: "dict[str, Paired]") -> None:
    from raq_client.benchmarks.paired import SIGNIFICANT
    from raq_client.reports.tables import Field, table_of

    def share(count: int, result: "Paired") -> str:
        return f"{count} ({100 * count / result.items:.1f} %)"

    fields = (
        Field("benchmark", read=lambda pair: pair[0]),
        Field("items", read=lambda pair: str(pair[1].items)),
        Field("A right", read=lambda pair: share(pair[1].right_a, pair[1])),
        Field("B right", read=lambda pair: share(pair[1].right_b, pair[1])),
        Field("only A", read=lambda pair: str(pair[1].only_a)),
        Field("only B", read=lambda pair: str(pair[1].only_b)),
        Field("p", read=lambda pair: f"{pair[1].p_value():.3g}"),
    )
    OUT.print(table_of(list(results.items()), fields))
    for name, result in results.items():
        if result.p_value() < SIGNIFICANT:
            say(f"{name}: {'A' if result.only_a > result.only_b else 'B'} is better; p is below {SIGNIFICANT}")
        elif (needed := result.items_needed()) is None:
            say(f"{name}: no difference on these items")
        else:
            say(f"{name}: no difference is shown; one of this size would need about {needed:,} items")
