"""Models: opened by file, or known by a saved profile."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Literal

from raq._html import facts
from raq.plan import Infeasible, Plan
from raq_client import pipeline
from raq_client.models.type_choice import chosen_types
from raq_client.planning.constraint_options import ConstraintSpec
from raq_client.planning.memory_target import MemoryTarget
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.request import BaseSpec, Request
from raq_client.progress import Progress, silent
from raq_client.quantizing.devices import chosen_device
from raq_client.solver_client.local import LocalSolver
from raq_client.solver_client.protocol import SolverClient
from raq_solver.knapsack import Limits
from raq_solver.profile import Profile

PathText = str | PathLike[str]
Patterns = Mapping[str, object] | Sequence[str]
"""Constraints by pattern of tensor names: `{"output.weight": "Q6_K"}` or `["output.weight=Q6_K"]`."""


def open_model(
    path: PathText,
    *,
    imatrix: PathText | Sequence[PathText] | Mapping[PathText, float] = (),
    gram: PathText | None = None,
    types: Sequence[str] = (),
    effort: Literal["fast", "best"] = "fast",
    threads: int = 0,
    rows: int | None = None,
    device: str = "cpu",
    cached: bool = True,
) -> "Model":
    """Open a GGUF model (of a split one, any shard) with its importance. Nothing is measured yet.

    `imatrix` names importance files: several are added up, a mapping blends them by weight. `gram` names Gram
    statistics, to round with error feedback. `types` are quant types to choose from, or `auto` (the default), `k`,
    `iq`, `legacy`, `all`. `effort` is how hard scales are searched. `threads` 0: one for each core. `rows` measures a
    sample of each matrix. `device` as `cpu`, `cuda`, `cuda:0`, `auto`. Measured errors are kept in the user's cache
    unless `cached` is off.

    Raises InvalidInput if a file can't be read, importance is not of this model, or a type is not known.

    >>> model = open_model("tests/data/wiki-math-4M-f16.gguf", types=["Q8_0", "Q4_0"])
    >>> model.name, model.weights
    ('wiki-math-4M-f16', 4458752)
    """
    inputs = ModelInputs(
        path=Path(path),
        imatrix=_imatrix(imatrix),
        gram=None if gram is None else Path(gram),
        types=tuple(types),
        effort=effort,
        threads=threads,
        rows=rows,
        cached=cached,
        device=chosen_device(device, silent),
    )
    # Read now: a mistake in them is an error before any work.
    chosen_types(inputs.types)
    _ = inputs.model, inputs.rounding
    return Model(inputs)


def load_profile(path: PathText) -> "Model":
    """A model by its saved profile: it can be planned, not quantized. Raises InvalidInput if the file can't be read."""
    model = Model(ModelInputs(profile_path=Path(path)))
    _ = model.profile()
    return model


class Model:
    """A model to plan for. Made by `raq.open` or `raq.load_profile`."""

    def __init__(self, inputs: ModelInputs) -> None:
        self.inputs = inputs

    @property
    def path(self) -> Path | None:
        """The model's file; None for a saved profile."""
        return self.inputs.path

    @cached_property
    def name(self) -> str:
        """The file's name without its ending, or the name in the profile."""
        return self.inputs.model.path.stem if self.path else self.profile().provenance.get("model", "the model")

    @cached_property
    def weights(self) -> int:
        """Number of weights of all tensors, which budgets in bits per weight refer to."""
        tensors = self.inputs.model.tensors if self.path else self.profile().tensors
        return sum(tensor.weights for tensor in tensors)

    def profile(self, *, progress: Progress | None = None) -> Profile:
        """The error of every tensor at every type: measured on the first call, then kept.

        Raises InvalidInput with what is wrong with the model's weights.
        """
        return self.inputs.profile(progress=progress)

    def plan(
        self,
        budget: str | float | None = None,
        *,
        max_loss: float | None = None,
        pin: Patterns = (),
        floor: Patterns = (),
        ceiling: Patterns = (),
        exclude: Patterns = (),
        tie: Sequence[str] = (),
        at_most: Patterns = (),
        region: Patterns = (),
        monotone: Sequence[str] = (),
        distinct_types: int | None = None,
        active_bytes: str | None = None,
        base: str | None = None,
        architecture: str = "none",
        exo: Sequence[str] = (),
        memory: MemoryTarget | None = None,
        loss: str | None = None,
        solver: SolverClient | None = None,
        seconds: float | None = None,
        progress: Progress | None = None,
    ) -> Plan:
        """The allocation of least predicted loss within a budget, with proof that none is better.

        `budget` as `--budget` takes it: bits per weight (5.7) or the size of the file ("4.2GiB"). Without one:
        `max_loss` asks for the smallest size that keeps a loss, `base` for the size of that base (a mixture such as
        "Q4_K_M", a GGUF file, a recipe), `memory` for what a device leaves. Constraints are those of the flags of the
        same names. `loss` names a loss model, `solver` a `raq.connect`ed service; `seconds` bounds the search.

        Raises Infeasible if nothing fits, InvalidInput with the faults of what is asked for.

        >>> model = open_model("tests/data/wiki-math-4M-f16.gguf", types=["Q8_0", "Q4_0"])
        >>> plan = model.plan(5.5, pin={"output.weight": "Q8_0"})
        >>> plan.proven, plan.types["output.weight"], plan.size <= 5.5 * model.weights / 8
        (True, 'Q8_0', True)
        """
        request = Request(
            budget=None if budget is None else str(budget),
            loss=loss,
            constraints=ConstraintSpec(
                pin=_texts(pin),
                floor=_texts(floor),
                ceiling=_texts(ceiling),
                exclude=_texts(exclude),
                tie=tuple(tie),
                at_most=_texts(at_most),
                region=_texts(region),
                monotone=tuple(monotone),
                distinct_types=distinct_types,
                active_bytes=active_bytes,
            ),
            base=BaseSpec(base=base, architecture=architecture, exo=tuple(exo)),
            memory=memory,
            max_loss=max_loss,
        )
        used = solver or LocalSolver()
        found = pipeline.plan(self.inputs, request, used, Limits(seconds), progress=progress)
        if found.outcome.allocation is None:
            raise Infeasible(found)
        return Plan(found, self.inputs, used)

    def __repr__(self) -> str:
        return f"<raq.Model {self.name}: {self.weights:,} weights>"

    def _repr_html_(self) -> str:
        importance = ", ".join(self.inputs.imatrix) or "none"
        rows = [("weights", f"{self.weights:,}"), ("importance", importance)]
        return facts(self.name, rows)


def _imatrix(given: PathText | Sequence[PathText] | Mapping[PathText, float]) -> tuple[str, ...]:
    """Importance files as the flag takes them."""
    if isinstance(given, str | PathLike):
        return (str(given),)
    if isinstance(given, Mapping):
        return tuple(f"{name!s}:{weight}" for name, weight in given.items())
    return tuple(map(str, given))


def _texts(patterns: Patterns) -> tuple[str, ...]:
    """Constraints as the flags take them."""
    if isinstance(patterns, Mapping):
        return tuple(f"{pattern}={value}" for pattern, value in patterns.items())
    return tuple(patterns)
