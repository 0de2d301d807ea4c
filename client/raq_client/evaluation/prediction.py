"""The gate: was the prediction any good, and is the allocation better than a plain mixture?

The linearity theorem behind every loss table holds for moderate errors. Where it does not, the measured KL divergence
is not the predicted one, and an allocation that is optimal on paper may lose to llama.cpp's mixture: both are looked
at after a file was made, rather than believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raq_client.evaluation.comparison import Difference, Verdict, bootstrap_difference
from raq_client.evaluation.in_memory import Trial, TrialSetup
from raq_client.evaluation.statistics import Estimate
from raq_client.models.file_types import file_type
from raq_client.models.table import table_of
from raq_client.recipes.mixtures import mixture, tensor_bytes
from raq_solver.allocation import Allocation
from raq_solver.losses import LossTable, LossUnit
from raq_solver.quant_types import QuantType, stored_type
from raq_solver.tensors import Tensor

FAIR_FACTOR = 1.5
"""A prediction within this factor of the measured KL divergence is called fair."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted loss beside the measured mean KL divergence, nats per token both."""

    predicted: float
    measured: Estimate

    @property
    def ratio(self) -> float:
        """Predicted over measured; NaN if nothing was measured."""
        return self.predicted / self.measured.value if self.measured.value > 0 else float("nan")

    @property
    def fair(self) -> bool:
        """Whether the two differ by no more than FAIR_FACTOR."""
        return 1 / FAIR_FACTOR <= self.ratio <= FAIR_FACTOR


@dataclass(frozen=True, slots=True)
class Against:
    """An allocation and a mixture of llama.cpp's, tried in memory on the same tokens.

    KL divergences are means in nats per token; `difference` is the allocation's less the mixture's. `capacity` is what
    the allocation was solved for, bytes.
    """

    mixture: str
    capacity: int
    allocation_bytes: int
    mixture_bytes: int
    allocation_kl: float
    mixture_kl: float
    windows: int
    difference: Difference

    @property
    def mixture_is_better(self) -> bool:
        """Whether the mixture loses less beyond noise, and was within the budget."""
        return self.difference.verdict is Verdict.WORSE and self.mixture_bytes <= self.capacity


def prediction(table: LossTable, predicted: float, measured: Estimate) -> Prediction | None:
    """The predicted loss beside the measured one; None where the table's losses only rank and are not nats."""
    return Prediction(predicted, measured) if table.unit is LossUnit.NATS else None


def compare_with_mixture(allocation: Allocation, capacity: int, name: str, bench: TrialSetup) -> Against:
    """Try the allocation, solved for `capacity` bytes, and llama.cpp's mixture of that name, writing nothing.

    Raises InvalidInput if there is no such file type, a text is missing or too short, or the model can't be tried in
    memory (it has to be F16, BF16 or F32).
    """
    table = table_of(bench.model)
    plain = mixture(table, file_type(name), has_importance=bench.importance is not None)
    chosen = {tensor: stored_type(allocation.types[tensor.name]) for tensor in table.tensors}
    with Trial(bench) as trial:
        ours, theirs = (trial.run(_changed(types)).scores for types in (chosen, plain))
    per_window = (ours.kl - theirs.kl).mean(axis=1).astype(np.float64)
    return Against(
        file_type(name).name,
        capacity,
        tensor_bytes(chosen),
        tensor_bytes(plain),
        float(ours.kl.mean()),
        float(theirs.kl.mean()),
        ours.windows,
        bootstrap_difference(per_window),
    )


def _changed(types: Mapping[Tensor, QuantType]) -> dict[str, QuantType]:
    return {tensor.name: quant_type for tensor, quant_type in types.items() if quant_type != tensor.source_type}
