"""`raq-client run`: the whole road in one command."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raq_client.cli import options
from raq_client.cli.base_options import BaseOptions, MemoryOptions
from raq_client.cli.check import checked
from raq_client.cli.console import OUT, print_json, say, size_bar
from raq_client.cli.constraint_options import ConstraintOptions
from raq_client.cli.gate_options import GateOptions
from raq_client.cli.groups import AskOptions, CheckOptions, MeasureOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.refining import RefineOptions
from raq_client.cli.solve import EXIT_CODES, Format, draw_moves, plan_dict, plan_for, print_plan
from raq_client.cli.trial_options import TrialOptions
from raq_client.cli.worst_case_options import WorstCaseOptions
from raq_client.cli.written import check_written
from raq_client.engine.texts import read_texts
from raq_client.engine.windows import Text
from raq_client.files.output_checks import check_output
from raq_client.files.settings import read_settings
from raq_client.planning.plan import Plan, Request, Sources, importance_of
from raq_client.planning.worst_case_plan import blended
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.evaluation.report import CheckReport


@spread
def run(
    called: typer.Context,
    model: options.ModelArgument,
    budget: options.Budget = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.", show_default=False)] = None,
    *,
    measure: MeasureOptions,
    demand: ConstraintOptions,
    ask: AskOptions,
    checks: CheckOptions,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Stop after the plan.")] = False,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", help="Write command, versions and digests of all files here.", show_default=False),
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
    around: BaseOptions,
    memory: MemoryOptions,
    refining: RefineOptions,
    trial: TrialOptions,
    gate: GateOptions,
    worst: WorstCaseOptions,
) -> None:
    """Quantize MODEL to a budget: measure it, solve, try the plan against others, write the file, check it on text.

    Without --text the file is written but not checked, and without any text the plan is carried out untried.

    Example: raq-client run model-f16.gguf --budget 5.0 -i imatrix.gguf -t held-out.txt -o model-5bpw.gguf
    """
    settings = read_settings(Path.cwd())
    target = _target(output, plan_only=plan_only)
    replaced = {"manifest": manifest, "plot": around.plot}
    check_written(called, {"output": target}, replaced, force=force, also=settings.files())
    texts, tried_on = _texts(model, checks.texts(settings), refining)
    sources = measure.of_model(model, settings)
    request = Request(
        budget,
        ask.loss_model(settings),
        demand.demands(settings),
        ask.solved_at(settings),
        ask.seconds,
        around.around(settings, memory),
    )
    worst.refuse({"--refine": bool(refining.refine)})
    plan, sources = _planned(sources, request, worst)
    if target is not None and plan.outcome.ledger is not None:
        check_output(target, force=force, needed=plan.outcome.ledger.size)  # now, not after hours of trying
    plan, result = _refined(plan, sources, request, refining, trial, tried_on or texts, checks, as_json=as_json)
    if not as_json or plan.outcome.allocation is None:
        print_plan(plan, Format.JSON if as_json else Format.TABLE)
    draw_moves(plan, around.plot)
    code = EXIT_CODES[plan.outcome.termination]
    if plan.outcome.allocation is None:
        raise typer.Exit(code)
    result = {"plan": plan_dict(plan)} | result
    if target is not None:
        result["file"] = _quantized(plan, sources, target, force=force, as_json=as_json)
    if target is not None and texts:
        report = checked(model, target, texts, checks.check_context, checks.windows, measure.threads, checks.libllama)
        result["check"] = _told(report, as_json=as_json)
        result |= gate.told(plan, report, sources, texts, checks.windows, checks.libllama, as_json=as_json)
    elif target is not None:
        say("not checked: no --text was given")
    if manifest is not None:
        _keep_manifest(manifest, sources, [Path(each.name) for each in texts], target, result)
    if as_json:
        print_json(result)
    raise typer.Exit(code)


def _planned(sources: Sources, request: Request, worst: WorstCaseOptions) -> tuple[Plan, Sources]:
    """The plan, and the sources that it is carried out from."""
    if worst.worst_case:
        return worst.plan(sources, (), request), blended(sources)
    return plan_for(sources, request), sources


def _texts(model: Path, files: list[Path], refining: RefineOptions) -> tuple[list[Text], list[Text]]:
    """Texts to check on and to refine on. Raises InvalidInput at once where the model can't be evaluated on them."""
    from raq_client.engine.loading import evaluable

    texts, tried_on = read_texts(files), refining.texts()
    if texts or tried_on:
        evaluable(model)
    return texts, tried_on


def _refined(
    plan: Plan,
    sources: Sources,
    request: Request,
    refining: RefineOptions,
    trial: TrialOptions,
    texts: list[Text],
    checks: CheckOptions,
    *,
    as_json: bool,
) -> tuple[Plan, dict[str, Any]]:
    """The plan after it was refined, or else tried against others; and what the result says of that."""
    if plan.compromise is not None:
        return plan, {}
    if refining.refine:
        return refining.refined(plan, sources, request, texts, checks.libllama), {}
    return trial.tried(plan, sources, request, texts, checks.libllama, as_json=as_json)


def _told(report: "CheckReport", *, as_json: bool) -> Any:
    """The check as plain data, shown as a table unless the data is what is wanted."""
    from raq_client.reports.check import check_table

    if not as_json:
        OUT.print("")
        OUT.print(check_table(report))
    return options.plain(report)


def _keep_manifest(
    path: Path, sources: Sources, texts: list[Path], target: Path | None, result: dict[str, Any]
) -> None:
    """Write what the run was made from and what it made."""
    from raq_client.files.manifest import make_manifest, write_manifest
    from raq_client.importance.domains import named_file
    from raq_client.models.model_file import open_model

    assert sources.model is not None
    importance = [named_file(text)[0] for text in sources.imatrix]
    inputs = [*open_model(sources.model).shards, *importance, *texts]
    outputs = [] if target is None else [target]
    write_manifest(make_manifest(sys.argv, inputs, outputs, result), path)


def _target(output: Path | None, *, plan_only: bool) -> Path | None:
    """Where to write, or None for a plan only. Raises InvalidInput for neither."""
    if plan_only:
        return None
    if output is None:
        raise InvalidInput(Fault("", "nowhere to write: name a file with --output, or ask for --plan-only"))
    return output


def _quantized(plan: Plan, sources: Sources, target: Path, *, force: bool, as_json: bool) -> dict[str, Any]:
    from raq_client.models.model_file import open_model
    from raq_client.quantizing.quantize import quantize_model

    assert sources.model is not None
    allocation, ledger = plan.outcome.unwrap()
    source = open_model(sources.model)
    importance = importance_of(source, sources.imatrix)
    with size_bar("quantizing", ledger.size) as report:
        written = quantize_model(
            source,
            allocation,
            importance,
            target,
            threads=sources.threads,
            effort=sources.effort,
            device=sources.device,
            force=force,
            progress=report,
            metadata={"raq.profile": plan.profile.digest(), "raq.problem": plan.problem.digest()},
        )
    if not as_json:
        OUT.print(f"\n{target}: {written.size:,} bytes, of them {written.tensor_bytes:,} of tensor data")
    return options.plain_fields(written)
