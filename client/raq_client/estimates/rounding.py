"""The stages of rounding: measuring errors and writing files, plainly and with error feedback."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from raq_client.estimates.estimate import Stage, peak_memory
from raq_client.estimates.feedback import WIDEST_PART, FeedbackSeconds, at_once_of
from raq_client.importance.imatrix import Importance
from raq_client.models.model_file import ModelFile
from raq_client.models.type_choice import AUTO, chosen_types
from raq_client.planning.model_inputs import ModelInputs
from raq_client.quantizing.measure import Method, measure_tensor, offered_types
from raq_client.quantizing.rounding import Rounding
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

SAMPLE: Final = 1 << 17
"""Weights of a tensor that are rounded to learn how long its types take."""
_OF_PARTS: Final = f"error feedback in parts of matrices, up to {WIDEST_PART:,} × {WIDEST_PART:,}"

Types = Mapping[Tensor, Sequence[QuantType]]
"""The types of each tensor, its own left out."""


class RoundingSeconds:
    """Seconds that the kernels take to round tensors, from a sample of the largest tensor with the same types."""

    def __init__(self, model: ModelFile, importance: Importance | None, method: Method) -> None:
        self._model = model
        self._importance = importance
        self._method = method
        self._per_weight: dict[tuple[str, ...], float] = {}

    def of(self, wanted: Mapping[str, Sequence[QuantType]]) -> dict[str, float]:
        """Seconds of each tensor at all of its types, by the tensor's name."""
        largest_first = sorted(self._model.tensors, key=lambda tensor: -tensor.weights)
        return {tensor.name: self._of(tensor, wanted[tensor.name]) for tensor in largest_first}

    def _of(self, tensor: Tensor, types: Sequence[QuantType]) -> float:
        searched = [each for each in types if each != tensor.source_type]
        if not searched:
            return 0.0
        key = tuple(each.name for each in searched)
        if key not in self._per_weight:
            self._per_weight[key] = self._sampled(tensor, searched)
        rows = tensor.rows if self._method.rows is None else min(tensor.rows, self._method.rows * tensor.matrices)
        return self._per_weight[key] * rows * tensor.row_length

    def _sampled(self, tensor: Tensor, types: Sequence[QuantType]) -> float:
        rows = max(2, SAMPLE // (tensor.row_length * tensor.matrices))
        method = Method(self._method.effort, self._method.threads, rows)
        began = time.perf_counter()
        measure_tensor(self._model, tensor, self._importance, types, method)
        measured = min(tensor.rows, rows * tensor.matrices) * tensor.row_length
        return (time.perf_counter() - began) / measured


def measuring(inputs: ModelInputs) -> tuple[tuple[Stage, ...], tuple[Stage, ...]]:
    """Measuring the errors of a model, and writing a file whose types are not known yet: an average of those offered.

    Stages of writing have no size. Raises InvalidInput as `ModelInputs.rounding` does.
    """
    model, rounding = inputs.model, inputs.rounding
    importance = rounding.importance
    offered = offered_types(model, importance, chosen_types(inputs.types or (AUTO,)))
    seconds = RoundingSeconds(model, importance, Method(inputs.effort, inputs.threads, inputs.rows)).of(offered)
    by = f"{SAMPLE:,} weights of the largest tensor for each choice of types"
    stages = [Stage("measuring errors", sum(seconds.values()), peak_memory(), by=by)]
    types = {tensor: _others(tensor, offered[tensor.name]) for tensor in model.tensors}
    feedback = None if rounding.compensation is None else FeedbackSeconds(model, rounding)
    if feedback is not None:
        fed, _ = _apart(types, feedback)
        testing = feedback.testing(fed)
        stages.append(Stage("measuring error feedback", testing, peak_memory() + feedback.memory(fed), by=_OF_PARTS))
    return tuple(stages), _writing(model, types, rounding, feedback, by)


def quantizing(
    model: ModelFile, chosen: Mapping[Tensor, QuantType], rounding: Rounding, size: int
) -> tuple[Stage, ...]:
    """Writing a file of `size` bytes with these types; the last stage has the size."""
    types = {tensor: _others(tensor, (each,)) for tensor, each in chosen.items()}
    feedback = None if rounding.compensation is None else FeedbackSeconds(model, rounding)
    by = f"{SAMPLE:,} weights of the largest tensor of each type"
    *others, last = _writing(model, types, rounding, feedback, by)
    return (*others, replace(last, disk=size))


def _writing(
    model: ModelFile, types: Types, rounding: Rounding, feedback: FeedbackSeconds | None, by: str
) -> tuple[Stage, ...]:
    """Writing each tensor in an average one of its types; what --sequential adds comes before it."""
    fed, plain = ({}, types) if feedback is None else _apart(types, feedback)
    method = Method(rounding.effort, rounding.threads)
    named = {tensor.name: plain.get(tensor, ()) for tensor in model.tensors}
    made = RoundingSeconds(model, rounding.importance, method).of(named)
    seconds = sum(each / max(1, len(named[name])) for name, each in made.items())
    if feedback is None:
        return (Stage("quantizing", seconds, peak_memory(), by=by),)
    if not rounding.sequential:
        seconds += feedback.writing(fed, lambda tensor: at_once_of(rounding, tensor))
        return (Stage("quantizing", seconds, peak_memory() + feedback.memory(fed), by=_OF_PARTS),)
    from raq_client.estimates.in_turn import in_turn_at_once, passing

    seconds += feedback.writing(fed, in_turn_at_once(fed, rounding))
    passes = passing(model, rounding, tuple(fed))
    return passes, Stage("quantizing", seconds, peak_memory() + feedback.memory(fed), by=_OF_PARTS)


def _others(tensor: Tensor, types: Sequence[QuantType]) -> tuple[QuantType, ...]:
    """The types without that of the tensor itself, in which it is copied."""
    return tuple(each for each in types if each != tensor.source_type)


def _apart(types: Types, feedback: FeedbackSeconds) -> tuple[Types, Types]:
    """The types that tensors are rounded to with error feedback, and those that they are rounded to plainly."""
    fed = {tensor: tuple(each for each in some if feedback.has(tensor, each)) for tensor, some in types.items()}
    plain = {tensor: tuple(each for each in some if each not in fed[tensor]) for tensor, some in types.items()}
    return {tensor: some for tensor, some in fed.items() if some}, plain
