"""The estimate of a whole run: measuring, trying, writing, checking."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raq_client.engine.windows import Text
from raq_client.estimates.estimate import Estimate, Stage
from raq_client.estimates.rounding import measuring
from raq_client.estimates.stages import checking
from raq_client.models.table import table_of
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.request import Request
from raq_client.planning.size_budget import parse_size_budget
from raq_solver.budget import capacity_bytes


def estimated_run(
    inputs: ModelInputs,
    request: Request,
    texts: Sequence[Text],
    *,
    trial_seconds: float | None,
    writes: bool,
    how: Mapping[str, Any],
) -> Estimate:
    """The estimate of `run`; `trial_seconds` None: nothing is tried. `how` are the options of the check.

    The types are not known before the errors are measured: writing takes what an average one of those offered takes,
    and the quantized model is assumed to be as fast as the original.
    """
    measured, writing = measuring(inputs)
    stages = list(measured)
    check = None
    if texts and (writes or trial_seconds):
        check = checking(inputs.model.path, inputs.model.path, texts, threads=inputs.threads, **how)
    if trial_seconds and check is not None:
        stages.append(Stage("trying", trial_seconds, check.memory, by="--trial-minutes", at_most=True))
    if writes:
        stages += [*writing[:-1], replace(writing[-1], disk=file_size(inputs, request))]
        if check is not None:
            stages.append(check)
    return Estimate(tuple(stages))


def file_size(inputs: ModelInputs, request: Request) -> int:
    """Most bytes of the file: the budget with the file's metadata, or the size of the model where there is none."""
    table = table_of(inputs.model)
    if request.budget is None:
        return sum(shard.stat().st_size for shard in inputs.model.shards)
    weights = sum(tensor.weights for tensor in inputs.model.tensors)
    return table.overhead + capacity_bytes(parse_size_budget(request.budget, table.overhead), weights)
