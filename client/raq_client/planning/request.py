"""What is asked of a model: budget, loss model, constraints, base and memory. Plain data, as flags or code give it."""

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

    `base` as `base_recipe` reads it. With `moves` "ratio" only candidates of the importance ratio between the files
    of `domain` and of `general` may leave the base. `exo` are patterns of tensors held at F16. `architecture` names a
    set of rules (`default`, `none` or a file).
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
    """What is asked for: of every budget the narrowest counts, `max_loss` asks for the smallest size instead.

    `budget` as `parse_budget` reads it; `loss` names a loss model, None leaves it to the profile; `max_loss` in the
    unit of the losses.
    """

    budget: str | None = None
    loss: str | None = None
    constraints: ConstraintSpec = field(default_factory=ConstraintSpec)
    base: BaseSpec = field(default_factory=BaseSpec)
    memory: MemoryTarget | None = None
    max_loss: float | None = None
