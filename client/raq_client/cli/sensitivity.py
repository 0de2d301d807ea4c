"""`raq-client sensitivity`: measure how much the model's output moves when each tensor is damaged."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, progress_bar, say
from raq_client.cli.groups import MeasureOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.written import check_written
from raq_client.engine.texts import read_texts
from raq_client.files.settings import Settings

if TYPE_CHECKING:
    from raq_client.sensitivity.measure import Sensitivities


class Design(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """Where runs of the model go."""

    ADAPTIVE = "adaptive"
    SINGLE = "single"
    GROUPS = "groups"
    BALANCED = "balanced"


@spread
def sensitivity(
    called: typer.Context,
    model: options.ModelArgument,
    output: options.Output,
    text: options.Texts = None,
    *,
    measure: MeasureOptions,
    evaluations: Annotated[
        int | None, typer.Option("--evaluations", min=1, help="Most runs of the model; one per tensor when not given.")
    ] = None,
    design: Annotated[
        Design, typer.Option("--design", help="Tensors damaged first: alone, by role, in random groups, or as fits.")
    ] = Design.ADAPTIVE,
    budget: options.Budget = None,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Windows of text in each run.")] = 16,
    probe: Annotated[str, typer.Option("--probe", help="Quant type that damages.")] = "Q3_K",
    context: options.Context = 512,
    libllama: options.Library = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Measure MODEL's profile with a sensitivity for every tensor, and save it for solve, sweep and run.

    The model is loaded once; tensors are damaged and restored in memory, and the KL divergence over a little text is
    measured each time. With fewer runs than tensors, groups are damaged together and the rest is estimated, from each
    tensor's share of the residual stream where importance tells it, else from its role and place in models measured by
    Thireus, GGUF Tool Suite and its contributors; each further run goes to the tensor that is worth most to know for
    the sizes asked for (--budget; usual ones when not given). An interrupted measurement goes on where it stopped.
    Calibrate on text like the model's use, not on the text that the result is checked on.

    Example: raq-client sensitivity model-f16.gguf -i imatrix.gguf -t calibration.txt -o model.profile.json
    """
    from platformdirs import user_cache_path

    from raq_client.engine.loading import evaluable
    from raq_client.evaluation.in_memory import TrialSetup
    from raq_client.files.profile_file import save_profile
    from raq_client.models.model_file import open_model
    from raq_client.planning.plan import importance_of, obtain_profile
    from raq_client.sensitivity.choices import choices_of
    from raq_client.sensitivity.design import expected_of
    from raq_client.sensitivity.measure import measure_sensitivities
    from raq_solver.budget import capacity_bytes, parse_budget
    from raq_solver.quant_types import quant_type

    check_written(called, {"output": output}, force=force)
    damage = quant_type(probe)
    texts = read_texts(text or [])
    evaluable(model)
    sources = measure.of_model(model, Settings())
    opened = open_model(model)
    importance = importance_of(opened, sources.imatrix)
    bench = TrialSetup(opened, model, importance, texts, windows, context, sources.effort, sources.threads, libllama)
    wanted = None if budget is None else parse_budget(budget)
    profile = obtain_profile(sources, progress_bar)
    capacity = None if wanted is None else capacity_bytes(wanted, int(profile.weights.sum()))
    cache = user_cache_path("raq") / "sensitivities"
    with progress_bar("measuring sensitivity") as report:
        found = measure_sensitivities(
            bench,
            probe=damage,
            evaluations=evaluations,
            design=design.value,
            choices=choices_of(profile, capacity),
            expected=expected_of(profile),
            cache=cache,
            progress=report,
        )
    save_profile(found.applied_to(profile), output, force=force)
    _tell(found, output, damage.name, as_json=as_json)


def _tell(found: "Sensitivities", output: Path, probe: str, *, as_json: bool) -> None:
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
