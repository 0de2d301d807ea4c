"""Importance of several texts together: added up as if collected in one run, or averaged as domains with weights.

Rules
- What one part does not have, the whole does not have either, and a remark says so where plans depend on it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from raq_client.curvature.information import Fisher, averaged, weighted_windows
from raq_client.importance.imatrix import Entry, Importance
from raq_solver.errors import Fault, raise_faults


def mixed_lengths(lengths: Sequence[int]) -> list[str]:
    """A remark on statistics of windows of these lengths that are added up; none if all are alike.

    >>> mixed_lengths([512, 512]), mixed_lengths([512, 64])[0][:41]
    ([], 'windows of 64 and 512 tokens are added up')
    """
    different = sorted(set(lengths))
    if len(different) < 2:
        return []
    found = f"windows of {' and '.join(map(str, different))} tokens are added up"
    why = "in shorter ones tokens have less text before them, so that this is not what one run over all texts gives"
    return [f"{found}: {why}"]


def merge(parts: Sequence[Importance]) -> Importance:
    """The sum of several importances, as if they had been collected in one run; a remark says if windows differ.

    Sums of plain inputs are kept for tensors that have them in every part with an entry for the tensor. Where one part
    has counts per expert and another (an older file) one for all, that one is taken for each, as llama-imatrix does.
    Fisher information is that of the parts that have any. Raises InvalidInput with every entry whose length differs
    between files.
    """
    assert parts, "nothing to merge"
    entries: dict[str, Entry] = {}
    faults = []
    for part in parts:
        for name, entry in part.entries.items():
            before = entries.get(name)
            if before is None:
                entries[name] = entry
            elif before.sums.shape != entry.sums.shape or not _same_counts(before, entry):
                what = f"{_extent(entry)} in {part.title}, {_extent(before)} in another file"
                faults.append(Fault(name, f"can't be merged: {what}"))
            else:
                entries[name] = added(before, entry)
    raise_faults(faults)
    datasets = tuple(dict.fromkeys(text for part in parts for text in part.datasets))
    sources = " + ".join(part.source for part in parts)
    size, windows = parts[0].chunk_size, sum(p.fisher_windows for p in parts)
    chunks = math.ceil(sum(p.chunk_count * p.chunk_size for p in parts) / size)
    having = [part for part in parts if part.fisher]
    weighted = [(part, float(part.fisher_windows)) for part in having]
    fisher = _fisher_of(weighted) if having else {}
    remarks = [] if len(having) in {0, len(parts)} else [f"Fisher information is of {_titles(having)} alone"]
    remarks += _lost(having)
    remarks += mixed_lengths([part.chunk_size for part in parts])
    remarks += [remark for part in parts for remark in part.remarks]
    return Importance(
        entries,
        datasets,
        chunks,
        size,
        sources,
        fisher,
        windows if fisher else 0,
        tuple(dict.fromkeys(remarks)),
        weighted_windows([(part.windows, weight) for part, weight in weighted]),
    )


def blend(parts: Sequence[tuple[Importance, float]]) -> Importance:
    """The weighted mean of several domains; the length of their texts does not matter.

    The mean squares of every column are averaged with the weights; counts are those of all texts together. A matrix
    that was not reached in a domain gets the mean of the other domains. Raises InvalidInput for weights that are not
    above 0, and with every entry whose length differs between files.
    """
    assert parts, "nothing to blend"
    faults = [Fault(part.title, f"weight {weight}; must be above 0") for part, weight in parts if not weight > 0]
    raise_faults(faults)
    lacking = [part for part, _ in parts if not part.fisher]
    remarks = () if len(lacking) in {0, len(parts)} else (_without_fisher(lacking),)
    counted = merge([part if not lacking else replace(part, fisher={}, fisher_windows=0) for part, _ in parts])
    entries = {}
    for name, whole in counted.entries.items():
        known = [(part.entries[name], weight) for part, weight in parts if name in part.entries]
        squares = _blended([(entry.mean_squares, entry.counts, weight) for entry, weight in known], whole)
        plain = [(entry.means, entry.counts, weight) for entry, weight in known if entry.means is not None]
        entries[name] = Entry(squares, whole.counts, None if whole.plain_sums is None else _blended(plain, whole))
    sources = " + ".join(f"{weight:g} × {part.title}" for part, weight in parts)
    fisher = _fisher_of(parts)
    windows = counted.fisher_windows
    return Importance(
        entries,
        counted.datasets,
        counted.chunk_count,
        counted.chunk_size,
        sources,
        fisher,
        windows,
        (*remarks, *counted.remarks),
        weighted_windows([(part.windows, weight) for part, weight in parts]),
    )


def _without_fisher(lacking: Sequence[Importance]) -> str:
    what = "has no Fisher information, so that the blend has none"
    return f"{_titles(lacking)} {what}; collect it again with --fisher"


def _lost(parts: Sequence[Importance]) -> list[str]:
    """Remarks on what only some of these parts have beside Fisher information, so that the whole does not."""
    found = []
    for kind, field in (("levels of windows", "levels"), ("costs of rounded inputs", "inputs")):
        lacking = [part for part in parts if any(getattr(each, field) is None for each in part.fisher.values())]
        if 0 < len(lacking) < len(parts):
            found.append(f"{_titles(lacking)} has no {kind}, so that the whole has none; collect it again")
    return found


def _same_counts(one: Entry, other: Entry) -> bool:
    return one.counts.size == other.counts.size or 1 in {one.counts.size, other.counts.size}


def _extent(entry: Entry) -> str:
    return f"{entry.sums.size} values of {entry.counts.size} matrices"


def _fisher_of(parts: Sequence[tuple[Importance, float]]) -> dict[str, Fisher]:
    """The weighted mean of the parts' Fisher information; empty if a part has none."""
    if not all(part.fisher for part, _ in parts):
        return {}
    names = set.intersection(*(set(part.fisher) for part, _ in parts))
    return {name: averaged([(part.fisher[name], weight) for part, weight in parts]) for name in names}


def _blended(
    parts: Sequence[tuple[Float32[np.ndarray, "matrices length"], Float32[np.ndarray, " matrices"], float]],
    whole: Entry,
) -> Float32[np.ndarray, " values"]:
    """Sums whose means are the weighted means of the parts, each given as (means, counts, weight)."""
    sums = np.zeros((whole.counts.size, whole.sums.size // whole.counts.size))
    weights = np.zeros((whole.counts.size, 1))
    for means, counts, weight in parts:
        share = weight * (counts[:, None] > 0)
        sums += share * means.reshape(sums.shape).astype(np.float64)
        weights += share
    np.divide(sums, weights, out=sums, where=weights > 0)
    sums *= whole.counts[:, None]
    return sums.astype(np.float32).ravel()


def added(one: Entry, other: Entry) -> Entry:
    """The entry of both texts of two entries of one tensor, whose sums have the same lengths."""
    return Entry(one.sums + other.sums, one.counts + other.counts, _plain_sum(one, other))


def _plain_sum(one: Entry, other: Entry) -> Float32[np.ndarray, " values"] | None:
    if one.plain_sums is None or other.plain_sums is None:
        return None
    added: np.ndarray = one.plain_sums + other.plain_sums
    return added


def _titles(parts: Sequence[Importance]) -> str:
    return ", ".join(part.title for part in parts)
