"""Ladders, for people and programs."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from raq_client.refinement.ladder import Rung, StepResult


def ladder_dict(rungs: Sequence[Rung], climbed: Sequence[StepResult]) -> dict[str, Any]:
    """Every rung with its allocation; those that were climbed with their figures, in nats per token."""
    measured = {one.rung.name: one for one in climbed}
    return {"steps": [_rung_dict(rung) | _measured_dict(measured.get(rung.name)) for rung in rungs]}


def ladder_table(rungs: Sequence[Rung], climbed: Sequence[StepResult]) -> Table:
    """One line for each rung."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("step")
    predicted = any(rung.loss is not None for rung in rungs)
    titles = ["bytes", "bpw", "freed", "spent", *(["predicted"] if predicted else [])]
    for title in (*titles, *(("KL divergence", "less the one before") if climbed else ())):
        table.add_column(title, justify="right", no_wrap=True)
    if climbed:
        table.add_column("it is")
    measured = {one.rung.name: one for one in climbed}
    for rung in rungs:
        figures = [f"{rung.size:,}", f"{rung.bits_per_weight:.4f}", f"{rung.freed:,}", f"{rung.spent:,}"]
        figures += [f"{rung.loss or 0:.5g}"] if predicted else []
        table.add_row(rung.name, *figures, *_measured_cells(measured.get(rung.name)))
    return table


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
    kl, agreement = one.summary.kl, one.summary.top1_agreement
    found: dict[str, Any] = {
        "file": str(one.path),
        "kl": {"value": kl.value, "error": kl.error},
        "perplexity": one.summary.perplexity.value,
        "top1_agreement": {"value": agreement.value, "error": agreement.error},
        "tokens": one.summary.tokens,
    }
    if one.step is not None:
        kl_step = one.step.kl
        found["against_the_one_before"] = {
            "verdict": one.step.verdict.value,
            "confidence": one.step.confidence,
            "kl": {"value": kl_step.value, "low": kl_step.low, "high": kl_step.high},
            "windows_to_settle": kl_step.windows_to_settle,
        }
    return found


def _measured_cells(one: StepResult | None) -> tuple[str, ...]:
    if one is None:
        return ()
    kl = f"{one.summary.kl.value:.6f} ± {one.summary.kl.error:.6f}"
    if one.step is None:
        return (kl, "", "")
    step = one.step.kl
    return (kl, f"{step.value:+.6f} [{step.low:+.6f}, {step.high:+.6f}]", one.step.verdict.value)
