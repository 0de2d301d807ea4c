"""Calibration text from benchmarks: rows of several, interleaved in a stated mix.

Rules
- At each step comes a row of the benchmark that has the fewest bytes for its weight, so that every beginning of the
  text has the mix, wherever a collection stops.
- With stated weights the text ends where a benchmark that is next has no more rows; without, each benchmark's weight is
  its size and all rows are used. What is left out is counted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from raq_client.benchmarks.rows import Row
from raq_client.prompts.chats import Chat
from raq_solver.errors import Fault, raise_faults


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
