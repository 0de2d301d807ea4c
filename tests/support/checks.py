"""A check in one call, as most tests want it."""

from typing import Any

from raq_client.evaluation.perplexity import measure
from raq_client.evaluation.report import CheckReport


def check(*models_and_texts: Any, **options: Any) -> CheckReport:
    """The report of `measure` with the same arguments."""
    return measure(*models_and_texts, **options).report()
