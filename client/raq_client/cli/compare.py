"""`raq-client compare`: whether one quantization is better than another beyond noise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json
from raq_client.cli.progress import progress_bar
from raq_client.files.settings import read_settings
from raq_client.reports.plain import plain, plain_fields
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.evaluation.comparison import Comparison
    from raq_client.evaluation.report import Summary


def compare(
    candidates: Annotated[list[Path], typer.Argument(metavar="QUANTIZED...", help="Two files or more, in order.")],
    model: options.Model = None,
    text: options.Texts = None,
    context: options.Context = 512,
    windows: options.Windows = None,
    threads: options.Threads = 0,
    libllama: options.Library = None,
    as_json: options.Json = False,
) -> None:
    """Say which of several quantized files is better.

    All files are measured on the same tokens, and each is compared with the one before it: better, worse, or no
    difference beyond noise, with a confidence interval (bootstrap over windows of text) and the number of windows that
    would settle it. Each file's own KL divergence, perplexity and top-1 agreement are shown too.

    Example: raq-client compare RA3.gguf RA4.gguf --model model-f16.gguf --text held-out.txt
    """
    from raq_client.evaluation.comparison import compare_all
    from raq_client.evaluation.perplexity import measure
    from raq_client.prompts.texts import read_texts_for
    from raq_client.reports.check import comparison_report

    settings = read_settings(Path.cwd())
    original = model or settings.model
    faults = [Fault("", "two quantizations at least are needed")] if len(candidates) < 2 else []
    if original is None:
        faults.append(Fault("", "no original to compare with: name it with --model, or in raq.toml"))
    if faults or original is None:
        raise InvalidInput(faults)
    texts = read_texts_for(original, text or list(settings.text), library=libllama)
    found = []
    for candidate in candidates:
        with progress_bar(candidate.name[:22]) as report:
            found.append(
                measure(
                    original,
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
    levels = [(each.candidate, each.report().overall) for each in found]
    if as_json:
        overall = [level for _, level in levels]
        print_json([_step(*each) for each in zip(steps, overall, overall[1:], strict=False)])
    else:
        OUT.print(comparison_report(levels, steps))


def _step(step: "Comparison", first: "Summary", second: "Summary") -> dict[str, Any]:
    """A comparison as plain data, with the figures of each of the two files."""
    levels = {"first": _level(first), "second": _level(second)}
    return plain_fields(step) | {"verdict": step.verdict.value, "levels": levels}


def _level(of: "Summary") -> dict[str, Any]:
    return {
        "kl": plain(of.kl),
        "perplexity": plain(of.perplexity),
        "top1_agreement": plain(of.top1_agreement),
    }
