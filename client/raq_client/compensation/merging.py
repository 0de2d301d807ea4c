"""Gram statistics of several texts together, by weight."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Int32

from raq_client.compensation.gram import Entry, Gram, MatrixGram, interleaved, output_entry, spread
from raq_solver.errors import Fault, raise_faults

LEAST_SHARE: Final = 1e-6
"""Smallest weight relative to the largest: below, the statistics in float32 would not change."""


def merge_grams(parts: Sequence[tuple[Gram, float | None]]) -> Gram:
    """The statistics of several texts together, by weight; with None, each counts by its number of tokens.

    Matrices are computed when they are read. Raises InvalidInput if they are of different models or shapes, if one is
    named twice, or if a weight is not above 0.
    """
    assert parts, "nothing to merge"
    first = parts[0][0]
    parts = _in_proportion(parts)
    faults = [Fault(each.where, f"is the same as {one.where}; name it once, as FILE:2") for one, each in _twice(parts)]
    if len({weight is None for _, weight in parts}) > 1:
        faults.append(Fault("Gram statistics", "some have weights and some not; give all of them FILE:WEIGHT, or none"))
    for gram, _ in parts:
        gram.require_finished()
        if gram.model != first.model:
            faults.append(Fault(gram.where, f"is of another model than {first.where}"))
        elif (_widths(gram), dict(gram.shared)) != (_widths(first), dict(first.shared)):
            what = f"has statistics of other outputs or products than {first.where}; collect both with the same options"
            faults.append(Fault(gram.where, what))
    raise_faults(faults)
    used = sorted({*first.shared.values(), *map(output_entry, first.outputs)})  # a file may have more than it uses
    entries = {name: _added([gram.entries[name] for gram, _ in parts]) for name in used}
    windows = sum(gram.windows for gram, _ in parts)
    texts = tuple(dict.fromkeys(text for gram, _ in parts for text in gram.texts))
    where = " + ".join(gram.where for gram, _ in parts)
    return Gram(
        entries,
        first.shared,
        _Merged(tuple(parts)),
        texts,
        windows,
        first.context,
        first.model,
        where,
        first.outputs,
        sequences=_joined_sequences(parts),
    )


def _joined_sequences(parts: Sequence[tuple[Gram, float | None]]) -> Int32[np.ndarray, "windows context"] | None:
    """Sequences of all parts, in number as their weights say and spread over the whole; None if a part has none."""
    known = [(gram.sequences, weight) for gram, weight in parts if gram.sequences is not None]
    if len(known) < len(parts) or len({each.shape[1] for each, _ in known}) > 1:
        return None
    shares = [len(each) if weight is None else weight for each, weight in known]
    most = min(len(each) / share for (each, _), share in zip(known, shares, strict=True))
    counts = [max(1, int(most * share)) for share in shares]
    return interleaved([spread(each, count) for (each, _), count in zip(known, counts, strict=True)])


def _widths(gram: Gram) -> dict[str, int]:
    """The widths of the blocks of outputs."""
    return {name: gram.entries[output_entry(name)].widest for name in gram.outputs}


def _added(entries: Sequence[Entry]) -> Entry:
    """What is known of several entries together."""
    tokens, held_out = (np.sum([getattr(entry, key) for entry in entries], axis=0) for key in ("tokens", "held_out"))
    windows = sum(entry.windows for entry in entries)
    return Entry(entries[0].length, tokens, windows, held_out, entries[0].widest)


def _in_proportion(parts: Sequence[tuple[Gram, float | None]]) -> list[tuple[Gram, float | None]]:
    """The parts with weights relative to the largest, so that no sum of them overflows.

    Raises InvalidInput for weights that are not above 0, or nothing beside the largest.
    """
    known = [weight for _, weight in parts if weight is not None]
    faults = [
        Fault(gram.where, f"weight {weight}; must be above 0")
        for gram, weight in parts
        if weight is not None and not 0 < weight < np.inf
    ]
    raise_faults(faults)
    largest = max(known, default=1.0)
    what = f"of the largest one, {largest}; that is nothing, leave it out"
    raise_faults(
        [
            Fault(gram.where, f"weight {weight} is less than {LEAST_SHARE} {what}")
            for gram, weight in parts
            if weight is not None and weight / largest < LEAST_SHARE
        ]
    )
    return [(gram, None if weight is None else weight / largest) for gram, weight in parts]


def _twice(parts: Sequence[tuple[Gram, float | None]]) -> Iterator[tuple[Gram, Gram]]:
    """Pairs of parts with equal statistics: counted twice, a text would weigh more than anybody asked for."""
    first: dict[str, Gram] = {}
    for gram, _ in parts:
        if gram.known_digest and first.setdefault(gram.known_digest, gram) is not gram:
            yield first[gram.known_digest], gram


@dataclass(frozen=True, eq=False)
class _Merged:
    """Several sources as one."""

    parts: tuple[tuple[Gram, float | None], ...]

    def matrix(self, entry: str, index: int) -> MatrixGram:
        """The weighted mean of a matrix over the parts that saw inputs of it, with held-out inputs of all of them."""
        found = [(gram.source.matrix(entry, index), weight) for gram, weight in self.parts]
        weights = [(matrix.tokens if weight is None else weight) * (matrix.tokens > 0) for matrix, weight in found]
        total = sum(weights)
        blocks = []
        for place in range(len(found[0][0].blocks)):
            added = np.zeros_like(found[0][0].blocks[place])
            for (matrix, _), weight in zip(found, weights, strict=True):
                added += np.float32(weight / total if total else 0) * matrix.blocks[place]
            blocks.append(added)
        held_out = np.concatenate([matrix.held_out for matrix, _ in found])
        return MatrixGram(tuple(blocks), sum(matrix.tokens for matrix, _ in found), held_out)
