"""`raq-client compare`: is one quantization better than another, or is it noise."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, progress_bar
from raq_client.engine.texts import read_texts
from raq_client.files.settings import read_settings
from raq_solver.errors import Fault, InvalidInput


def compare(
    candidates: Annotated[list[Path], typer.Argument(metavar="QUANTIZED...", help="Two or more, in order.")],
    model: options.Model = None,
    text: options.Texts = None,
    context: options.Context = 512,
    windows: options.Windows = None,
    threads: options.Threads = 0,
    libllama: options.Library = None,
    as_json: options.Json = False,
) -> None:
    """Compare quantizations of one model on the same tokens, each with the one before it.

    Says better, worse, or no difference beyond noise, with a confidence interval by bootstrap over windows, and how
    many windows would settle it.

    Example: raq-client compare RA3.gguf RA4.gguf --model model-f16.gguf --text held-out.txt
    """
    from raq_client.evaluation.comparison import compare_all
    from raq_client.evaluation.perplexity import measure
    from raq_client.reports.check import comparison_table

    settings = read_settings(Path.cwd())
    baseline = model or settings.model
    faults = [Fault("", "two quantizations at least are needed")] if len(candidates) < 2 else []
    if baseline is None:
        faults.append(Fault("", "no original to compare with: name it with --model, or in raq.toml"))
    if faults or baseline is None:
        raise InvalidInput(faults)
    texts = read_texts(text or list(settings.text))
    found = []
    for candidate in candidates:
        with progress_bar(candidate.name[:22]) as report:
            found.append(
                measure(
                    baseline,
                    candidate,
                    texts,
                    context=context,
                    windows=windows,
                    threads=threads,
                    library=libllama,
                    progress=report,
                )
            )
    steps = compare_all(found)
    if as_json:
        print_json([options.plain(step) | {"verdict": step.verdict.value} for step in steps])
    else:
        OUT.print(comparison_table(steps))
