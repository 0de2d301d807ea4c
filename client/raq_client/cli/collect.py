"""`raq-client imatrix collect`: importance, measured by running calibration text through a model."""

import functools
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, say
from raq_client.cli.ended import kept_when_ended
from raq_client.cli.groups import project_model
from raq_client.cli.machine_options import MachineOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.progress import progress_bar
from raq_client.cli.written import check_written
from raq_client.files.lock import output_lock
from raq_client.files.names import readable
from raq_client.files.settings import read_settings
from raq_solver.errors import Fault, InvalidInput, raise_faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from raq_client.cli.collect_gram import Gathering, GramOptions
    from raq_client.engine import Engine
    from raq_client.engine.windows import Text
    from raq_client.importance.collect import Counting
    from raq_client.importance.imatrix import Importance
    from raq_client.units.collecting import CollectJob


SUMS_PANEL = "Sums"
TEXT_PANEL = "Windows of text"


class Sums(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """The type in which sums are kept while they grow."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"


@spread
def collect(
    called: typer.Context,
    model: options.OptionalModel = None,
    *,
    output: options.Output,
    text: options.Texts = None,
    context: Annotated[
        int, typer.Option("--context", min=16, rich_help_panel=TEXT_PANEL, help="Tokens of a window.")
    ] = 512,
    windows: Annotated[
        int | None,
        typer.Option(
            "--windows",
            min=2,
            rich_help_panel=TEXT_PANEL,
            help="At most this many windows of each text.",
            show_default=False,
        ),
    ] = None,
    output_head: Annotated[
        bool,
        typer.Option("--process-output", rich_help_panel=SUMS_PANEL, help="Collect for the output head too."),
    ] = False,
    sums: Annotated[
        Sums,
        typer.Option(
            "--sums",
            rich_help_panel=SUMS_PANEL,
            help="Type of the sums; float32 has the rounding errors of llama-imatrix.",
        ),
    ] = Sums.FLOAT64,
    fisher: Annotated[
        int | None,
        typer.Option(
            "--fisher",
            min=0,
            metavar="WINDOWS",
            help="Windows to take Fisher information of, for the loss model fisher. [default: 16; 0: none]",
            show_default=False,
        ),
    ] = None,
    gram: Annotated[
        Path | None,
        typer.Option(
            "--gram",
            metavar="FILE",
            help="Collect Gram statistics too, for rounding with error feedback, and write them here.",
            show_default=False,
        ),
    ] = None,
    gram_memory: Annotated[
        str,
        typer.Option(
            "--gram-memory",
            metavar="SIZE",
            rich_help_panel=options.MACHINE_PANEL,
            help="Memory for Gram statistics; with less, more passes.",
        ),
    ] = "4GiB",
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Special tokens spelled out in the texts are those tokens.")
    ] = False,
    threads: options.Threads = 0,
    libllama: options.Library = None,
    machines: MachineOptions,
    estimate: options.EstimateOnly = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Collect importance by running text through a model.

    Importance is what llama-imatrix collects, value for value: the mean squared inputs of every tensor, per expert. For
    some windows Fisher information is collected too: how much the model's output moves with each weight, of which
    raq's default losses are made. Such a window takes several times as long. Run an interrupted command again, and it
    goes on where it stopped.

    Texts are plain text, or .jsonl files of chats and completions, which the model's own chat template renders. Without
    --text the text is raq's own: mathematics, reasoning, tool calls, code, chat and prose. Better is text like what the
    model will be used for.

    Details:

    With --gram Gram statistics are collected in the same passes: how the inputs of a tensor vary together, and its
    outputs, in as many windows as --fisher. They take 2 bytes for each pair of columns and of rows, and `--gram` of
    other commands rounds tensors with them (docs/compensation.md).

    Chats, reasoning and tool calls included, are tokenized with special tokens, as the runtime does; so is a text of
    `imatrix render` with --parse-special. The state is saved every 50 windows, and on an interrupt, to
    OUTPUT.partial.gguf and GRAM.partial.gram. An output that ends in .dat has the older format.

    Examples:

    raq-client imatrix collect model-f16.gguf -o model.imatrix.gguf

    raq-client imatrix collect model-f16.gguf --text reasoning.txt -o reasoning.imatrix.gguf --gram reasoning.gram
    """
    from raq_client.cli.collect_gram import Gathering, GramOptions, partial_gram, print_estimated
    from raq_client.engine import loading
    from raq_client.importance.collect import Counting
    from raq_client.importance.imatrix_file import write_importance
    from raq_client.planning.memory_budget import parse_size
    from raq_client.prompts.texts import read_texts_for
    from raq_client.units.collecting import CollectJob

    settings = read_settings(Path.cwd())
    on_machines = _check_work(machines, gram, sums)
    path = project_model(model, settings)
    partial = output.with_name(f"{output.stem}.partial.gguf")
    partials = {"partial": partial, "partial gram": None if gram is None else partial_gram(gram)}
    check_written(called, {"output": output, "gram": gram}, partials, force=force, also=settings.files())
    fisher = _asked(fisher, path, output, gram=gram is not None)
    asked = GramOptions(windows, fisher, parse_size(gram_memory))
    texts = read_texts_for(path, text, special=parse_special, library=libllama) if text else _own_texts(path, libllama)
    opened = loading.loaded(path, context=context, threads=threads, library=libllama)
    if estimate:
        print_estimated(opened, texts, asked, output, gram=gram, head=output_head, as_json=as_json)
        return
    if on_machines:
        sent = CollectJob(path, tuple(texts), output, context, windows, output_head, fisher, threads, libllama)
        _in_parts(sent, machines, force=force, as_json=as_json)
        return
    marks = _marks(path, texts, f"{output_head} {sums.value} {windows if len(texts) > 1 else ''} {fisher or ''}")
    resume = _resumed(partial, marks)
    save = functools.partial(_save, partial, marks)
    with _alone(output, gram), kept_when_ended(partials.values(), "what was counted"), opened as loaded:
        counting = Counting(loaded, texts, windows, output_head, sums.value, resume, save)
        gathering = None if gram is None else Gathering(loaded, texts, gram, asked)
        found = _with_fisher(_counted(counting, gathering), resume, loaded, texts, asked, save, gathering)
        if gathering is not None:
            gathering.write(force=force)
        write_importance(found, output, force=force)
        # Only now: what comes between is lost no more than what comes before.
        partial.unlink(missing_ok=True)
        if gathering is not None:
            gathering.remove_state()
    _show(found, output, as_json=as_json)


def _save(partial: Path, marks: tuple[str, ...], importance: "Importance") -> None:
    """Write the state so far into `partial`."""
    from raq_client.importance.imatrix_file import write_importance

    write_importance(replace(importance, datasets=marks), partial, force=True)


def _check_work(machines: MachineOptions, gram: Path | None, sums: Sums) -> bool:
    """Whether this is work for several machines. Raises InvalidInput for what can't be divided."""
    given = {
        "--gram": (gram is not None, "can't be collected in parts; run the command for it on one machine"),
        "--sums": (sums is Sums.FLOAT32, "float32 adds every row to all before, which can't be divided"),
    }
    wanted = machines.check()
    raise_faults([Fault(name, what) for name, (on, what) in given.items() if on and wanted])
    return wanted


def _in_parts(job: "CollectJob", machines: MachineOptions, *, force: bool, as_json: bool) -> None:
    """Do one part of the work, or make the file of all parts, by a cluster or by other processes."""
    from raq_client.importance.imatrix_file import write_importance
    from raq_client.units.journal import Journal, work_folder

    journal = Journal(work_folder(job.output), job)
    lines = machines.carry_out(job, journal, job.output, "collecting", threads=job.threads, as_json=as_json)
    if lines is not None:
        with closing(job):
            found = job.finish(lines, say)
        write_importance(found, job.output, force=force)
        journal.remove()
        _show(found, job.output, as_json=as_json)


def _own_texts(model: Path, library: Path | None) -> "list[Text]":
    from raq_client.importance.default_texts import KINDS, default_texts

    say(f"note: no --text was given: collecting from raq's own ({', '.join(KINDS)}); text of your own use is better")
    return default_texts(model, library)


@contextmanager
def _alone(*outputs: Path | None) -> Iterator[None]:
    """Hold the locks of these outputs: another run for the same ones would replace the states that this one reads."""
    with ExitStack() as locks:
        for path in outputs:
            if path is not None:
                locks.enter_context(output_lock(path))
        yield


def _asked(windows: int | None, model: Path, output: Path, *, gram: bool) -> int | None:
    """The windows that Fisher information is asked of. Raises InvalidInput at once where that many can't be had."""
    from raq_client.compensation.sums import HELD_OUT_EVERY
    from raq_client.curvature.shapes import shape_of
    from raq_client.models.model_file import open_model

    if output.suffix == ".dat":
        if windows:
            raise InvalidInput(Fault("--fisher", "the .dat format can't hold it; name an output that ends in .gguf"))
        return 0
    if windows:
        shape_of(open_model(model))
        if gram and windows < HELD_OUT_EVERY:
            what = f"{windows} windows are too few for --gram, which holds one in {HELD_OUT_EVERY} out"
            raise InvalidInput(Fault("--fisher", f"{what}; give {HELD_OUT_EVERY} or more, or 0 for none"))
    return windows


def _counted(counting: "Counting", gathering: "Gathering | None") -> "Importance":
    """The importance; the inputs of Gram statistics are summed in the same passes."""
    if gathering is not None:
        gathering.sum_inputs(counting)
    if counting.done == len(counting.windows):
        return counting.finish()
    with progress_bar("collecting") as report:
        return counting.finish(report)


def _show(found: "Importance", output: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "output": str(output),
                "entries": len(found.entries),
                "windows": found.chunk_count,
                "context": found.chunk_size,
                "fisher_windows": found.fisher_windows,
                "digest": found.digest(),
            }
        )
    else:
        fisher_part = f", Fisher information of {found.fisher_windows}" if found.fisher else ""
        said = f"{len(found.entries)} tensors, {found.chunk_count} windows of {found.chunk_size} tokens{fisher_part}"
        say(f"{output}: {said}")


def _with_fisher(
    found: "Importance",
    resume: "Importance | None",
    loaded: "Engine",
    texts: "list[Text]",
    asked: "GramOptions",
    save: "Callable[[Importance], None]",
    gathering: "Gathering | None",
) -> "Importance":
    """The importance with Fisher information; where nobody asked for it by number, without, if it can't be had.

    Gram statistics of outputs are collected in the same passes.
    """
    if not asked.count:
        return found
    from raq_client.importance.collect_fisher import add_fisher
    from raq_client.models.model_file import open_model

    # Of more windows than the interrupted run had, others are passed back.
    if resume is not None and resume.chunk_count == found.chunk_count:
        found = replace(found, fisher=resume.fisher, fisher_windows=resume.fisher_windows, windows=resume.windows)
    save(found)  # all that was counted, should this be interrupted
    beside = () if gathering is None else gathering.outputs()
    add = functools.partial(add_fisher, limit=asked.windows, save=save, beside=beside)
    try:
        with progress_bar("Fisher information" + (" and outputs" if beside else "")) as report:
            return add(found, open_model(loaded.path), loaded, texts, asked.count, progress=report)
    except InvalidInput as error:
        if asked.backward is not None:
            raise
        for fault in error.faults:
            say(f"note: no Fisher information: {fault}")
        if gathering is not None and beside:
            gathering.without_outputs(error)
        return replace(found, fisher={}, fisher_windows=0)


def _marks(model: Path, texts: "list[Text]", ways: str) -> tuple[str, ...]:
    """What a partial file is of: the names of the texts, and a digest of these, the model and what sums depend on."""
    from raq_client.models.model_file import open_model

    state = hashlib.sha256(f"{open_model(model).fingerprint()} {ways}".encode())
    for each in texts:
        state.update(each.digest())
    return *(readable(each.name) for each in texts), f"sha256:{state.hexdigest()}"


def _resumed(partial: Path, marks: tuple[str, ...]) -> "Importance | None":
    """What an interrupted run counted; raises InvalidInput if it was another one."""
    from raq_client.importance.imatrix_file import read_importance

    if not partial.exists():
        return None
    found = read_importance(partial)
    if found.datasets != marks:
        texts = ", ".join(found.datasets[:-1])
        what = f"was begun with another model, other texts ({texts}) or other options; remove it, or give the same"
        raise InvalidInput(Fault(str(partial), what))
    say(f"going on from {partial}: {found.chunk_count} windows are counted")
    return found
