"""`raq-client imatrix collect`: run calibration text through a model and count what drives each tensor."""

import hashlib
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, progress_bar, say
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.checking.perplexity import Text
    from raq_client.importance.imatrix import Importance


class Sums(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """How sums are kept while they grow."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"


def collect(
    model: options.ModelArgument,
    output: options.Output,
    text: options.Texts = None,
    context: options.Context = 512,
    windows: options.Windows = None,
    output_head: Annotated[bool, typer.Option("--process-output", help="Count the output head too.")] = False,
    sums: Annotated[
        Sums, typer.Option("--sums", help="How to add: float64, or float32 with llama-imatrix's errors of rounding.")
    ] = Sums.FLOAT64,
    threads: options.Threads = 0,
    libllama: options.Library = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Collect importance as llama-imatrix does, value for value: mean squared inputs of every tensor, per expert.

    Reads plain text, and .jsonl files of chats and completions (what the model is to say is counted, reasoning and
    tool calls included). Written every 50 windows to OUTPUT.partial, from which an interrupted run goes on. A name
    that ends in .dat gives the older file format.

    Example: raq-client imatrix collect model-f16.gguf --text reasoning.txt -o reasoning.imatrix.gguf
    """
    from raq_client.checking.collect import collect as count
    from raq_client.checking.texts import read_texts
    from raq_client.files.atomic_file import check_output
    from raq_client.importance.imatrix_files import write_importance

    check_output(output, force=force)
    texts = read_texts(text or [])
    partial = output.with_name(f"{output.stem}.partial.gguf")
    marks = _marks(model, texts, f"{output_head} {sums.value} {windows if len(texts) > 1 else ''}")
    resume = _resumed(partial, marks)
    with progress_bar("collecting") as report:
        found = count(
            model,
            texts,
            context=context,
            windows=windows,
            output_head=output_head,
            sums=sums.value,
            threads=threads,
            library=libllama,
            resume=resume,
            save=lambda importance: write_importance(replace(importance, datasets=marks), partial, force=True),
            progress=report,
        )
    write_importance(found, output, force=force)
    partial.unlink(missing_ok=True)
    if as_json:
        print_json(
            {
                "output": str(output),
                "entries": len(found.entries),
                "windows": found.chunk_count,
                "context": found.chunk_size,
                "digest": found.digest(),
            }
        )
    else:
        say(f"{output}: {len(found.entries)} tensors, {found.chunk_count} windows of {found.chunk_size} tokens")


def _marks(model: Path, texts: "list[Text]", ways: str) -> tuple[str, ...]:
    """What a partial file is of: the names of the texts, and a digest of these, the model and what sums depend on."""
    from raq_client.models.model_file import open_model

    state = hashlib.sha256(f"{open_model(model).fingerprint()} {ways}".encode())
    for each in texts:
        state.update(hashlib.sha256(each.content.encode()).digest())
    return *(each.name for each in texts), f"sha256:{state.hexdigest()}"


def _resumed(partial: Path, marks: tuple[str, ...]) -> "Importance | None":
    """What an interrupted run counted; raises InvalidInput if it was another one."""
    from raq_client.importance.imatrix_files import read_importance

    if not partial.exists():
        return None
    found = read_importance(partial)
    if found.datasets != marks:
        texts = ", ".join(found.datasets[:-1])
        what = f"was begun with another model, other texts ({texts}) or other options; remove it, or give the same"
        raise InvalidInput(Fault(str(partial), what))
    say(f"going on from {partial}: {found.chunk_count} windows are counted")
    return found
