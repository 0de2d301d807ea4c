"""Predicted KL divergences with their intervals, for people and as plain data."""

import math
from typing import Any, Final

from rich.console import RenderableType

from raq_client.evaluation.statistics import Estimate
from raq_client.planning.predicted_kl import CONFIDENCE, Place, PredictedKl
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


_PLACES: Final = {
    Place.WITHIN: "within the interval",
    Place.BELOW: "below the interval, which is of text like the calibration's",
    Place.ABOVE: "above the interval, which is of text like the calibration's",
}


def beside_measured_text(found: PredictedKl, measured: Estimate) -> str | None:
    """What was predicted and what was measured: `predicted 0.0170 to 0.0260, measured 0.0201 ± 0.0004: within …`.

    None where there is no interval, as with experts, or nothing was measured.
    """
    place = found.place(measured)
    if place is None:
        return None
    error = f" ± {measured.error:#.2g}" if math.isfinite(measured.error) else ""
    return f"predicted {found.low:#.3g} to {found.high:#.3g}, measured {measured.value:#.3g}{error}: {_PLACES[place]}"


def beside_measured_dict(found: PredictedKl | None, measured: Estimate) -> dict[str, Any] | None:
    """The prediction as `predicted_dict`, with what was `measured`, its `error` and its `place` beside the interval.

    `place` is `below`, `within` or `above`, null where there is no interval.
    """
    plainly = predicted_dict(found)
    if found is None or plainly is None:
        return None
    place = found.place(measured)
    return plainly | {
        "measured": measured.value,
        "error": plain(measured.error),
        "place": None if place is None else place.value,
    }


def interval_text(found: PredictedKl) -> str:
    """The interval, `0.0098-0.0156`."""
    return f"{found.low:#.3g}-{found.high:#.3g}"
