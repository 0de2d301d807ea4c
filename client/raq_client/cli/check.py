"""`raq-client check`: how far is a quantized model from its original."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, progress_bar, say
from raq_client.settings import read_settings
from raq_client.texts import read_texts
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.check_report import CheckReport
    from raq_client.perplexity import Text

EXIT_NOT_PASSED: Final = 6


def check(
    candidate: Annotated[Path, typer.Argument(metavar="QUANTIZED", help="The quantized model.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="The original to compare with.", show_default=False)
    ] = None,
    text: options.Texts = None,
    context: options.Context = 512,
    windows: options.Windows = None,
    threads: options.Threads = 0,
    libllama: options.Library = None,
    max_kl: Annotated[
        float | None, typer.Option("--max-kl", min=0, help="Exit with 6 if the mean KL divergence is above this.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure perplexity, KL divergence and top-1 agreement of QUANTIZED against the original, with standard errors.

    Definitions are llama-perplexity's: windows of 512 tokens, the second half scored.

    Example: raq-client check model-raq.gguf --model model-f16.gguf --text held-out.txt
    """
    settings = read_settings(Path.cwd())
    baseline = model or settings.model
    if baseline is None:
        raise InvalidInput(Fault("", "no original to compare with: name it with --model, or in raq.toml"))
    texts = read_texts(text or list(settings.text))
    report = checked(baseline, candidate, texts, context, windows, threads, libllama)
    if as_json:
        print_json(options.plain(report))
    else:
        from raq_client.measured_report import check_table

        OUT.print(check_table(report))
    if max_kl is not None and report.overall.kl.value > max_kl:
        say(f"raq-client: mean KL divergence {report.overall.kl.value:.6f} is above {max_kl}")
        raise typer.Exit(EXIT_NOT_PASSED)


def checked(
    baseline: Path,
    candidate: Path,
    texts: "list[Text]",
    context: int,
    windows: int | None,
    threads: int,
    library: Path | None,
) -> "CheckReport":
    """Run the check behind a progress bar, and pass its warnings on."""
    from raq_client import perplexity

    with progress_bar("checking") as progress:
        report = perplexity.check(
            baseline,
            candidate,
            texts,
            context=context,
            windows=windows,
            threads=threads,
            library=library,
            progress=progress,
        )
    for warning in report.warnings:
        say(f"note: {warning}")
    return report
