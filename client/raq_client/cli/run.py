"""`raq-client run`: the whole road in one command."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raq_client.cli import options
from raq_client.cli.around_options import BaseOptions, MemoryOptions
from raq_client.cli.check import checked
from raq_client.cli.console import OUT, print_json, say, size_bar
from raq_client.cli.gate_options import GateOptions
from raq_client.cli.refining import refined_plan
from raq_client.cli.side_options import SideOptions
from raq_client.cli.solve import EXIT_CODES, Format, draw_moves, merged_demands, plan_dict, plan_for, print_plan
from raq_client.cli.spread import spread
from raq_client.planning import Plan, Request, Sources, importance_of
from raq_client.premises import Around
from raq_client.selection import Demands
from raq_client.settings import Settings, read_settings
from raq_client.solving import chosen_server
from raq_client.texts import read_texts
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.check_report import CheckReport


@spread
def run(
    model: options.ModelArgument,
    budget: options.Budget = None,
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
    check_context: Annotated[int, typer.Option("--check-context", min=8, help="Tokens of a window.")] = 512,
    windows: options.Windows = None,
    libllama: options.Library = None,
    refine: Annotated[
        int, typer.Option("--refine", min=0, help="Rounds of trying, measuring and solving again; needs --calibration.")
    ] = 0,
    calibration: Annotated[
        list[Path] | None,
        typer.Option("--calibration", help="Text to refine on, not the one to check on.", show_default=False),
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Stop after the plan.")] = False,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", help="Write command, versions and digests of all files here.", show_default=False),
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
    *,
    around: BaseOptions,
    memory: MemoryOptions,
    side: SideOptions,
    gate: GateOptions,
) -> None:
    """Quantize MODEL to a budget: measure it, solve, write the file, and check it on text.

    Without --text the file is written but not checked.

    Example: raq-client run model-f16.gguf --budget 5.0 -i imatrix.gguf -t held-out.txt -o model-5bpw.gguf
    """
    settings = read_settings(Path.cwd())
    texts = read_texts(text or list(settings.text))
    target = _checked_target(output, plan_only=plan_only, force=force)
    named = tuple(imatrix or settings.imatrix)
    offered = options.listed(types) or settings.types
    sources = Sources(model, named, None, offered, effort, threads, settings.rows)
    demands = side.over(merged_demands(settings, pin, floor, ceiling, exclude, tie))
    wanted = around.around(settings, memory)
    request = _request(settings, budget, loss, server, seconds, demands, wanted)
    plan = plan_for(sources, request)
    if refine and plan.outcome.allocation is not None:
        plan = refined_plan(plan, sources, request, refine, read_texts(calibration or []), libllama)
    if not as_json or plan.outcome.allocation is None:
        print_plan(plan, Format.JSON if as_json else Format.TABLE)
    draw_moves(plan, around.plot)
    code = EXIT_CODES[plan.outcome.termination]
    if plan.outcome.allocation is None:
        raise typer.Exit(code)
    result: dict[str, Any] = {"plan": plan_dict(plan)}
    if target is not None:
        result["file"] = _quantized(plan, sources, target, force=force, as_json=as_json)
    if target is not None and texts:
        report = checked(model, target, texts, check_context, windows, threads, libllama)
        result["check"] = _told(report, as_json=as_json)
        result |= gate.told(plan, report, sources, texts, windows, libllama, as_json=as_json)
    elif target is not None:
        say("not checked: no --text was given")
    if manifest is not None:
        _keep_manifest(manifest, sources, [Path(each.name) for each in texts], target, result)
    if as_json:
        print_json(result)
    raise typer.Exit(code)


def _told(report: "CheckReport", *, as_json: bool) -> Any:
    """The check as plain data, shown as a table unless the data is what is wanted."""
    from raq_client.measured_report import check_table

    if not as_json:
        OUT.print("")
        OUT.print(check_table(report))
    return options.plain(report)


def _keep_manifest(
    path: Path, sources: Sources, texts: list[Path], target: Path | None, result: dict[str, Any]
) -> None:
    """Write what the run was made from and what it made."""
    from raq_client.domains import named_file
    from raq_client.manifest import make_manifest, write_manifest
    from raq_client.model_file import open_model

    assert sources.model is not None
    importance = [named_file(text)[0] for text in sources.imatrix]
    inputs = [*open_model(sources.model).shards, *importance, *texts]
    outputs = [] if target is None else [target]
    write_manifest(make_manifest(sys.argv, inputs, outputs, result), path)


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
    budget: str | None,
    loss: str | None,
    server: str | None,
    seconds: float | None,
    demands: Demands,
    around: Around,
) -> Request:
    return Request(
        budget,
        loss or settings.loss,
        demands,
        chosen_server(server, settings.server),
        seconds,
        around,
    )


def _quantized(plan: Plan, sources: Sources, target: Path, *, force: bool, as_json: bool) -> dict[str, Any]:
    from raq_client.model_file import open_model
    from raq_client.quantize import quantize_model

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
            force=force,
            progress=report,
            metadata={"raq.profile": plan.profile.digest(), "raq.problem": plan.problem.digest()},
        )
    if not as_json:
        OUT.print(f"\n{target}: {written.size:,} bytes, of them {written.tensor_bytes:,} of tensor data")
    return options.plain_fields(written)
