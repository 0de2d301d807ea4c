"""Report of `run` after its check: the quality of the prediction, and a comparison with a plain mixture."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raq_client import pipeline
from raq_client.cli.console import OUT, say
from raq_client.cli.follow import followed
from raq_client.cli.groups import CheckOptions
from raq_client.engine.windows import Text
from raq_client.models.file_types import file_type
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.plan import Plan
from raq_client.reports.plain import plain

if TYPE_CHECKING:
    from raq_client.evaluation.perplexity import Measurement
    from raq_client.evaluation.prediction import Against
    from raq_client.evaluation.report import CheckReport


@dataclass(frozen=True)
class AgainstOptions:
    """The mixture to compare a finished file with. Raises InvalidInput if there is no such mixture."""

    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MIXTURE",
            help="Then measure llama.cpp's mixture (as Q4_K_M) too.",
            show_default=False,
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.against is not None:
            file_type(self.against)  # now, not after hours of work

    def report(
        self,
        plan: Plan,
        measured: "Measurement",
        inputs: ModelInputs,
        texts: list[Text],
        target: Path,
        checks: CheckOptions,
        *,
        as_json: bool,
    ) -> dict[str, Any]:
        """Print prediction quality and the comparison with --against; return the same data for --json."""
        found = _predicted(plan, measured.report(), as_json=as_json)
        if self.against is not None:
            with followed() as progress:
                compared = pipeline.against_mixture(
                    plan,
                    inputs,
                    measured,
                    self.against,
                    texts,
                    target.absolute().parent,
                    windows=checks.windows,
                    library=checks.libllama,
                    progress=progress,
                )
            found |= _against(compared, inputs.model.path, as_json=as_json)
        return found


def _predicted(plan: Plan, report: "CheckReport", *, as_json: bool) -> dict[str, Any]:
    from raq_client.evaluation.prediction import prediction
    from raq_client.reports.predicted import beside_measured_dict, beside_measured_text

    _, ledger = plan.outcome.unwrap()
    found = prediction(plan.table, ledger.loss, report.overall.kl)
    if found is None:
        return {}
    expected = plan.predicted
    beside = None if expected is None else beside_measured_text(expected, report.overall.kl)
    if beside is not None and not as_json:
        OUT.print(beside, soft_wrap=True)
    elif not as_json:
        verdict = "a fair prediction" if found.fair else "predictions are of text like the calibration text"
        measured = f"measured {found.measured.value:.6f} ± {found.measured.error:.6f}"
        OUT.print(f"predicted loss {found.predicted:.6f}, {measured}, ratio {found.ratio:.2f}: {verdict}")
    interval = beside_measured_dict(expected, report.overall.kl)
    return {"prediction": plain(found) | {"ratio": plain(found.ratio), "fair": found.fair, "interval": interval}}


def _against(found: "Against", model: Path, *, as_json: bool) -> dict[str, Any]:
    if not as_json:
        sizes = f"{found.allocation_bytes:,} against {found.mixture_bytes:,} bytes"
        losses = f"mean KL divergence {found.allocation_kl:.6f} against {found.mixture_kl:.6f}"
        verdict = found.difference.verdict.value
        OUT.print(
            f"compared with {found.mixture} on {found.windows} windows: {verdict} ({losses}; {sizes})", soft_wrap=True
        )
    if found.mixture_is_better:
        say(f"note: {found.mixture} is better and within the budget; {_way(found.mixture, model)}")
    return {"against": plain(found) | {"mixture_is_better": found.mixture_is_better}}


def _way(name: str, model: Path) -> str:
    return (
        f"raq-client base {name} {model} --json > {name}.json and "
        f"raq-client quantize {model} -a {name}.json -o FILE write it"
    )
