"""`raq-client check`: the distance of a quantized model from its original, measured on text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, fail, print_json, say
from raq_client.cli.progress import progress_bar
from raq_client.cli.written import check_written
from raq_client.files.settings import read_settings
from raq_client.prompts.texts import read_texts_for
from raq_client.reports.plain import plain
from raq_solver.errors import Fault, InvalidInput, raise_faults

if TYPE_CHECKING:
    from raq_client.engine.windows import Text
    from raq_client.evaluation.report import CheckReport
    from raq_client.evaluation.speed import Speed
    from raq_client.planning.predicted_kl import PredictedKl

EXIT_NOT_PASSED: Final = 6
USUAL_CONTEXT: Final = 512


def check(
    called: typer.Context,
    candidate: Annotated[
        Path | None,
        typer.Argument(metavar="[QUANTIZED]", help="The quantized model; may be left out with --save-baseline."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(*options.MODEL_NAMES, help="The original to compare with.", show_default=False),
    ] = None,
    text: options.Texts = None,
    context: options.Context = USUAL_CONTEXT,
    windows: options.Windows = None,
    threads: options.Threads = 0,
    libllama: options.Library = None,
    save_baseline: Annotated[
        Path | None,
        typer.Option(
            "--save-baseline",
            metavar="FILE",
            help="Save the original's predictions, to check against without it; llama-perplexity reads the file too.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="FILE",
            help="A saved baseline (or llama-perplexity's --kl-divergence-base) in place of --model and --text.",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="The plan that made the file (solve --json, run --json, a manifest): say whether what is measured "
            "lies in its predicted interval.",
            show_default=False,
        ),
    ] = None,
    max_kl: Annotated[
        float | None, typer.Option("--max-kl", min=0, help="Exit with 6 if the mean KL divergence is above this.")
    ] = None,
    speed: Annotated[
        bool,
        typer.Option(
            "--speed", help="Measure tokens a second too, beside the original and llama.cpp's mixture of equal size."
        ),
    ] = False,
    estimate: options.EstimateOnly = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Measure how far a quantized model is from its original.

    Prints perplexity, KL divergence and top-1 agreement with standard errors, as llama-perplexity defines them: windows
    of 512 tokens, the second half of each scored. A saved baseline is rounded to 16 bits and ends 16 nats below the
    likeliest token, which moved the mean KL divergence by less than 0.00002 where it was tried.

    Example: raq-client check model-raq.gguf --model model-f16.gguf --text held-out.txt
    """
    raise_faults(_clashes(candidate, model, text, save_baseline, baseline))
    if speed and (baseline or save_baseline):
        raise InvalidInput(Fault("--speed", "is measured beside the original: leave the baseline out"))
    if estimate and baseline:
        raise InvalidInput(Fault("--estimate", "needs the original: name it with --model in place of --baseline"))
    expected = _expected(plan, candidate)
    if baseline is None:
        settings = read_settings(Path.cwd())
        original = model or settings.model
        if original is None:
            what = "no original to compare with: name it with --model or --baseline, or in raq.toml"
            raise InvalidInput(Fault("", what))
        check_written(called, {"save_baseline": save_baseline}, force=force, also=settings.files())
        texts = read_texts_for(original, text or list(settings.text), library=libllama)
        if estimate:
            how = {"context": context, "windows": windows, "threads": threads, "library": libllama}
            _print_estimate(original, candidate or original, texts, save_baseline, how, as_json=as_json)
            return
        if save_baseline is None:
            assert candidate is not None, "there is one without --save-baseline"
            report = checked(original, candidate, texts, context, windows, threads, libllama)
            speeds = measured_speeds(original, candidate, threads, libllama) if speed else ()
            _tell(report, max_kl, speeds, expected, as_json=as_json)
            return
        _save(original, texts, save_baseline, context, windows, threads, libllama, force=force)
        windows = None  # it was counted for each text, and the file holds no more
    if candidate is not None:
        stored = baseline or save_baseline
        assert stored is not None, "one of them was named"
        report = _checked_stored(stored, candidate, context, windows, threads, libllama)
        _tell(report, max_kl, (), expected, as_json=as_json)


def checked(
    baseline: Path,
    candidate: Path,
    texts: "list[Text]",
    context: int,
    windows: int | None,
    threads: int,
    library: Path | None,
) -> "CheckReport":
    """Run the check with a progress bar, and print its warnings."""
    from raq_client.evaluation import perplexity

    with progress_bar("checking") as progress:
        report = perplexity.measure(
            baseline,
            candidate,
            texts,
            context=context,
            windows=windows,
            threads=threads,
            library=library,
            progress=progress,
        ).report()
    for warning in report.warnings:
        say(f"note: {warning}")
    return report


def measured_speeds(original: Path, candidate: Path, threads: int, library: Path | None) -> "tuple[Speed, ...]":
    """The speeds of both models, and of llama.cpp's mixture of the candidate's size, from a temporary file."""
    import tempfile

    from raq_client.evaluation.speed import measure_speeds, write_mixture_of_size
    from raq_client.models.model_file import open_model

    opened = open_model(candidate)
    with tempfile.TemporaryDirectory(dir=opened.path.absolute().parent, prefix=".raq-") as folder:
        say("measuring speeds")
        size = sum(tensor.size for tensor in opened.tensors)
        mixture = write_mixture_of_size(open_model(original), size, Path(folder), threads=threads)
        return measure_speeds((candidate, mixture, original), threads=threads, library=library)


def _print_estimate(
    original: Path, candidate: Path, texts: "list[Text]", save: Path | None, how: dict[str, Any], *, as_json: bool
) -> None:
    from raq_client.cli.estimate import print_estimate
    from raq_client.estimates.estimate import Estimate
    from raq_client.estimates.stages import checking

    left_out = () if save is None else ("the size of the baseline is not estimated",)
    print_estimate(Estimate((checking(original, candidate, texts, **how),), left_out), save or Path(), as_json=as_json)


def _checked_stored(
    stored: Path, candidate: Path, context: int, windows: int | None, threads: int, library: Path | None
) -> "CheckReport":
    from raq_client.evaluation.kl_baseline import measure_against_stored, open_baseline

    opened = open_baseline(stored)
    if context not in {USUAL_CONTEXT, opened.context}:
        what = f"holds windows of {opened.context} tokens, not of {context}: leave --context out"
        raise InvalidInput(Fault(str(stored), what))
    if opened.origin is not None:
        say(f"note: {stored} holds the predictions of {opened.origin.model} ({opened.origin.model_sha256[:12]}…)")
    with progress_bar("checking") as progress:
        measured = measure_against_stored(
            opened, candidate, windows=windows, threads=threads, library=library, progress=progress
        )
    report = measured.report()
    for warning in report.warnings:
        say(f"note: {warning}")
    return report


def _save(
    original: Path,
    texts: "list[Text]",
    out: Path,
    context: int,
    windows: int | None,
    threads: int,
    library: Path | None,
    *,
    force: bool,
) -> None:
    from raq_client.evaluation.kl_baseline import write_baseline

    with progress_bar("reading the original") as progress:
        write_baseline(
            original,
            texts,
            out,
            context=context,
            windows=windows,
            threads=threads,
            library=library,
            force=force,
            progress=progress,
        )
    say(f"{out}: {out.stat().st_size:,} bytes, a baseline for --baseline")


def _clashes(
    candidate: Path | None, model: Path | None, text: list[Path] | None, save: Path | None, baseline: Path | None
) -> list[Fault]:
    faults = []
    if candidate is None and save is None:
        faults.append(Fault("", "nothing to check: name a quantized model"))
    if baseline is not None:
        given = {"--model": model, "--text": text, "--save-baseline": save}
        faults += [
            Fault("--baseline", f"holds the original's answers and their text already: leave {name} out")
            for name, value in given.items()
            if value
        ]
    return faults


def _expected(plan: Path | None, candidate: Path | None) -> "PredictedKl | None":
    """The KL divergence that a plan predicts of its file. Raises InvalidInput if the file is not of this plan."""
    if plan is None:
        return None
    if candidate is None:
        raise InvalidInput(Fault("--plan", "is set beside a measured file: name the quantized model too"))
    from raq_client.models.model_file import open_model
    from raq_client.planning.predicted_file import read_planned_kl

    found = read_planned_kl(plan)
    found.require_of(open_model(candidate))
    return found.predicted


def _tell(
    report: "CheckReport",
    max_kl: float | None,
    speeds: "tuple[Speed, ...]",
    expected: "PredictedKl | None",
    *,
    as_json: bool,
) -> None:
    from raq_client.reports.predicted import beside_measured_dict, beside_measured_text

    if as_json:
        beside = beside_measured_dict(expected, report.overall.kl)
        further = {"speed": plain(speeds), "predicted": beside}
        print_json(plain(report) | {name: value for name, value in further.items() if value})
    else:
        from raq_client.reports.check import check_table, speed_table

        OUT.print(check_table(report))
        if expected is not None:
            text = beside_measured_text(expected, report.overall.kl)
            OUT.print(text or f"predicted {expected.value:#.3g}, without an interval", soft_wrap=True)
        if speeds:
            OUT.print("")
            OUT.print(speed_table(speeds))
    found = report.overall.kl.value
    if max_kl is not None and not found <= max_kl:  # NaN passes no gate
        fail(f"mean KL divergence {found:.6f} is {'above' if found > max_kl else 'not at most'} {max_kl}")
        raise typer.Exit(EXIT_NOT_PASSED)
