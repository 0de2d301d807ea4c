"""Gram statistics of `raq-client imatrix collect --gram`, with the state of an interrupted run."""

from collections.abc import Sequence
from pathlib import Path

from raq_client.cli.console import say
from raq_client.cli.progress import progress_bar
from raq_client.compensation.collect import UNFINISHED, collect_gram
from raq_client.compensation.gram import Gram
from raq_client.compensation.gram_file import read_gram, write_gram
from raq_client.engine import Engine
from raq_client.engine.windows import Text
from raq_client.models.model_file import open_model
from raq_solver.errors import Fault, InvalidInput


def partial_gram(output: Path) -> Path:
    """The file with the state of an interrupted collection."""
    return output.with_name(f"{output.stem}.partial.gram")


def gathered(engine: Engine, texts: Sequence[Text], output: Path, windows: int | None, memory: int) -> Gram:
    """Gram statistics for `output`, continued from an interrupted run if there is one.

    Raises InvalidInput if that was of another model or other texts.
    """
    partial = partial_gram(output)
    resume = None
    if partial.exists():
        resume = read_gram(partial)
        if resume.digest() != UNFINISHED:
            raise InvalidInput(Fault(str(partial), "is no state of an interrupted run; remove it"))
        say(f"going on from {partial}")

    def save(gram: Gram) -> Gram:
        write_gram(gram, partial, force=True)
        return read_gram(partial)

    with progress_bar("Gram statistics") as report:
        return collect_gram(
            engine,
            open_model(engine.path),
            texts,
            windows=windows,
            memory=memory,
            resume=resume,
            save=save,
            progress=report,
        )
