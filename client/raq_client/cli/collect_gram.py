"""Gram statistics of `raq-client imatrix collect --gram`, with the state of an interrupted run."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raq_client.cli.console import say
from raq_client.cli.progress import progress_bar
from raq_client.compensation.collect import collect_gram
from raq_client.compensation.gram import Gram
from raq_client.compensation.gram_file import read_gram, write_gram
from raq_client.compensation.outputs import add_outputs
from raq_client.engine import Engine
from raq_client.engine.windows import Text, cut_windows
from raq_client.estimates.estimate import Estimate, Stage
from raq_client.estimates.stages import collecting, collecting_fisher, collecting_gram, collecting_outputs
from raq_client.importance.collect_fisher import DEFAULT_FISHER_WINDOWS, chosen_windows
from raq_client.models.model_file import open_model
from raq_solver.errors import Fault, InvalidInput


def partial_gram(output: Path) -> Path:
    """The file with the state of an interrupted collection."""
    return output.with_name(f"{output.stem}.partial.gram")


@dataclass(frozen=True)
class GramOptions:
    """The options of a collection: windows of each text, windows to pass back (None: as many as usual), memory."""

    windows: int | None
    backward: int | None
    memory: int


def write_gathered(engine: Engine, texts: Sequence[Text], output: Path, asked: GramOptions, *, force: bool) -> None:
    """Write what `gathered` finds; the state of an interrupted run is then removed."""
    write_gram(gathered(engine, texts, output, asked), output, force=force)
    partial_gram(output).unlink(missing_ok=True)


def gathered(engine: Engine, texts: Sequence[Text], output: Path, asked: GramOptions) -> Gram:
    """Gram statistics for `output`, continued from an interrupted run if there is one.

    Raises InvalidInput if that was of another model or other texts.
    """
    partial = partial_gram(output)
    resume = None
    if partial.exists():
        resume = read_gram(partial)
        if not resume.unfinished:
            raise InvalidInput(Fault(str(partial), "is no state of an interrupted run; remove it"))
        say(f"going on from {partial}")

    def save(gram: Gram) -> Gram:
        write_gram(gram, partial, force=True)
        return read_gram(partial)

    model = open_model(engine.path)
    with progress_bar("Gram statistics") as report:
        found = collect_gram(
            engine,
            model,
            texts,
            windows=asked.windows,
            memory=asked.memory,
            resume=resume,
            save=save,
            progress=report,
        )
    if asked.backward == 0:
        return found
    # All that was counted, should this be interrupted; from now on it is read from the file that this writes.
    found = replace(found, source=save(replace(found, unfinished=True)).source)
    count = DEFAULT_FISHER_WINDOWS if asked.backward is None else asked.backward
    chosen = chosen_windows(cut_windows(engine, texts, asked.windows), count)
    try:
        with progress_bar("outputs") as report:
            return add_outputs(found, model, engine, chosen, memory=asked.memory, save=save, progress=report)
    except InvalidInput as error:
        if asked.backward is not None:
            raise
        for fault in error.faults:
            say(f"note: no statistics of outputs, errors are fed forward between columns only: {fault}")
        return found


def estimated(engine: Engine, texts: Sequence[Text], asked: GramOptions, *, gram: Path | None, head: bool) -> Estimate:
    """The estimate of a collection: importance, Fisher information, and Gram statistics where there is a file of them.

    Raises InvalidInput where what is asked for by number can't be had.
    """
    model, left_out = open_model(engine.path), list[str]()
    count = DEFAULT_FISHER_WINDOWS if asked.backward is None else asked.backward
    found = [collecting(engine, texts, model, windows=asked.windows, output_head=head)]

    def add(stages: Callable[[], Iterable[Stage]], what: str) -> None:
        try:
            found.extend(stages())
        except InvalidInput as error:
            if asked.backward is not None:
                raise
            left_out.extend(f"no {what}: {fault}" for fault in error.faults)

    if count:
        add(lambda: [collecting_fisher(engine, texts, model, count, asked.windows)], "Fisher information")
    if gram is not None:
        found.append(collecting_gram(engine, texts, model, asked.windows, asked.memory))
        if count:
            add(
                lambda: [collecting_outputs(engine, texts, model, count, asked.windows, asked.memory)],
                "statistics of outputs",
            )
    return Estimate(tuple(found), tuple(left_out))
