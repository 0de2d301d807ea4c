"""Read the prediction of a plan from a file: what `solve --json` and `run --json` print, or a manifest."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raq_client.files.reading import parse_json, read_text
from raq_client.files.validation import faults_of
from raq_client.models.model_file import ModelFile
from raq_client.planning.predicted_kl import PredictedKl
from raq_solver.errors import Fault, InvalidInput

_NONE: Final = (
    "holds no predicted KL divergence; plans have one where the importance file holds Fisher information (raq-client "
    "imatrix collect)"
)


class _Predicted(BaseModel):
    """The predicted KL divergence of a plan, nats per token; the ends of its interval are null if unknown."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kl: float = Field(ge=0, allow_inf_nan=False)
    low: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    high: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    texts: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _in_order(self) -> "_Predicted":
        if not (self.low or 0) <= self.kl <= (math.inf if self.high is None else self.high):
            raise ValueError("low, kl and high are not in this order")
        return self


class _Plan(BaseModel):
    """The part of a plan that is needed; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    allocation: dict[str, str] = Field(default_factory=dict)
    predicted: _Predicted | None = None


@dataclass(frozen=True, slots=True)
class PlannedKl:
    """A predicted KL divergence, and the types it is of, by the tensors' names."""

    predicted: PredictedKl
    types: Mapping[str, str]

    def require_of(self, model: ModelFile) -> None:
        """Raise InvalidInput if the model's tensors have other types, or some are missing."""
        have = {tensor.name: tensor.source_type.name for tensor in model.tensors}
        other = [name for name, wanted in self.types.items() if have.get(name) != wanted]
        if other:
            name = other[0]
            stands = f"{have[name]} in the file" if name in have else "not in the file"
            more = f", and {len(other) - 1} more differ" if len(other) > 1 else ""
            what = f"is not made by this plan: {name} is {self.types[name]} in the plan and {stands}{more}"
            raise InvalidInput(Fault(str(model.path), what))


def read_planned_kl(path: Path) -> PlannedKl:
    """The prediction in a file. Raises InvalidInput if it can't be read or holds none."""
    content = parse_json(read_text(path, "a plan"), path)
    plan = content.get("plan", content) if isinstance(content, dict) else content
    try:
        found = _Plan.model_validate(plan)
    except ValidationError as error:
        raise InvalidInput(faults_of(error, str(path), "a plan")) from None
    if found.predicted is None or not found.allocation:
        raise InvalidInput(Fault(str(path), _NONE))
    each = found.predicted
    known = each.low is not None and each.high is not None
    low, high = (each.low or 0.0, each.high or 0.0) if known else (0.0, math.inf)
    return PlannedKl(PredictedKl(each.kl, low, high, each.texts), found.allocation)
