"""Calibration text from benchmarks: rows of several, interleaved in a stated mix.

Rules
- At each step comes a row of the benchmark that has the fewest bytes for its weight, so that every beginning of the
  text has the mix, wherever a collection stops.
- With stated weights the text ends where a benchmark that is next has no more rows; without, each benchmark's weight is
  its size and all rows are used. What is left out is counted.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raq_client.benchmarks.lock import checked_rows, locked_entries
from raq_client.benchmarks.registry import Registry
from raq_client.benchmarks.rows import Row
from raq_client.prompts.chats import Chat
from raq_solver.errors import Fault, InvalidInput, raise_faults

if TYPE_CHECKING:
    from raq_client.prompts.template import ChatTemplate


@dataclass(frozen=True)
class Mix:
    """Rows in their order with the benchmark of each; by benchmark the rows used and left out, and the bytes."""

    rows: tuple[tuple[str, Row], ...]
    used: Mapping[str, int]
    left_out: Mapping[str, int]
    sizes: Mapping[str, int]

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows used and left out, and bytes, by benchmark, as plain data."""
        return {"rows": dict(self.used), "left_out": dict(self.left_out), "bytes_of": dict(self.sizes)}


def mixed(
    rows: Mapping[str, Sequence[Row]], weights: Mapping[str, float] | None, cap: int | None, size: Callable[[Row], int]
) -> Mix:
    """The rows of these benchmarks in a mix of `weights` by bytes, at most `cap` of each.

    >>> rows = {"a": [Row("0", "aa", "")] * 4, "b": [Row("0", "b", "")] * 4}
    >>> mix = mixed(rows, {"a": 1, "b": 1}, None, lambda row: len(row.question))
    >>> "".join(name for name, _ in mix.rows), mix.left_out
    ('abbabba', {'a': 1, 'b': 0})

    Raises InvalidInput for a weight that is not above 0.
    """
    kept = {name: each[:cap] for name, each in rows.items()}
    shares = weights or {name: float(sum(map(size, each))) for name, each in kept.items()}
    raise_faults([Fault(name, f"weight {share}; must be above 0") for name, share in shares.items() if not share > 0])
    sizes, used = dict.fromkeys(kept, 0), dict.fromkeys(kept, 0)
    chosen: list[tuple[str, Row]] = []
    while True:
        open_names = [name for name in kept if weights is not None or used[name] < len(kept[name])]
        if not open_names:
            break
        name = min(open_names, key=lambda each: sizes[each] / shares[each])
        if used[name] == len(kept[name]):
            break
        row = kept[name][used[name]]
        chosen.append((name, row))
        used[name] += 1
        sizes[name] += size(row)
    left = {name: len(each) - used[name] for name, each in rows.items()}
    return Mix(tuple(chosen), used, left, sizes)


def chat_of_row(row: Row, *, answers: bool) -> Chat:
    """A row as a chat; without answers it ends where the model's answer would begin."""
    asked = {"role": "user", "content": row.question}
    return Chat((asked, {"role": "assistant", "content": row.answer}) if answers else (asked,))


def plain_text(row: Row, *, answers: bool) -> str:
    r"""A row as text for a model without a chat template. A task of code is the beginning of its solution.

    >>> plain_text(Row("0", "2+2?", "4"), answers=True)
    'Question: 2+2?\nAnswer: 4'
    """
    if row.entry_point:
        return row.question + (row.answer if answers else "")
    return f"Question: {row.question}\nAnswer:" + (f" {row.answer}" if answers else "")


@dataclass(frozen=True)
class Corpus:
    """A text made of benchmarks, its mix, and as plain data what it is made of, with the lock's entries."""

    text: bytes
    mix: Mix
    provenance: Mapping[str, Any]


def make_corpus(
    weights: Mapping[str, float | None],
    lock: Path,
    folder: Path,
    *,
    template: "ChatTemplate | None" = None,
    answers: bool = True,
    cap: int | None = None,
) -> Corpus:
    """The locked rows of these benchmarks in the mix of their weights, as `mixed` orders them.

    With a template each row is a chat, to be tokenized with special tokens; else rows are separated by empty lines.
    Raises InvalidInput for what the lock lacks, and for rows that are missing or have drifted from it.
    """
    entries = locked_entries(lock, weights)
    rows = checked_rows(entries, folder)

    def text(row: Row) -> str:
        return (
            plain_text(row, answers=answers) if template is None else template.render(chat_of_row(row, answers=answers))
        )

    stated = {name: weight for name, weight in weights.items() if weight is not None} or None
    mix = mixed(rows, stated, cap, lambda row: len(text(row).encode("utf-8", "replace")))
    texts = [text(row) for _, row in mix.rows]
    data = ("\n\n".join(texts) + "\n" if template is None else template.join(texts)).encode("utf-8", "replace")
    provenance = {
        "corpus_sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "answers": answers,
        "cap": cap,
        "weights": stated,
        "template_sha256": template and hashlib.sha256(template.source.encode()).hexdigest(),
        **mix.counts(),
        "lock": {name: entry.model_dump() for name, entry in entries.items()},
    }
    return Corpus(data, mix, provenance)


def weights_of(names: Sequence[str], registry: Registry) -> dict[str, float | None]:
    """Weights by benchmark from NAME or NAME:WEIGHT, that of a bundle shared by its members; None where none is given.

    Raises InvalidInput for unknown names, for weights that are no numbers, and if only some have weights.
    """
    found: dict[str, float | None] = {}
    for text in names:
        name, colon, number = text.partition(":")
        try:
            weight = float(number) if colon else None
        except ValueError as error:
            raise InvalidInput(Fault(text, f"{number!r} is no weight")) from error
        keys = registry.select([name])
        found |= {key: None if weight is None else weight / len(keys) for key in keys}
    if len({weight is None for weight in found.values()}) > 1:
        raise InvalidInput(Fault("NAME:WEIGHT", "give all of them weights, or none"))
    return found
