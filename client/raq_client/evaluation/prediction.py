"""Prediction check: compare the predicted loss with the measured one, and a file with one of llama.cpp's mixtures.

Loss tables assume moderate errors. For larger ones the measured KL divergence differs from the predicted one, and an
allocation that is optimal for the table may be worse than a mixture of llama.cpp, so both are measured.
"""

from dataclasses import dataclass

from raq_client.evaluation.comparison import Difference, Verdict, compare
from raq_client.evaluation.perplexity import Measurement
from raq_client.evaluation.report import Summary
from raq_client.evaluation.statistics import Estimate
from raq_solver.losses import LossTable, LossUnit

FAIR_FACTOR = 1.5
"""A prediction within this factor of the measured KL divergence is called fair."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted loss and the measured mean KL divergence, both in nats per token."""

    predicted: float
    measured: Estimate

    @property
    def ratio(self) -> float:
        """Predicted over measured; NaN if nothing was measured."""
        return self.predicted / self.measured.value if self.measured.value > 0 else float("nan")

    @property
    def fair(self) -> bool:
        """Whether the two differ by at most a factor of FAIR_FACTOR."""
        return 1 / FAIR_FACTOR <= self.ratio <= FAIR_FACTOR


@dataclass(frozen=True, slots=True)
class Against:
    """An allocation and one of llama.cpp's mixtures, tried in memory on the same tokens.

    KL divergences are means in nats per token; `difference` is the allocation's minus the mixture's. `capacity` is the
    capacity that the allocation was solved for, bytes; `mixture_file_bytes` the size of the mixture's file, of which
    `mixture_check` is all that was measured.
    """

    mixture: str
    capacity: int
    allocation_bytes: int
    mixture_bytes: int
    allocation_kl: float
    mixture_kl: float
    windows: int
    difference: Difference
    mixture_file_bytes: int
    mixture_check: Summary

    @property
    def mixture_is_better(self) -> bool:
        """Whether the mixture's loss is significantly smaller, at a size within the capacity."""
        return self.difference.verdict is Verdict.WORSE and self.mixture_bytes <= self.capacity


def prediction(table: LossTable, predicted: float, measured: Estimate) -> Prediction | None:
    """The predicted loss with the measured one; None if the table's losses are only a ranking, not nats."""
    return Prediction(predicted, measured) if table.unit is LossUnit.NATS else None


def against_mixture(
    name: str,
    ours: Measurement,
    theirs: Measurement,
    capacity: int,
    allocation_bytes: int,
    mixture_bytes: int,
    mixture_file_bytes: int,
) -> Against:
    """Compare a file with that of a mixture; both were measured against one original on the same windows."""
    found = compare(theirs, ours)
    return Against(
        name,
        capacity,
        allocation_bytes,
        mixture_bytes,
        float(ours.scores().kl.mean()),
        float(theirs.scores().kl.mean()),
        found.windows,
        found.kl,
        mixture_file_bytes,
        theirs.report().overall,
    )
