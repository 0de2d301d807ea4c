"""Loss models: functions from a profile, which holds measured facts, to a table of predicted losses.

All are sums over tensors. HIGGS' linearity theorem (arXiv 2411.17525) justifies that for moderate errors; where it does
not hold, checking the written file shows it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_solver.errors import Fault, InvalidInput, near_misses
from raq_solver.loss_models.residual_stream import residual_sensitivities
from raq_solver.loss_models.role_prior import CREDIT, role_sensitivities
from raq_solver.losses import LossTable, LossUnit
from raq_solver.profile import Profile
from raq_solver.quant_types import INPUT_BLOCKS
from raq_solver.tensor_names import TOKEN_EMBEDDING, is_tied

LossModel = Callable[[Profile], LossTable]
"""A function that predicts losses from a profile."""
_RESIDUAL: Final = "relative output error, sensitivity by share of the residual stream"
_PRIOR: Final = "relative output error, sensitivity by role and place"

ROUNDING_32, ROUNDING_256 = 4e-5, 1.3e-4
"""Relative output error from inputs rounded to 8 bits, by how many share a scale: for models without measured costs of
rounded inputs. Measured on the project's two models as (KL divergence by file - in memory with floating-point inputs) /
sum of sensitivities, all tensors alike: 5e-5 and 4e-5 at Q8_0, 1.4e-4 and 1.3e-4 at Q6_K. (Theory for normal inputs:
3e-5 and 5e-5; real ones have tails.)"""


def relative(profile: Profile) -> LossTable:
    """Every tensor's relative output error counts alike: L = E.

    Assumes that a given relative change of any tensor's output moves the model equally. The unit is relative error, so
    losses only compare with each other.
    """
    return _table(profile, np.ones(len(profile.tensors)), "relative output error", LossUnit.RELATIVE_ERROR)


def prior(profile: Profile) -> LossTable:
    """L = s × E with s from role and place alone (raq_solver.loss_models.role_prior), as published of 12 other models.

    Needs names only, so it applies where nothing better is known: models with experts, hybrids, headers. Assumes that
    tensors of one role and place matter alike in all models, which holds within a factor of about two. The unit is
    nominal nats: scales of models differ by more than that factor, so losses only compare with each other.
    """
    sensitivities, source = role_sensitivities(profile.tensors), f"{_PRIOR} ({CREDIT})"
    return _table(profile, sensitivities, source, LossUnit.NOMINAL_NATS, in_use=True)


def residual(profile: Profile) -> LossTable:
    """L = s × E with s from each tensor's share of the residual stream (raq_solver.loss_models.residual_stream).

    Needs importance and a dense model. The unit is nominal nats: about right on small trained models, 20 to 1,000 times
    too small on real ones, where a few massive activations carry the energy. Losses only compare with each other.
    Raises InvalidInput where it does not apply.
    """
    found = residual_sensitivities(profile)
    if isinstance(found, str):
        what = f"the loss model residual does not apply to this model: {found}; use prior"
        raise InvalidInput(Fault("profile", what))
    return _table(profile, found, _RESIDUAL, LossUnit.NOMINAL_NATS, in_use=True)


def activation(profile: Profile) -> LossTable:
    """Σ h ΔW², the expected squared change of each tensor's output: L = energy × E.

    The measure of the RA articles and of llama.cpp's `--target-bpw` patch before its corrections. Assumes that all
    outputs have one scale, which is not so in residual networks.
    """
    return _table(profile, profile.energies, "squared change of activations", LossUnit.ACTIVATION_CHANGE)


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
    source = f"measured sensitivity of {int(known.sum())} tensors" + (f" ({credit})" if credit else "")
    sensitivities = np.where(known, profile.sensitivities, median)
    return _table(profile, sensitivities, source, LossUnit.NATS, in_use=True)


def fisher(profile: Profile) -> LossTable:
    """L = Σ_ij F_ij (W - Ŵ)_ij², the KL divergence to second order by the Fisher information F, nats per token.

    Nothing in it is fitted: one backward pass through the model gives F for every weight (raq_client.curvature).
    Tensors without Fisher information (experts that no token reached, blocks that are not run) get the sensitivity of
    `prior` in the scale of the others. Raises InvalidInput where no Fisher information was collected.
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
    losses += _input_losses(profile, sensitivities)
    windows = profile.provenance.get("fisher", "")
    source = f"Fisher information, from {windows}" if windows else "Fisher information"
    return _finished(profile, losses, source, LossUnit.NATS)


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


def default_loss_model(profile: Profile) -> LossModel:
    """The best loss model for a profile: `fisher` with Fisher information, else `measured` with sensitivities.

    With neither, `residual` where it applies, else `prior`.
    """
    if profile.fisher is not None:
        return fisher
    if np.isfinite(profile.sensitivities).any():
        return measured
    return prior if isinstance(residual_sensitivities(profile), str) else residual


def loss_model(name: str) -> LossModel:
    """The loss model of that name. Raises InvalidInput with the nearest names.

    >>> loss_model("prior") is LOSS_MODELS["prior"]
    True
    """
    found = LOSS_MODELS.get(name)
    if found is None:
        what = f"no such loss model{near_misses(name, LOSS_MODELS)}; there are {', '.join(LOSS_MODELS)}"
        raise InvalidInput(Fault(name, what))
    return found


def input_rounding(profile: Profile) -> Float64[np.ndarray, "tensors types"]:
    """Relative output error of every tensor at every type from its rounded inputs; 0 for tensors that are looked up.

    Usual values, where nothing better is known of a model: single tensors have 0.3 to 17 times these (docs/quality.md).
    """
    of_block = {0: 0.0, **dict(zip(INPUT_BLOCKS, (ROUNDING_32, ROUNDING_256), strict=True))}
    rounding = [of_block[quant_type.input_block] for quant_type in profile.quant_types]
    names = {tensor.name for tensor in profile.tensors}
    looked_up = "" if is_tied(names) else TOKEN_EMBEDDING
    multiplied = np.array([float(tensor.name != looked_up) for tensor in profile.tensors])
    return np.outer(multiplied, rounding)


def _input_losses(
    profile: Profile, sensitivities: Float64[np.ndarray, " tensors"]
) -> Float64[np.ndarray, "tensors types"]:
    """The loss from rounded inputs of every tensor at every type: as measured, else by the usual relative error."""
    usual: Float64[np.ndarray, "tensors types"] = sensitivities[:, None] * input_rounding(profile)
    if profile.fisher is None or profile.fisher.inputs is None:
        return usual
    by_block = dict(zip(INPUT_BLOCKS, profile.fisher.inputs.T, strict=True))
    by_block[0] = np.zeros(len(profile.tensors))
    measured = np.stack([by_block[quant_type.input_block] for quant_type in profile.quant_types], axis=1)
    found: Float64[np.ndarray, "tensors types"] = np.where(np.isnan(measured), usual, measured)
    return found


def rounded_inputs_share(profile: Profile, types: Mapping[str, str]) -> float:
    """The loss from rounded inputs relative to that from rounded weights, by Fisher information; 0 without it.

    A trial in memory has rounded weights and whole inputs, a file has both rounded, so that its KL divergence is larger
    by about this share.
    """
    if profile.fisher is None:
        return 0.0
    column = {quant_type.name: index for index, quant_type in enumerate(profile.quant_types)}
    rows, columns = np.arange(len(profile.tensors)), [column[types[t.name]] for t in profile.tensors]
    inputs = _input_losses(profile, np.nan_to_num(profile.fisher.energies))[rows, columns]
    weights = float(np.nan_to_num(profile.fisher.losses)[rows, columns].sum())
    return float(inputs.sum()) / weights if weights > 0 else 0.0


def _table(
    profile: Profile,
    factors: Float64[np.ndarray, " tensors"],
    source: str,
    unit: LossUnit,
    *,
    in_use: bool = False,
) -> LossTable:
    """The table of factor × relative error; `in_use` adds the error of rounded inputs."""
    errors = profile.relative_errors + input_rounding(profile) if in_use else profile.relative_errors
    losses = np.zeros(errors.shape)
    np.multiply(factors[:, None], errors, out=losses, where=np.isfinite(errors))
    return _finished(profile, losses, source, unit)


def _finished(profile: Profile, losses: Float64[np.ndarray, "tensors types"], source: str, unit: LossUnit) -> LossTable:
    """The table of these losses; types that a tensor can't have are not offered."""
    foreign = profile.provenance.get("errors", "")  # present where errors are not of this model's weights
    return LossTable(
        tensors=tuple(tensor.name for tensor in profile.tensors),
        quant_types=tuple(quant_type.name for quant_type in profile.quant_types),
        weights=profile.weights,
        sizes=profile.sizes,
        losses=np.where(np.isfinite(profile.relative_errors), losses, np.inf),
        source="; ".join(filter(None, (source, f"errors {foreign}" if foreign else "", _sampling(profile)))),
        unit=unit,
    )


def _sampling(profile: Profile) -> str:
    """The error of measuring a sample of rows, in words; empty where all rows were measured."""
    if profile.sampling_errors is None:
        return ""
    rows = profile.provenance.get("rows", "some of the rows")
    return f"errors measured on {rows}, with standard errors up to {profile.sampling_shares.max():.2%} of them"
