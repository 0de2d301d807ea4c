"""A model without some of its layers, with what belongs to its tensors."""

from collections.abc import Collection
from dataclasses import replace

from raq_client.importance.imatrix import Importance
from raq_client.models.model_file import ModelFile
from raq_client.models.pruning import numbers_without, pruned_model, renumbered
from raq_solver.allocation import Allocation


def pruned(
    model: ModelFile, allocation: Allocation, importance: Importance | None, layers: Collection[int]
) -> tuple[ModelFile, Allocation, Importance | None]:
    """The model without these layers, and its share of an allocation and an importance made for all layers.

    Raises InvalidInput as `numbers_without` does.
    """
    numbers = numbers_without(model, layers)
    types = Allocation(renumbered(allocation.types, numbers))
    if importance is not None:
        entries, fisher = renumbered(importance.entries, numbers), renumbered(importance.fisher, numbers)
        importance = replace(importance, entries=entries, fisher=fisher)
    return pruned_model(model, numbers), types, importance
