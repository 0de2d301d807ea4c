"""`raq-client bench ab`: two models on the same items of locked benchmarks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli import bench, options
from raq_client.cli.console import OUT, print_json, say
from raq_client.cli.progress import progress_bar
from raq_client.cli.written import check_written
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.benchmarks.answers import Run, Task


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
    from raq_client.benchmarks.answers import compared, tasks_of, write_run
    from raq_client.benchmarks.registry import read_registry
    from raq_client.reports.benchmarks import paired_notes, paired_table

    given = {"a": a, "b": b}
    saved = {name: _saved(path, save) for name, path in given.items()}
    if saved["a"] is not None and saved["a"] == saved["b"]:
        raise InvalidInput(Fault("--save", f"both runs would be {saved['a']}; give the models different names"))
    check_written(called, saved, force=force)
    tasks = tasks_of(names, read_registry(registry), lock, folder, limit=limit, run_code=run_code)
    runs = {name: _run(path, tasks, max_tokens, threads, libllama) for name, path in given.items()}
    for name, path in saved.items():
        if path is not None:
            write_run(runs[name], path, force=force)
    results = compared(runs["a"], runs["b"])
    if as_json:
        print_json({"a": str(a), "b": str(b), "benchmarks": {key: each.as_data() for key, each in results.items()}})
    else:
        OUT.print(paired_table(results))
        for note in paired_notes(results):
            say(note)


def _saved(path: Path, folder: Path | None) -> Path | None:
    return None if folder is None or path.suffix == ".json" else folder / f"{path.stem}.run.json"


def _run(path: Path, tasks: "dict[str, Task]", most: int, threads: int, library: Path | None) -> "Run":
    from raq_client.benchmarks.answers import answered, read_run

    if path.suffix == ".json":
        return read_run(path)
    with progress_bar(f"answers of {path.name}") as report:
        return answered(path, tasks, most=most, threads=threads, library=library, progress=report)
