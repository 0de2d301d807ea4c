"""Loss models: from measured facts to predicted losses."""

from raq_solver.loss_models.models import (
    LOSS_MODELS,
    LossModel,
    activation,
    default_loss_model,
    fisher,
    input_rounding,
    is_in_nats,
    loss_model,
    measured,
    prior,
    relative,
    residual,
)

__all__ = [
    "LOSS_MODELS",
    "LossModel",
    "activation",
    "default_loss_model",
    "fisher",
    "input_rounding",
    "is_in_nats",
    "loss_model",
    "measured",
    "prior",
    "relative",
    "residual",
]
