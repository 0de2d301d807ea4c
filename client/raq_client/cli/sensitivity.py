"""`raq-client sensitivity`: measure how much the model's output changes when each tensor is perturbed."""

from contextlib import ExitStack
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, say
from raq_client.cli.follow import followed
from raq_client.cli.groups import MeasureOptions
from raq_client.cli.machine_options import MachineOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.problem_options import ProblemOptions
from raq_client.cli.written import check_written
from raq_client.files.settings import read_settings
from raq_client.progress import stage
from raq_client.prompts.texts import read_texts_for
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raq_client.cli.console import Report
    from raq_client.sensitivity.measure import Question, Sensitivities
    from raq_client.units.journal import Journal
    from raq_client.units.sensing import SharedSensitivity
    from raq_client.units.unit import Unit, Work
    from raq_solver.profile import Profile


RUNS_PANEL = "Runs"


class Design(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """The order of perturbations; see `raq_client.sensitivity.design.planned_groups`."""

    ADAPTIVE = "adaptive"
    SINGLE = "single"
    GROUPS = "groups"
    BALANCED = "balanced"


@spread
def sensitivity(
    called: typer.Context,
    model: options.OptionalModel = None,
    *,
    output: options.Output,
    text: options.Texts = None,
    measure: MeasureOptions,
    evaluations: Annotated[
        int | None, typer.Option("--evaluations", min=1, help="Most runs; default: one per tensor.")
    ] = None,
    measure_for: Annotated[
        str | None,
        typer.Option(
            "--measure-for",
            metavar="TIME",
            help="Begin no run that would end after this time (90s, 10min, 2h); the rest is estimated.",
            show_default=False,
        ),
    ] = None,
    design: Annotated[
        Design,
        typer.Option(
            "--design",
            rich_help_panel=RUNS_PANEL,
            help="Order of perturbations: adaptive, single, by role, or random groups.",
        ),
    ] = Design.ADAPTIVE,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            "-b",
            metavar="BUDGET",
            rich_help_panel=RUNS_PANEL,
            help="Size of the allocations that are to be good, as for solve; default: usual sizes.",
            show_default=False,
        ),
    ] = None,
    at_once: Annotated[
        int,
        typer.Option(
            "--at-once",
            min=1,
            rich_help_panel=RUNS_PANEL,
            help="Tensors to choose at a time, for several machines to evaluate.",
        ),
    ] = 1,
    posed: ProblemOptions,
    machines: MachineOptions,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Windows of each run.")] = 16,
    probe: Annotated[
        str, typer.Option("--probe", rich_help_panel=RUNS_PANEL, help="Quant type of the perturbation.")
    ] = "Q3_K",
    context: options.Context = 512,
    libllama: options.Library = None,
    estimate: options.EstimateOnly = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Measure how much each tensor moves the output.

    Writes a profile with a sensitivity for every tensor, for solve, sweep and run. This is for architectures of which
    imatrix collect has no Fisher information: without experts that is as good or better, from one pass instead of many.
    The text should be like the model's use, but not that on which the result is checked. An interrupted measurement
    goes on where it stopped.

    Details:

    The model is loaded once; tensors are perturbed and restored in memory, and the KL divergence over a little text is
    measured each time. With fewer runs than tensors, groups are perturbed together and the rest is estimated: from each
    tensor's share of the residual stream if there is importance, else from its role and depth in models measured by
    Thireus, GGUF Tool Suite and its contributors. Each further run goes to the tensor that improves allocations of the
    wanted sizes (--budget; default: usual ones) most. With --measure-for runs go on until the time is over, and as many
    runs give the same profile on any machine.

    Example: raq-client sensitivity model-f16.gguf -i imatrix.gguf -t calibration.txt -o model.profile.json
    """
    from raq_client.cli.estimate import print_estimate
    from raq_client.engine.loading import evaluable
    from raq_client.estimates.estimate import Estimate
    from raq_client.estimates.rounding import measuring
    from raq_client.estimates.stages import perturbing
    from raq_client.files.profile_file import save_profile
    from raq_client.sensitivity.measure import Question
    from raq_client.units.journal import work_folder
    from raq_client.units.probing import ProbeJob
    from raq_client.units.sensing import SharedSensitivity
    from raq_solver.quant_types import quant_type

    settings = read_settings(Path.cwd())
    on_machines = machines.check()
    check_written(called, {"output": output}, force=force, also=settings.files())
    seconds = _seconds(measure_for, machines=on_machines)
    question = Question(quant_type(probe), evaluations, design.value, at_once, seconds)
    request = posed.request(settings, budget)
    inputs = measure.inputs_of(model, settings)
    evaluable(inputs.model.path)
    texts = read_texts_for(inputs.model.path, text or list(settings.text), library=libllama)
    probes = ProbeJob(inputs, tuple(texts), question.probe, windows, context, libllama)
    if estimate:
        probing = perturbing(probes.setup, probe=question.probe, evaluations=evaluations, design=design.value)
        if seconds is not None and probing.seconds > seconds:
            probing = replace(probing, seconds=seconds, at_most=True)
        print_estimate(Estimate((*measuring(inputs)[0], probing)), output, as_json=as_json)
        return
    shared = SharedSensitivity(probes, question, request, work_folder(output))
    found = _shared(shared, machines, output, as_json=as_json) if on_machines else _measured(shared)
    if found is None:
        return
    profile, sensitivities = found
    save_profile(sensitivities.applied_to(profile), output, force=force)
    if on_machines:
        for journal in shared.journals:
            journal.remove()
    _print(sensitivities, output, question, as_json=as_json)


def _seconds(text: str | None, *, machines: bool) -> float | None:
    """The limit on the time. Raises InvalidInput if the text is no time, or several machines are to measure."""
    if text is None:
        return None
    if machines:
        what = "is a time on one machine; for several give a number of runs with --evaluations"
        raise InvalidInput(Fault("--measure-for", what))
    from raq_client.sensitivity.time_limit import seconds_of

    return seconds_of(text)


def _measured(asked: "SharedSensitivity") -> "tuple[Profile, Sensitivities]":
    """The profile and the sensitivities, measured in this process, from its caches if nothing changed."""
    from platformdirs import user_cache_path

    from raq_client.planning.build_problem import build_problem
    from raq_client.sensitivity.choices import choices_of
    from raq_client.sensitivity.design import expected_of
    from raq_client.sensitivity.measure import measure_sensitivities

    inputs, question = asked.probes.inputs, asked.question
    with followed() as progress:
        profile = inputs.profile(progress=progress, notes=say)
        spec = build_problem(asked.request, profile, inputs.table(profile), needs_budget=False)
        found = measure_sensitivities(
            asked.probes.setup,
            probe=question.probe,
            evaluations=question.evaluations,
            design=question.design,
            batch=question.batch,
            seconds=question.seconds,
            choices=choices_of(profile, spec.problem, sizes=spec.budget is not None),
            expected=expected_of(profile),
            cache=user_cache_path("raq") / "sensitivities",
            progress=stage(progress, "measuring sensitivity"),
        )
    return profile, found


def _shared(
    asked: "SharedSensitivity", machines: MachineOptions, output: Path, *, as_json: bool
) -> "tuple[Profile, Sensitivities] | None":
    """Do one part of the work, or finish it by other processes' lines or by a cluster; None after a part."""
    from raq_client.units.carry_out import run_units

    threads, wanted = asked.probes.inputs.threads, machines.part()
    with asked, ExitStack() as stack:
        progress = stack.enter_context(followed())
        if wanted is not None:
            asked.part(wanted, progress, say)
            machines.say_part(output, as_json=as_json)
            return None
        if machines.cluster is None:
            return asked.finish(verified=machines.share(), progress=progress, notes=say)
        executor = stack.enter_context(machines.connected(threads=threads))

        def make(work: "Work", units: "Sequence[Unit]", journal: "Journal", report: "Report | None") -> None:
            run_units(work, units, journal, report, executor)

        return asked.finish(make, verified=machines.share(), progress=progress, notes=say)


def _print(found: "Sensitivities", output: Path, question: "Question", *, as_json: bool) -> None:
    from raq_client.reports.check import sensitivity_table

    if as_json:
        rows = zip(found.tensors, found.fit.values.tolist(), found.fit.errors.tolist(), strict=True)
        print_json(
            {
                "output": str(output),
                "additivity": found.additivity,
                "tokens": found.tokens,
                "evaluations": len(found.evaluations),
                "tensors": len(found.tensors),
                "sensitivities": {name: {"value": value, "error": error} for name, value, error in rows},
            }
        )
    else:
        OUT.print(sensitivity_table(found))
        if question.seconds is not None:
            say(f"{len(found.evaluations)} of {len(found.tensors)} tensors measured in time; the others are estimated")
        at = question.probe.name
        say(f"{output}: sum of single losses / loss of all at once at {at}: {found.additivity:.2f}")
