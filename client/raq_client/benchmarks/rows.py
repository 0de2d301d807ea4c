"""The rows of benchmarks in one form, whatever file they come from.

Rules
- A row has a question and its answer; a task of code also its tests and the function that they check.
- The canonical text of rows is a line of JSON for each, keys sorted, no spaces, characters as they are. Its SHA-256
  identifies the rows; it does not depend on how the source writes its file.
- A change of what a form makes of a source raises NORMALISER, and locks are made again.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raq_client.benchmarks.registry import Form
from raq_solver.errors import Fault, InvalidInput, raise_faults

NORMALISER: Final = 1
_CALCULATION: Final = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True, slots=True)
class Row:
    """One item. `tests` is a program that defines check(candidate), `entry_point` the function to check."""

    id: str
    question: str
    answer: str
    tests: str = ""
    entry_point: str = ""

    def canonical(self) -> str:
        """The row as one line of canonical JSON."""
        known = {"id": self.id, "question": self.question, "answer": self.answer}
        known |= {key: value for key in ("tests", "entry_point") if (value := getattr(self, key))}
        return json.dumps(known, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def normalised(lines: str, form: Form, where: str) -> list[Row]:
    r"""The rows of a benchmark's file. Raises InvalidInput with every line that is not of this form.

    >>> normalised('{"question": "2+2?", "answer": "<<2+2=4>>4\\n#### 4"}', "gsm8k", "x")[0].answer
    '4\n#### 4'
    """
    rows: list[Row] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_FORMS[form](json.loads(line), len(rows)))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            faults.append(Fault(f"{where}, line {number}", f"is no row of the form {form}: {error!r}"))
    raise_faults(faults)
    if not rows:
        raise InvalidInput(Fault(where, "has no rows"))
    return rows


def canonical_text(rows: Sequence[Row]) -> bytes:
    """The canonical text of rows."""
    return "".join(f"{row.canonical()}\n" for row in rows).encode("utf-8", "replace")


def content_digest(canonical: bytes) -> str:
    """The SHA-256 of a canonical text."""
    return hashlib.sha256(canonical).hexdigest()


def read_canonical(text: bytes) -> list[Row]:
    """The rows of a canonical text whose digest was checked."""
    return [Row(**json.loads(line)) for line in text.decode().split("\n") if line]


def _texts(record: Mapping[str, Any], *keys: str) -> list[str]:
    found = [record[key] for key in keys]
    if not all(isinstance(each, str) for each in found):
        raise TypeError(f"{' and '.join(keys)} must be texts")
    return found


def _question_answer(record: Mapping[str, Any], number: int) -> Row:
    return Row(str(number), *_texts(record, "question", "answer"))


def _gsm8k(record: Mapping[str, Any], number: int) -> Row:
    """The published marks of a calculator are left out of the answer."""
    question, answer = _texts(record, "question", "answer")
    return Row(str(number), question, _CALCULATION.sub("", answer))


def _humaneval(record: Mapping[str, Any], _number: int) -> Row:
    return Row(*_texts(record, "task_id", "prompt", "canonical_solution", "test", "entry_point"))


_FORMS: Final[Mapping[Form, Callable[[Mapping[str, Any], int], Row]]] = {
    "question-answer": _question_answer,
    "gsm8k": _gsm8k,
    "humaneval": _humaneval,
    "reasoning-gym": _question_answer,
}
