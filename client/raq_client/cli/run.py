"""`raq-client run`: measure, plan, quantize and check a model in one command."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raq_client import pipeline
from raq_client.cli import options
from raq_client.cli.against_options import AgainstOptions
from raq_client.cli.console import OUT, print_json, say
from raq_client.cli.ended import ROUNDED, kept_when_ended
from raq_client.cli.follow import followed
from raq_client.cli.groups import CheckOptions, MeasureOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.plan_output import EXIT_CODES, Format, draw_moves, limit_kept, print_plan
from raq_client.cli.problem_options import ProblemOptions
from raq_client.cli.split_options import SplitOptions, check_files, sizes
from raq_client.cli.trial_options import TrialOptions, Untried
from raq_client.cli.worst_case_options import WorstCaseOptions
from raq_client.cli.written import check_written, files_named
from raq_client.engine.windows import Text
from raq_client.files.output_checks import check_output
from raq_client.files.settings import Settings, read_settings
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.plan import Plan
from raq_client.planning.request import Request
from raq_client.prompts.texts import read_texts_for
from raq_client.reports.plain import plain, plain_fields
from raq_client.reports.plan_json import plan_dict
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.evaluation.report import CheckReport
    from raq_client.models.writer import WrittenModel


@spread
def run(
    called: typer.Context,
    model: options.OptionalModel = None,
    budget: options.Budget = None,
    max_loss: options.MaxLoss = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write.", show_default=False),
    ] = None,
    *,
    measure: MeasureOptions,
    checks: CheckOptions,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Stop after the plan.")] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            rich_help_panel="Check",
            help="Write command, versions and digests of all files here.",
            show_default=False,
        ),
    ] = None,
    estimate: options.EstimateOnly = False,
    force: options.Force = False,
    as_json: options.Json = False,
    posed: ProblemOptions,
    trial: TrialOptions,
    against: AgainstOptions,
    worst: WorstCaseOptions,
    splitting: SplitOptions,
    sequential: options.Sequential = False,
    plot: options.MovesPlot = None,
) -> None:
    """Quantize a model to a budget and check it on text.

    Measures MODEL, solves, tries the plan against others in memory, writes the file and checks it.

    Without --text the file is written but not checked, and the plan not tried. --max-loss is a KL divergence, measured
    on the text.

    Example: raq-client run model-f16.gguf --budget 5.0 -i imatrix.gguf -t held-out.txt -o model-5bpw.gguf
    """
    settings = read_settings(Path.cwd())
    target = _target(output, plan_only=plan_only, sequential=sequential)
    early = None if target is None else splitting.likely(target)
    check_written(called, {"output": early}, {"manifest": manifest, "plot": plot}, force=force, also=settings.files())
    inputs = replace(measure.inputs_of(model, settings), sequential=sequential)
    _ = inputs.rounding
    texts, tried_on = _texts(inputs, checks, settings, trial)
    request = posed.request(settings, budget, max_loss=max_loss)
    worst.refuse({"--max-loss": max_loss is not None, "--text-weight": bool(measure.text_weight)})
    if estimate:
        _print_estimate(inputs, request, target, (texts, tried_on), checks, trial, as_json=as_json)
        return
    with posed.solver(settings) as solver, limit_kept():
        plan, inputs = _planned(inputs, request, posed, worst, settings)
        if target is not None and plan.outcome.ledger is not None:
            # Now, not after hours of trying.
            files = pipeline.quantized_paths(plan, inputs, target, splitting.split())
            check_files(called, files, force=force, also=settings.files())
            check_output(files[0], force=force, needed=plan.outcome.ledger.size)
        untried = Untried(plan, inputs, tried_on or texts, checks.libllama, solver, posed.limits)
        plan, result = trial.better(untried, as_json=as_json)
    if not as_json or plan.outcome.allocation is None:
        print_plan(plan, Format.JSON if as_json else Format.TABLE)
    draw_moves(plan, plot)
    code = EXIT_CODES[plan.outcome.termination]
    if plan.outcome.allocation is None:
        raise typer.Exit(code)
    result = {"plan": plan_dict(plan)} | result
    outputs: list[Path] = []
    if target is not None:
        written = _written(plan, inputs, target, splitting, force=force, as_json=as_json)
        result |= {"file": plain_fields(written)}
        result |= _checked(plan, inputs, written.path, texts, checks, against, as_json=as_json)
        outputs = list(written.paths)
    if manifest is not None:
        _keep_manifest(called, manifest, inputs, [Path(each.name) for each in texts], outputs, result)
    if as_json:
        print_json(result)
    raise typer.Exit(code)


def _print_estimate(
    inputs: ModelInputs,
    request: Request,
    target: Path | None,
    texts: tuple[list[Text], list[Text]],
    checks: CheckOptions,
    trial: TrialOptions,
    *,
    as_json: bool,
) -> None:
    from raq_client.cli.estimate import print_estimate
    from raq_client.estimates.run import estimated_run

    checked, tried_on = texts
    how = {"context": checks.context, "windows": checks.windows, "library": checks.libllama}
    seconds = None if trial.no_trial or not (tried_on or checked) else 60 * trial.trial_minutes
    written = target is not None
    found = estimated_run(inputs, request, checked, trial_seconds=seconds, writes=written, how=how)
    print_estimate(found, target or Path("x"), as_json=as_json)


def _planned(
    inputs: ModelInputs, request: Request, posed: ProblemOptions, worst: WorstCaseOptions, settings: Settings
) -> tuple[Plan, ModelInputs]:
    """The plan, and the inputs for writing its file."""
    if worst.worst_case:
        return worst.plan(inputs, (), request, posed, settings)
    with followed() as progress, posed.solver(settings) as solver:
        return pipeline.plan(inputs, request, solver, posed.limits, progress=progress, notes=say), inputs


def _texts(
    inputs: ModelInputs, checks: CheckOptions, settings: Settings, trial: TrialOptions
) -> tuple[list[Text], list[Text]]:
    """Texts to check on and to try on. Raises InvalidInput at once if the model can't be evaluated on them."""
    from raq_client.engine.loading import evaluable

    model = inputs.model.path
    texts = read_texts_for(model, checks.texts(settings), library=checks.libllama)
    tried_on = trial.texts(model, checks.libllama)
    if texts or tried_on:
        evaluable(model)
    return texts, tried_on


def _written(
    plan: Plan, inputs: ModelInputs, target: Path, splitting: SplitOptions, *, force: bool, as_json: bool
) -> "WrittenModel":
    from raq_client.quantizing.quantize import rounded_folder

    kept = [rounded_folder(splitting.likely(target))] if inputs.sequential else ()
    with kept_when_ended(kept, ROUNDED), followed() as progress:
        written = pipeline.quantize(plan, inputs, target, split=splitting.split(), force=force, progress=progress)
    if not as_json:
        OUT.print(f"\n{sizes(written)}")
    return written


def _checked(
    plan: Plan,
    inputs: ModelInputs,
    target: Path,
    texts: list[Text],
    checks: CheckOptions,
    against: AgainstOptions,
    *,
    as_json: bool,
) -> dict[str, Any]:
    """Check the file; return its parts of the JSON result."""
    if not texts:
        say("not checked: no --text was given")
        return {}
    with followed() as progress:
        measured = pipeline.measure(
            inputs.model.path,
            target,
            texts,
            context=checks.context,
            windows=checks.windows,
            threads=inputs.threads,
            library=checks.libllama,
            progress=progress,
        )
    report = measured.report()
    for warning in report.warnings:
        say(f"note: {warning}")
    _print_check(report, as_json=as_json)
    return {"check": plain(report)} | against.report(plan, measured, inputs, texts, target, checks, as_json=as_json)


def _print_check(report: "CheckReport", *, as_json: bool) -> None:
    from raq_client.reports.check import check_table

    if not as_json:
        OUT.print("")
        OUT.print(check_table(report))


def _keep_manifest(
    called: typer.Context,
    path: Path,
    inputs: ModelInputs,
    texts: list[Path],
    outputs: list[Path],
    result: dict[str, Any],
) -> None:
    """Write the manifest of the run: its inputs, with every file that an argument names, and its outputs."""
    from raq_client.files.manifest import make_manifest, write_manifest
    from raq_client.hub.names import origin_of
    from raq_client.importance.domains import named_file

    importance = [named_file(text)[0] for text in inputs.imatrix]
    grams = () if inputs.gram is None else (inputs.gram,)
    named = files_named([value for name, value in called.params.items() if name not in {"output", "manifest", "plot"}])
    read = dict.fromkeys((*inputs.model.shards, *importance, *grams, *texts, *named))
    origins = {str(shard): origin for shard in inputs.model.shards if (origin := origin_of(shard)) is not None}
    write_manifest(make_manifest(sys.argv, read, outputs, {"origins": origins} | result), path)


def _target(output: Path | None, *, plan_only: bool, sequential: bool) -> Path | None:
    """The file to write, or None with `plan_only`. Raises InvalidInput if neither is given, or how to write nothing."""
    if plan_only:
        if sequential:
            raise InvalidInput(Fault("--sequential", "is how a file is written, and --plan-only writes none"))
        return None
    if output is None:
        raise InvalidInput(Fault("", "nowhere to write: give --output FILE, or --plan-only"))
    return output
