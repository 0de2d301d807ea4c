"""Requests: budget, loss model, constraints, base and memory for a plan, as plain data from flags or code."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from raq_client.importance.ratio import ARTICLES, Thresholds
from raq_client.planning.constraint_options import ConstraintSpec
from raq_client.planning.memory_target import MemoryTarget
from raq_client.recipes.bases import Counting


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """Options that start from an existing allocation, and rules on kinds of tensors.

    `base` as for `base_recipe`. With `moves` "ratio" only candidates of the importance ratio between the files of
    `domain` and of `general` may leave the base. `exo` are patterns of tensors kept at F16. `architecture` is a set of
    rules (`default`, `none` or a file).
    """

    base: str | None = None
    overrides: Path | None = None
    counting: Counting = "llama.cpp"
    moves: Literal["any", "ratio"] = "any"
    domain: tuple[Path, ...] = ()
    general: tuple[Path, ...] = ()
    thresholds: Thresholds = ARTICLES
    exo: tuple[str, ...] = ()
    architecture: str = "none"


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a plan. The smallest of all budgets counts; `max_loss` requests the smallest size instead.

    `budget` as for `parse_budget`; `loss` is the name of a loss model (None: chosen by the profile's data);
    `max_loss` is in the unit of the losses.
    """

    budget: str | None = None
    loss: str | None = None
    constraints: ConstraintSpec = field(default_factory=ConstraintSpec)
    base: BaseSpec = field(default_factory=BaseSpec)
    memory: MemoryTarget | None = None
    max_loss: float | None = None
