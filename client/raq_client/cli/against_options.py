"""What `run` reports after its check: how good the prediction was, and whether a plain mixture would do better."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raq_client import pipeline
from raq_client.cli.console import OUT, say
from raq_client.engine.windows import Text
from raq_client.models.file_types import file_type
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.plan import Plan
from raq_client.reports.plain import plain

if TYPE_CHECKING:
    from raq_client.evaluation.prediction import Against
    from raq_client.evaluation.report import CheckReport

WINDOWS: Final = 16
"""Windows that a comparison in memory is made on, unless --windows says otherwise."""


@dataclass(frozen=True)
class AgainstOptions:
    """What to hold a finished file against. Raises InvalidInput if there is no such mixture."""

    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MIXTURE",
            help="After the check, try llama.cpp's mixture (Q4_K_M) in memory too, and say which is better.",
            show_default=False,
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.against is not None:
            file_type(self.against)  # now, not after hours of work

    def report(
        self,
        plan: Plan,
        checked: "CheckReport",
        inputs: ModelInputs,
        texts: list[Text],
        windows: int | None,
        library: Path | None,
        *,
        as_json: bool,
    ) -> dict[str, Any]:
        """Print prediction quality and the comparison with --against; return the same data for --json."""
        found = _predicted(plan, checked, as_json=as_json)
        if self.against is not None:
            found |= _compared(plan, inputs, self.against, texts, checked.context, windows, library, as_json=as_json)
        return found


def _predicted(plan: Plan, report: "CheckReport", *, as_json: bool) -> dict[str, Any]:
    from raq_client.evaluation.prediction import prediction

    _, ledger = plan.outcome.unwrap()
    found = prediction(plan.table, ledger.loss, report.overall.kl)
    if found is None:
        return {}
    if not as_json:
        verdict = "a fair prediction" if found.fair else "a poor prediction: --refine corrects the table by trials"
        measured = f"measured {found.measured.value:.6f} ± {found.measured.error:.6f}"
        OUT.print(f"predicted loss {found.predicted:.6f}, {measured}, ratio {found.ratio:.2f}: {verdict}")
    return {"prediction": plain(found) | {"ratio": plain(found.ratio), "fair": found.fair}}


def _compared(
    plan: Plan,
    inputs: ModelInputs,
    name: str,
    texts: list[Text],
    context: int,
    windows: int | None,
    library: Path | None,
    *,
    as_json: bool,
) -> dict[str, Any]:
    from raq_client.evaluation.prediction import compare_with_mixture

    allocation, _ = plan.outcome.unwrap()
    setup = pipeline.trial_setup(inputs, texts, windows=windows or WINDOWS, library=library, context=context)
    found = compare_with_mixture(allocation, plan.problem.capacity_bytes, name, setup)
    if not as_json:
        OUT.print(_against(found), soft_wrap=True)
    if found.mixture_is_better:
        say(f"note: {found.mixture} is better and within the budget; {_way(found.mixture, inputs.model.path)}")
    return {"against": plain(found) | {"mixture_is_better": found.mixture_is_better}}


def _against(found: "Against") -> str:
    sizes = f"{found.allocation_bytes:,} against {found.mixture_bytes:,} bytes"
    losses = f"mean KL divergence {found.allocation_kl:.6f} against {found.mixture_kl:.6f}"
    return (
        f"compared with {found.mixture} in memory on {found.windows} windows: {found.difference.verdict.value} "
        f"({losses}; {sizes})"
    )


def _way(name: str, model: Path) -> str:
    return (
        f"raq-client base {name} {model} --json > {name}.json and "
        f"raq-client quantize {model} -a {name}.json -o FILE write it"
    )
