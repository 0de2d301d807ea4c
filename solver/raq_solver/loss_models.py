"""Loss models: how measured facts become a predicted loss, each one function of a profile.

All are sums over tensors. HIGGS' linearity theorem (arXiv 2411.17525) is why that is fair for moderate errors; where
it is not, the check shows it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_solver.errors import Fault, InvalidInput, near_misses
from raq_solver.losses import LossTable
from raq_solver.profile import Profile
from raq_solver.residual import residual_sensitivities

LossModel = Callable[[Profile], LossTable]
"""A way to predict losses."""
_MEASURED: Final = "measured sensitivity"
_RESIDUAL: Final = "relative output error, sensitivity by share of the residual stream"


def relative(profile: Profile) -> LossTable:
    """Every tensor's relative output error counts alike: L = E.

    Assumes that a given relative change of any tensor's output moves the model equally. In units of relative
    error, not nats: only comparisons mean something.
    """
    return _table(profile, np.ones(len(profile.tensors)), "relative output error")


PRIOR_OUTPUT: Final = 10.0
"""Sensitivity of the output head, in units of an ordinary tensor's."""
PRIOR_EMBEDDING: Final = 5.0
"""Sensitivity of the token embedding, likewise. One that serves as the output head too has both."""


def prior(profile: Profile) -> LossTable:
    """L = s × E with a stated prior: output head 10, token embedding 5, all other tensors 1.

    An error in the output head reaches the logits undiluted, one in the embedding enters every layer. On the
    project's two trained models the measured sensitivities are 17 and 34 (head), 6 and 25 (embedding) times the
    median of ffn_up; docs/quality.md has the figures. In units of relative error, not nats.
    """
    factors = np.ones(len(profile.tensors))
    names = {tensor.name for tensor in profile.tensors}
    for row, tensor in enumerate(profile.tensors):
        if tensor.name == "output.weight":
            factors[row] = PRIOR_OUTPUT
        elif tensor.name == "token_embd.weight":
            factors[row] = PRIOR_EMBEDDING + (0.0 if "output.weight" in names else PRIOR_OUTPUT)
    return _table(profile, factors, "relative output error, prior sensitivity by role")


def residual(profile: Profile) -> LossTable:
    """L = s × E with s from each tensor's share of the residual stream (raq_solver.residual), about nats per token.

    Needs importance and a dense model; raises InvalidInput where it does not apply.
    """
    found = residual_sensitivities(profile)
    if isinstance(found, str):
        what = f"the loss model residual does not apply to this model: {found}; use prior"
        raise InvalidInput(Fault("profile", what))
    return _table(profile, found, _RESIDUAL)


def activation(profile: Profile) -> LossTable:
    """Σ h ΔW², the expected squared change of each tensor's output: L = energy × E.

    The measure of the RA articles and of llama.cpp's `--target-bpw` patch before its corrections. Assumes that all
    outputs live on one scale, which residual networks do not fulfil.
    """
    return _table(profile, profile.energies, "squared change of activations")


def measured(profile: Profile) -> LossTable:
    """L = s × E with the measured sensitivity s of each tensor, in nats per token.

    Tensors without a measurement get the median of the measured ones. Raises InvalidInput when nothing was measured.
    """
    known = np.isfinite(profile.sensitivities)
    if not known.any():
        what = "holds no sensitivities; measure them (raq-client sensitivity) or use the loss model relative"
        raise InvalidInput(Fault("profile", what))
    median = float(np.median(profile.sensitivities[known]))
    credit = profile.provenance.get("sensitivity_credit", "")
    source = f"{_MEASURED} of {int(known.sum())} tensors" + (f" ({credit})" if credit else "")
    return _table(profile, np.where(known, profile.sensitivities, median), source)


LOSS_MODELS: Final[Mapping[str, LossModel]] = MappingProxyType(
    {"residual": residual, "prior": prior, "relative": relative, "activation": activation, "measured": measured}
)
"""The loss models by name."""


def is_in_nats(table: LossTable) -> bool:
    """Whether the losses are predicted KL divergences, to be set against a measured one; others only rank."""
    return table.source.startswith((_MEASURED, _RESIDUAL))


def default_loss_model(profile: Profile) -> LossModel:
    """`measured` where the profile holds sensitivities, else `residual` where it applies, else `prior`."""
    if np.isfinite(profile.sensitivities).any():
        return measured
    return prior if isinstance(residual_sensitivities(profile), str) else residual


def loss_model(name: str) -> LossModel:
    """The loss model of that name. Raises InvalidInput with the nearest names."""
    found = LOSS_MODELS.get(name)
    if found is None:
        what = f"no such loss model{near_misses(name, LOSS_MODELS)}; there are {', '.join(LOSS_MODELS)}"
        raise InvalidInput(Fault(name, what))
    return found


def _table(profile: Profile, factors: Float64[np.ndarray, " tensors"], source: str) -> LossTable:
    losses = np.full(profile.relative_errors.shape, np.inf)
    np.multiply(factors[:, None], profile.relative_errors, out=losses, where=np.isfinite(profile.relative_errors))
    foreign = profile.provenance.get("errors", "")  # said where errors are not of this model's weights
    return LossTable(
        tensors=tuple(tensor.name for tensor in profile.tensors),
        quant_types=tuple(quant_type.name for quant_type in profile.quant_types),
        weights=profile.weights,
        sizes=profile.sizes,
        losses=losses,
        source="; ".join(filter(None, (source, f"errors {foreign}" if foreign else "", _sampling(profile)))),
    )


def _sampling(profile: Profile) -> str:
    """What a sample of rows leaves open; empty where all rows were measured."""
    if profile.sampling_errors is None:
        return ""
    rows = profile.provenance.get("rows", "some of the rows")
    return f"errors measured on {rows}, with standard errors up to {profile.sampling_shares.max():.2%} of them"
