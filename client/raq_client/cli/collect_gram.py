"""Gram statistics of `raq-client imatrix collect --gram`, with the state of an interrupted run.

They need no passes of their own: inputs are summed while importance is counted, outputs while Fisher information is.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from raq_client.cli.console import say
from raq_client.cli.estimate import print_estimate
from raq_client.cli.progress import progress_bar
from raq_client.compensation.collect import collect_gram
from raq_client.compensation.gram import Gram
from raq_client.compensation.gram_file import read_gram, write_gram
from raq_client.compensation.outputs import OutputsCollection, check_memory, held_out_windows, without_outputs
from raq_client.curvature.passes import Collection
from raq_client.engine import Engine
from raq_client.engine.windows import Text, cut_windows
from raq_client.estimates.estimate import Estimate, Stage
from raq_client.estimates.stages import (
    collecting,
    collecting_fisher,
    collecting_outputs,
    collecting_with_gram,
    gram_size,
)
from raq_client.files.output_checks import check_output
from raq_client.importance.collect import Counting
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

    @property
    def count(self) -> int:
        """Windows to pass back, as many as the texts have at most."""
        return DEFAULT_FISHER_WINDOWS if self.backward is None else self.backward


class Gathering:
    """Gram statistics for `output` as they are collected, continued from an interrupted run if there is one."""

    def __init__(self, engine: Engine, texts: Sequence[Text], output: Path, asked: GramOptions) -> None:
        self._engine, self._texts, self._asked = engine, texts, asked
        self._output, self._partial = output, partial_gram(output)
        self._model = open_model(engine.path)
        if asked.backward:  # before the text has run
            check_memory(self._model, asked.memory)
        if not self._partial.exists():
            check_output(self._partial, force=True, needed=gram_size(self._model, outputs=bool(asked.backward)))
        self._inputs: Gram | None = None
        self._outputs: OutputsCollection | None = None

    def sum_inputs(self, counting: Counting) -> None:
        """Run the texts through the model, sum what tensors are multiplied with, and count importance beside it.

        Raises InvalidInput if the interrupted run was of another model or other texts, and as `collect_gram` does.
        """
        resume = None
        if self._partial.exists():
            resume = read_gram(self._partial)
            if not resume.unfinished:
                raise InvalidInput(Fault(str(self._partial), "is no state of an interrupted run; remove it"))
            say(f"going on from {self._partial}")
        with progress_bar("collecting") as report:
            self._inputs = collect_gram(
                self._engine,
                self._model,
                self._texts,
                windows=self._asked.windows,
                memory=self._asked.memory,
                resume=resume,
                save=self._save,
                progress=report,
                beside=counting,
            )

    def outputs(self) -> Sequence[Collection]:
        """What is to be collected of outputs in the passes back; nothing, with a note, where it can't be had."""
        assert self._inputs is not None, "inputs are summed first"
        cut = cut_windows(self._engine, self._texts, self._asked.windows)
        windows = self._engine.begun(chosen_windows(cut, self._asked.count))
        try:
            self._outputs = OutputsCollection(
                self._inputs,
                self._model,
                len(windows),
                memory=self._asked.memory,
                held_out=held_out_windows(self._inputs, windows),
                save=self._save,
            )
        except InvalidInput as error:
            self.without_outputs(error)
            return ()
        if lacking := self._outputs.lacking:
            say(f"note: inputs are not weighed by gradients, which takes --gram-memory {-(-lacking >> 20)}MiB or more")
        return (self._outputs,)

    def without_outputs(self, error: InvalidInput) -> None:
        """Go on without statistics of outputs, if they were not asked for by number; else raise the error."""
        if self._asked.backward is not None:
            raise error
        assert self._inputs is not None, "inputs are summed first"
        self._inputs, self._outputs = without_outputs(self._inputs), None
        for fault in error.faults:
            say(f"note: no statistics of outputs, errors are fed forward between columns only: {fault}")

    def write(self, *, force: bool) -> None:
        """Write what was collected; outputs that an interrupted run began, and this one does not want, are left out."""
        assert self._inputs is not None, "inputs are summed first"
        found = without_outputs(self._inputs) if self._outputs is None else self._outputs.gram
        write_gram(found, self._output, force=force)

    def remove_state(self) -> None:
        """Remove the state that an interrupted run would go on from."""
        self._partial.unlink(missing_ok=True)

    def _save(self, gram: Gram) -> Gram:
        write_gram(gram, self._partial, force=True)
        return read_gram(self._partial)


def print_estimated(
    opened: AbstractContextManager[Engine],
    texts: Sequence[Text],
    asked: GramOptions,
    output: Path,
    *,
    gram: Path | None,
    head: bool,
    as_json: bool,
) -> None:
    """Print what a collection takes. Raises InvalidInput as `_estimated` does."""
    with opened as engine:
        print_estimate(_estimated(engine, texts, asked, gram=gram, head=head), output, as_json=as_json)


def _estimated(engine: Engine, texts: Sequence[Text], asked: GramOptions, *, gram: Path | None, head: bool) -> Estimate:
    """The estimate of a collection: importance, Fisher information, and Gram statistics where there is a file of them.

    Raises InvalidInput where what is asked for by number can't be had.
    """
    model, left_out = open_model(engine.path), list[str]()
    first = (
        collecting(engine, texts, model, windows=asked.windows, output_head=head)
        if gram is None
        else collecting_with_gram(engine, texts, model, asked.windows, asked.memory, output_head=head)
    )
    found = [first]

    def add(stage: Callable[[], Stage], what: str) -> bool:
        try:
            found.append(stage())
        except InvalidInput as error:
            if asked.backward is not None:
                raise
            left_out.extend(f"no {what}: {fault}" for fault in error.faults)
            return False
        return True

    back = model, asked.count, asked.windows
    if asked.count:
        together = gram is not None and add(
            lambda: collecting_outputs(engine, texts, *back, asked.memory), "statistics of outputs"
        )
        if not together:
            add(lambda: collecting_fisher(engine, texts, *back), "Fisher information")
    return Estimate(tuple(found), tuple(left_out))
