"""A profile with error feedback: every error and loss times what feedback leaves of it on held-out inputs.

The factor of a cell is the error of feedback relative to plain rounding, over some rows of each matrix, on inputs that
the statistics have not seen; where feedback does not help it is 1, and the tensor is rounded plainly. Errors on the
inputs that were counted would promise too much: feedback fits these.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from raq_client.files.cache_file import CacheFile
from raq_client.models.model_file import ModelFile
from raq_client.models.table import GRAM_DIGEST
from raq_client.quantizing.measure import Progress, kernels_digest
from raq_client.quantizing.refusals import refusals_named
from raq_client.quantizing.rounding import Rounding, rows_of, sampled_rows
from raq_solver.profile import Profile
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

_VERSION = "5"
"""Changed whenever the same inputs give other factors, which invalidates the cache."""


def compensated_profile(
    model: ModelFile,
    profile: Profile,
    rounding: Rounding,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Profile:
    """The profile of plain rounding, as it is with the error feedback of `rounding`.

    Raises InvalidInput if weights or statistics can't be read.
    """
    compensation = rounding.compensation
    assert compensation is not None, "without statistics there is no feedback"
    gram = compensation.gram
    key = f"{profile.digest()} {gram.digest()} {rounding.effort} {kernels_digest()} {_VERSION}"
    name = f"gains-{hashlib.sha256(key.encode()).hexdigest()[:32]}.jsonl"
    store = CacheFile(None if cache is None else cache / name)
    known = {line["tensor"]: line["gains"] for line in store.objects() if {"tensor", "gains"} <= line.keys()}
    table = np.ones_like(profile.relative_errors)
    weights = int(profile.weights.sum())
    done = 0
    for row, tensor in enumerate(profile.tensors):
        errors = zip(profile.quant_types, profile.relative_errors[row].tolist(), strict=True)
        types = [each for each, error in errors if 0 < error < np.inf]
        if gram.entry_of(tensor) is not None and types:
            if tensor.name not in known:
                known[tensor.name] = tensor_gains(model, tensor, types, rounding)
                store.add({"tensor": tensor.name, "gains": known[tensor.name]})
            table[row] = [known[tensor.name].get(q.name, 1.0) for q in profile.quant_types]
        done += tensor.weights
        if progress is not None:
            progress(done, weights)
    return _times(profile, table, {GRAM_DIGEST: gram.digest()})


def tensor_gains(
    model: ModelFile, tensor: Tensor, types: Sequence[QuantType], rounding: Rounding
) -> Mapping[str, float]:
    """What feedback leaves of a tensor's error at each type, the mean over its matrices; 1 where it is not used.

    Raises InvalidInput if weights or statistics can't be read.
    """
    rows = tensor.rows // tensor.matrices
    places = sampled_rows(rows)
    found = {each.name: 0.0 for each in types}
    for matrix in range(tensor.matrices):
        weights = rows_of(model, tensor, matrix)(places)

        def read(_places: np.ndarray, rows: np.ndarray = weights) -> np.ndarray:
            return rows

        with refusals_named(tensor, weights, (matrix * rows + places).tolist()):
            for each in types:
                found[each.name] += rounding.of_matrix(tensor, matrix, each, read).gain / tensor.matrices
    return found


def _times(profile: Profile, table: np.ndarray, provenance: Mapping[str, str]) -> Profile:
    """The profile with errors and losses times the factors of `table`."""
    sampling, fisher = profile.sampling_errors, profile.fisher
    return replace(
        profile,
        relative_errors=profile.relative_errors * table,
        sampling_errors=None if sampling is None else sampling * table,
        fisher=None if fisher is None else replace(fisher, losses=fisher.losses * table),
        provenance={**profile.provenance, **provenance},
    )
