"""`raq-client run`: the whole road in one command."""

from pathlib import Path
from typing import Annotated, Any

import typer

from raq_client.cli import options
from raq_client.cli.check import checked, read_texts
from raq_client.cli.console import OUT, print_json, progress_bar, say, size_bar
from raq_client.cli.solve import EXIT_CODES, Format, merged_demands, print_plan
from raq_client.planning import Plan, Request, Sources, importance_of, make_plan, obtain_profile
from raq_client.settings import Settings, read_settings
from raq_client.solving import chosen_server
from raq_solver.errors import Fault, InvalidInput


def run(
    model: options.ModelArgument,
    budget: options.Budget,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.", show_default=False)] = None,
    imatrix: options.Imatrix = None,
    text: options.Texts = None,
    types: options.Types = None,
    loss: options.Loss = None,
    pin: options.Pin = None,
    floor: options.Floor = None,
    ceiling: options.Ceiling = None,
    exclude: options.Exclude = None,
    tie: options.Tie = None,
    server: options.Server = None,
    seconds: options.Seconds = None,
    effort: options.Effort = "fast",
    threads: options.Threads = 0,
    context: options.Context = 512,
    windows: options.Windows = None,
    libllama: options.Library = None,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Stop after the plan.")] = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Quantize MODEL to a budget: measure it, solve, write the file, and check it on text.

    Without --text the file is written but not checked.

    Example: raq-client run model-f16.gguf --budget 5.0 -i imatrix.gguf -t held-out.txt -o model-5bpw.gguf
    """
    settings = read_settings(Path.cwd())
    texts = read_texts(text or list(settings.text))
    target = _checked_target(output, plan_only=plan_only, force=force)
    imatrix = imatrix or settings.imatrix
    sources = Sources(model, imatrix, None, options.listed(types) or settings.types, effort, threads)
    plan = make_plan(
        obtain_profile(sources, progress_bar),
        _request(settings, budget, loss, server, seconds, (pin, floor, ceiling, exclude, tie)),
    )
    if not as_json or plan.outcome.allocation is None:
        print_plan(plan, budget, Format.JSON if as_json else Format.TABLE)
    code = EXIT_CODES[plan.outcome.termination]
    if plan.outcome.allocation is None:
        raise typer.Exit(code)
    result = _plan_dict(plan)
    if target is not None:
        result["file"] = _quantized(plan, sources, target, force=force, as_json=as_json)
        if texts:
            report = checked(model, target, texts, context, windows, threads, libllama)
            result["check"] = options.plain(report)
            if not as_json:
                from raq_client.measured_report import check_table

                OUT.print("")
                OUT.print(check_table(report))
        else:
            say("not checked: no --text was given")
    if as_json:
        print_json(result)
    raise typer.Exit(code)


def _checked_target(output: Path | None, *, plan_only: bool, force: bool) -> Path | None:
    """Where to write, or None for a plan only. Fails before the long work, not after it."""
    from raq_client.atomic_file import check_output

    if plan_only:
        return None
    if output is None:
        raise InvalidInput(Fault("", "nowhere to write: name a file with --output, or ask for --plan-only"))
    check_output(output, force=force)
    return output


def _request(
    settings: Settings,
    budget: str,
    loss: str | None,
    server: str | None,
    seconds: float | None,
    demands: tuple[list[str] | None, ...],
) -> Request:
    return Request(
        budget,
        loss or settings.loss,
        merged_demands(settings, *demands),
        chosen_server(server, settings.server),
        seconds,
    )


def _plan_dict(plan: Plan) -> dict[str, Any]:
    from raq_client.report import outcome_to_dict

    return {"plan": outcome_to_dict(plan.outcome, plan.table.source)}


def _quantized(plan: Plan, sources: Sources, target: Path, *, force: bool, as_json: bool) -> dict[str, Any]:
    from raq_client.model_file import open_model
    from raq_client.quantize import quantize_model

    assert sources.model is not None
    allocation, ledger = plan.outcome.unwrap()
    source = open_model(sources.model)
    importance = None if sources.imatrix is None else importance_of(source, sources.imatrix)
    with size_bar("quantizing", ledger.size) as report:
        written = quantize_model(
            source,
            allocation,
            importance,
            target,
            threads=sources.threads,
            effort=sources.effort,
            force=force,
            progress=report,
            metadata={"raq.profile": plan.profile.digest(), "raq.problem": plan.problem.digest()},
        )
    if not as_json:
        OUT.print(f"\n{target}: {written.size:,} bytes, of them {written.tensor_bytes:,} of tensor data")
    return options.plain_fields(written)
