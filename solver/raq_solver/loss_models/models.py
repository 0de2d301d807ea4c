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
from raq_solver.loss_models.residual_stream import residual_sensitivities
from raq_solver.loss_models.role_prior import CREDIT, role_sensitivities
from raq_solver.losses import LossTable
from raq_solver.profile import Profile
from raq_solver.tensor_names import TOKEN_EMBEDDING, is_tied

LossModel = Callable[[Profile], LossTable]
"""A way to predict losses."""
_MEASURED: Final = "measured sensitivity"
_RESIDUAL: Final = "relative output error, sensitivity by share of the residual stream"
_PRIOR: Final = "relative output error, sensitivity by role and place"
_FISHER: Final = "Fisher information"


WIDE_BLOCK: Final = 256
ROUNDING_256, ROUNDING_32 = 1.3e-4, 4e-5
"""Relative output error from inputs rounded to 8 bits, by how many share a scale. Measured on the project's two
models as (KL divergence by file - in memory with floating-point inputs) / sum of sensitivities, all tensors alike:
1.4e-4 and 1.3e-4 at Q6_K, 5e-5 and 4e-5 at Q8_0. (Theory for normal inputs: 5e-5 and 3e-5; real ones have tails.)"""


def relative(profile: Profile) -> LossTable:
    """Every tensor's relative output error counts alike: L = E.

    Assumes that a given relative change of any tensor's output moves the model equally. In units of relative
    error, not nats: only comparisons mean something.
    """
    return _table(profile, np.ones(len(profile.tensors)), "relative output error")


def prior(profile: Profile) -> LossTable:
    """L = s × E with s from role and place alone (raq_solver.loss_models.role_prior), as published of 12 other models.

    Needs names only, so it serves where nothing better is known: models with experts, hybrids, headers. Assumes that
    tensors of one role and place matter alike in all models, which holds within a factor of about two. The unit is
    about nats per token, but scales of models differ more than that: only comparisons mean something.
    """
    return _table(profile, role_sensitivities(profile.tensors), f"{_PRIOR} ({CREDIT})", in_use=True)


def residual(profile: Profile) -> LossTable:
    """L = s × E with s from each tensor's share of the residual stream (raq_solver.loss_models.residual_stream).

    Needs importance and a dense model. On small trained models the unit is about nats per token; on real ones, whose
    few massive activations carry the energy, it is 20 to 1,000 times too small, so only comparisons mean something.
    Raises InvalidInput where it does not apply.
    """
    found = residual_sensitivities(profile)
    if isinstance(found, str):
        what = f"the loss model residual does not apply to this model: {found}; use prior"
        raise InvalidInput(Fault("profile", what))
    return _table(profile, found, _RESIDUAL, in_use=True)


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
    return _table(profile, np.where(known, profile.sensitivities, median), source, in_use=True)


def fisher(profile: Profile) -> LossTable:
    """L = Σ_ij F_ij (W - Ŵ)_ij², the KL divergence to second order by the Fisher information F, nats per token.

    Nothing in it is fitted: one pass back through the model gives F for every weight (raq_client.curvature). Tensors
    of which nothing is known (experts that no token reached, blocks that are not run) get the sensitivity of `prior` in
    the scale of the others. Raises InvalidInput where no Fisher information was collected.
    """
    if profile.fisher is None:
        what = "holds no Fisher information; raq-client imatrix collect makes importance files that do"
        raise InvalidInput(Fault("profile", what))
    energies, by_names = profile.fisher.energies, role_sensitivities(profile.tensors)
    known = np.isfinite(energies)
    counted = known & (energies > 0)
    scale = float(np.exp(np.median(np.log(energies[counted] / by_names[counted])))) if counted.any() else 1.0
    sensitivities = np.where(known, energies, scale * by_names)
    errors = np.where(np.isfinite(profile.relative_errors), profile.relative_errors, 0.0)
    losses = np.where(np.isnan(profile.fisher.losses), sensitivities[:, None] * errors, profile.fisher.losses)
    losses += sensitivities[:, None] * input_rounding(profile)
    windows = profile.provenance.get("fisher", "")
    return _finished(profile, losses, f"{_FISHER}, from {windows}" if windows else _FISHER)


LOSS_MODELS: Final[Mapping[str, LossModel]] = MappingProxyType(
    {
        "fisher": fisher,
        "residual": residual,
        "prior": prior,
        "relative": relative,
        "activation": activation,
        "measured": measured,
    }
)
"""The loss models by name."""


def is_in_nats(table: LossTable) -> bool:
    """Whether the losses are predicted KL divergences, to be set against a measured one; others only rank."""
    return table.source.startswith((_FISHER, _MEASURED))


def default_loss_model(profile: Profile) -> LossModel:
    """`fisher` where there is Fisher information, else `measured` where there are sensitivities.

    With neither: `residual` where it applies, else `prior`.
    """
    if profile.fisher is not None:
        return fisher
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


def input_rounding(profile: Profile) -> Float64[np.ndarray, "tensors types"]:
    """Relative output error of every tensor at every type from its rounded inputs; 0 for what is not multiplied.

    ggml's kernels round what they multiply quantized weights with to 8 bits: with one scale for 32 inputs where the
    weights come in blocks of 32, for 256 where they come in blocks of 256. Unquantized weights see no such rounding.
    """
    rounding = [
        ROUNDING_256 if q.weights_per_block >= WIDE_BLOCK else ROUNDING_32 if q.weights_per_block > 1 else 0.0
        for q in profile.quant_types
    ]
    names = {tensor.name for tensor in profile.tensors}
    looked_up = "" if is_tied(names) else TOKEN_EMBEDDING
    multiplied = np.array([float(tensor.name != looked_up) for tensor in profile.tensors])
    return np.outer(multiplied, rounding)


def _table(
    profile: Profile, factors: Float64[np.ndarray, " tensors"], source: str, *, in_use: bool = False
) -> LossTable:
    errors = profile.relative_errors + input_rounding(profile) if in_use else profile.relative_errors
    losses = np.zeros(errors.shape)
    np.multiply(factors[:, None], errors, out=losses, where=np.isfinite(errors))
    return _finished(profile, losses, source)


def _finished(profile: Profile, losses: Float64[np.ndarray, "tensors types"], source: str) -> LossTable:
    """The table of these losses; what a tensor can't be is not offered."""
    foreign = profile.provenance.get("errors", "")  # said where errors are not of this model's weights
    return LossTable(
        tensors=tuple(tensor.name for tensor in profile.tensors),
        quant_types=tuple(quant_type.name for quant_type in profile.quant_types),
        weights=profile.weights,
        sizes=profile.sizes,
        losses=np.where(np.isfinite(profile.relative_errors), losses, np.inf),
        source="; ".join(filter(None, (source, f"errors {foreign}" if foreign else "", _sampling(profile)))),
    )


def _sampling(profile: Profile) -> str:
    """What a sample of rows leaves open; empty where all rows were measured."""
    if profile.sampling_errors is None:
        return ""
    rows = profile.provenance.get("rows", "some of the rows")
    return f"errors measured on {rows}, with standard errors up to {profile.sampling_shares.max():.2%} of them"
