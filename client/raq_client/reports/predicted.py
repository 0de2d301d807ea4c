"""Predicted KL divergences with their intervals, for people and as plain data."""

import math
from typing import Any

from rich.console import RenderableType

from raq_client.planning.predicted_kl import CONFIDENCE, PredictedKl
from raq_client.reports.plain import plain
from raq_client.reports.tables import facts_table


def predicted_dict(found: PredictedKl | None) -> dict[str, Any] | None:
    """As plain data for --json, nats per token; None where nothing is known by window.

    `low` and `high` hold the KL divergence of text like the calibration's with this `confidence`; null if unknown.
    """
    if found is None:
        return None
    known = math.isfinite(found.high)
    return {
        "kl": found.value,
        "low": found.low if known else None,
        "high": plain(found.high) if known else None,
        "confidence": CONFIDENCE,
        "texts": dict(found.texts),
    }


def predicted_rows(found: PredictedKl) -> tuple[tuple[str, str], ...]:
    """Lines for a table of facts: the prediction, and what it is on each text of the calibration, if of several."""
    of = "" if not math.isfinite(found.high) else f" ({interval_text(found)} on text like the calibration's)"
    texts = ", ".join(f"{text} {value:#.3g}" for text, value in found.texts.items())
    return (("predicted KL", f"{found.value:#.4g}{of}"), *((("by text", texts),) if len(found.texts) > 1 else ()))


def predicted_table(found: PredictedKl) -> RenderableType:
    """The same lines as a table of their own."""
    return facts_table(predicted_rows(found))


def interval_text(found: PredictedKl) -> str:
    """The interval, `0.0098-0.0156`."""
    return f"{found.low:#.3g}-{found.high:#.3g}"
