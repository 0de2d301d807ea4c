"""Loss models: functions from measured facts to predicted losses."""

from raq_solver.loss_models.models import (
    LOSS_MODELS,
    LossModel,
    activation,
    default_loss_model,
    fisher,
    input_rounding,
    loss_model,
    measured,
    prior,
    relative,
    residual,
    rounded_inputs_share,
)

__all__ = [
    "LOSS_MODELS",
    "LossModel",
    "activation",
    "default_loss_model",
    "fisher",
    "input_rounding",
    "loss_model",
    "measured",
    "prior",
    "relative",
    "residual",
    "rounded_inputs_share",
]
