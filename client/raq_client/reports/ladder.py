"""Ladders of steps, as a table and as plain data."""

from collections.abc import Sequence
from typing import Any

from raq_client.evaluation.report import Summary
from raq_client.refinement.ladder import Rung, StepResult
from raq_client.refinement.landmarks import MeasuredMixture
from raq_client.reports.plain import plain
from raq_client.reports.tables import Column, Table


def ladder_dict(
    rungs: Sequence[Rung], climbed: Sequence[StepResult], mixtures: Sequence[MeasuredMixture] = ()
) -> dict[str, Any]:
    """Every step with its allocation; those that were climbed with their figures, in nats per token; the mixtures."""
    measured = {one.rung.name: one for one in climbed}
    steps = {"steps": [_rung_dict(rung) | _measured_dict(measured.get(rung.name)) for rung in rungs]}
    return steps | ({"mixtures": [_mixture_dict(one) for one in mixtures]} if mixtures else {})


def ladder_table(
    rungs: Sequence[Rung], climbed: Sequence[StepResult], mixtures: Sequence[MeasuredMixture] = ()
) -> Table:
    """One line for each step: sizes, and what was measured of those that were climbed; then llama.cpp's mixtures."""
    columns = (
        Column("step"),
        Column("bytes", figures=True),
        Column("bpw", figures=True, spare=2),
        Column("freed", figures=True, spare=5),
        Column("spent", figures=True, spare=4),
        Column("predicted", figures=True, spare=3),
        Column("KL divergence", figures=True),
        Column("change from the step before", figures=True, spare=1),
        Column("it is"),
    )
    measured = {one.rung.name: one for one in climbed}
    rows = [
        (
            rung.name,
            f"{rung.size:,}",
            f"{rung.bits_per_weight:.4f}",
            f"{rung.freed:,}",
            f"{rung.spent:,}",
            "" if rung.loss is None else f"{rung.loss:.5g}",
            *_measured_cells(measured.get(rung.name)),
        )
        for rung in rungs
    ]
    rows += [
        (f"llama.cpp's {one.name}", f"{one.size:,}", f"{one.bits_per_weight:.4f}", "", "", "", _kl(one.summary), "", "")
        for one in mixtures
    ]
    return Table(columns, rows)


def _rung_dict(rung: Rung) -> dict[str, Any]:
    return {
        "name": rung.name,
        "bytes": rung.size,
        "bits_per_weight": rung.bits_per_weight,
        "freed_bytes": rung.freed,
        "spent_bytes": rung.spent,
        "predicted_loss": rung.loss,
        "allocation": dict(rung.allocation.types),
    }


def _measured_dict(one: StepResult | None) -> dict[str, Any]:
    if one is None:
        return {}
    found: dict[str, Any] = {"file": str(one.path)} | _summary_dict(one.summary)
    if one.step is not None:
        kl_step = one.step.kl
        found["against_the_one_before"] = {
            "verdict": one.step.verdict.value,
            "confidence": one.step.confidence,
            "kl": {"value": kl_step.value, "low": kl_step.low, "high": kl_step.high},
            "windows_to_settle": kl_step.windows_to_settle,
        }
    return found


def _mixture_dict(one: MeasuredMixture) -> dict[str, Any]:
    sizes = {"bytes": one.size, "file_bytes": one.file_size, "bits_per_weight": one.bits_per_weight}
    return {"name": one.name} | sizes | _summary_dict(one.summary)


def _summary_dict(summary: Summary) -> dict[str, Any]:
    kl, agreement, ratio = summary.kl, summary.top1_agreement, summary.ratio
    return {
        "kl": {"value": kl.value, "error": kl.error},
        "kl_quantiles": plain(summary.kl_quantiles),
        "perplexity": summary.perplexity.value,
        "ratio": {"value": ratio.value, "error": ratio.error},
        "top1_agreement": {"value": agreement.value, "error": agreement.error},
        "tokens": summary.tokens,
        "windows": summary.windows,
    }


def _kl(summary: Summary) -> str:
    return f"{summary.kl.value:.6f} ± {summary.kl.error:.6f}"


def _measured_cells(one: StepResult | None) -> tuple[str, ...]:
    if one is None:
        return ("", "", "")
    kl = _kl(one.summary)
    if one.step is None:
        return (kl, "", "")
    step = one.step.kl
    return (kl, f"{step.value:+.6f} [{step.low:+.6f}, {step.high:+.6f}]", one.step.verdict.value)
