"""`raq-client sensitivity`: measure how much the model's output changes when each tensor is perturbed."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client import pipeline
from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, say
from raq_client.cli.follow import followed
from raq_client.cli.groups import MeasureOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.problem_options import ProblemOptions
from raq_client.cli.written import check_written
from raq_client.files.settings import read_settings
from raq_client.progress import stage
from raq_client.prompts.texts import read_texts_for

if TYPE_CHECKING:
    from raq_client.sensitivity.measure import Sensitivities


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
        int | None, typer.Option("--evaluations", min=1, help="Most runs of the model; default: one per tensor.")
    ] = None,
    design: Annotated[
        Design, typer.Option("--design", help="Order of perturbations: adaptive, single, by role, or random groups.")
    ] = Design.ADAPTIVE,
    budget: options.Budget = None,
    posed: ProblemOptions,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Windows of text in each run.")] = 16,
    probe: Annotated[str, typer.Option("--probe", help="Quant type of the perturbation.")] = "Q3_K",
    context: options.Context = 512,
    libllama: options.Library = None,
    estimate: options.EstimateOnly = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Measure how much each tensor moves the output.

    Writes a profile with a sensitivity for every tensor, for solve, sweep and run.

    The model is loaded once; tensors are perturbed and restored in memory, and the KL divergence over a little text is
    measured each time. With fewer runs than tensors, groups are perturbed together and the rest is estimated: from each
    tensor's share of the residual stream if there is importance, else from its role and depth in models measured by
    Thireus, GGUF Tool Suite and its contributors. Each further run goes to the tensor that improves allocations of the
    wanted sizes (--budget; default: usual ones) most. An interrupted measurement continues where it stopped. Use text
    that is similar to the model's use, but not the text on which the result is checked.

    Example: raq-client sensitivity model-f16.gguf -i imatrix.gguf -t calibration.txt -o model.profile.json
    """
    from platformdirs import user_cache_path

    from raq_client.cli.estimate import print_estimate
    from raq_client.engine.loading import evaluable
    from raq_client.estimates.estimate import Estimate
    from raq_client.estimates.stages import measuring, perturbing
    from raq_client.files.profile_file import save_profile
    from raq_client.planning.build_problem import build_problem
    from raq_client.sensitivity.choices import choices_of
    from raq_client.sensitivity.design import expected_of
    from raq_client.sensitivity.measure import measure_sensitivities
    from raq_solver.quant_types import quant_type

    settings = read_settings(Path.cwd())
    check_written(called, {"output": output}, force=force, also=settings.files())
    damage, request = quant_type(probe), posed.request(settings, budget)
    inputs = measure.inputs_of(model, settings)
    evaluable(inputs.model.path)
    texts = read_texts_for(inputs.model.path, text or list(settings.text), library=libllama)
    setup = pipeline.trial_setup(inputs, texts, windows=windows, context=context, library=libllama)
    if estimate:
        probing = perturbing(setup, probe=damage, evaluations=evaluations, design=design.value)
        print_estimate(Estimate((measuring(inputs)[0], probing)), output, as_json=as_json)
        return
    with followed() as progress:
        profile = inputs.profile(progress=progress, notes=say)
        spec = build_problem(request, profile, inputs.table(profile), needs_budget=False)
        found = measure_sensitivities(
            setup,
            probe=damage,
            evaluations=evaluations,
            design=design.value,
            choices=choices_of(profile, spec.problem, sizes=spec.budget is not None),
            expected=expected_of(profile),
            cache=user_cache_path("raq") / "sensitivities",
            progress=stage(progress, "measuring sensitivity"),
        )
    save_profile(found.applied_to(profile), output, force=force)
    _print(found, output, damage.name, as_json=as_json)


def _print(found: "Sensitivities", output: Path, probe: str, *, as_json: bool) -> None:
    from raq_client.reports.check import sensitivity_table

    if as_json:
        rows = zip(found.tensors, found.fit.values.tolist(), found.fit.errors.tolist(), strict=True)
        print_json(
            {
                "output": str(output),
                "additivity": found.additivity,
                "tokens": found.tokens,
                "evaluations": len(found.evaluations),
                "sensitivities": {name: {"value": value, "error": error} for name, value, error in rows},
            }
        )
    else:
        OUT.print(sensitivity_table(found))
        say(f"{output}: sum of single losses / loss of all at once at {probe}: {found.additivity:.2f}")
