"""The errors of raq, as a tree.

RaqError
├── InvalidInput (also ValueError)        the caller's mistake; carries every fault found, not only the first
│   ├── UnknownQuantType                  a type name that is not in the catalogue
│   └── UnknownTensor                     a tensor name that the model does not have
├── BackendFailure (also RuntimeError)    a solver library broke, or returned something impossible
├── ServiceError                          raised by clients of the service
│   ├── ServiceUnavailable                no server answers at that address
│   └── DeadlineExceeded                  the server did not answer in time
└── LedgerMismatch                        a file's bytes differ from the ledger: a bug in raq, with both numbers

Not errors: an infeasible budget, a search stopped by its limit, a failed check. Those are outcomes.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_LONGEST_WORD: Final = 200
_PLACES_NAMED: Final = 3
HINTS: Final = 3
"""Names of a question whose nearest known names are looked for: each is compared with thousands."""
_MOST_KNOWN: Final = 5_000


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an input: where it is, and what is wrong, with the way out.

    >>> print(Fault("budget", "must be more than zero"))
    budget: must be more than zero
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class RaqError(Exception):
    """Base of every error that raq raises on purpose.

    >>> issubclass(InvalidInput, RaqError), issubclass(ServiceError, RaqError)
    (True, True)
    """


class InvalidInput(RaqError, ValueError):
    """An input cannot be used; `faults` names everything that is wrong with it.

    >>> try:
    ...     raise InvalidInput([Fault("capacity", "-1 bytes"), Fault("a", "has no name")])
    ... except InvalidInput as error:
    ...     print(len(error.faults))
    2
    """

    def __init__(self, faults: Iterable[Fault] | Fault) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        assert self.faults, "an InvalidInput needs at least one fault"
        super().__init__("\n".join(map(str, condensed(self.faults))))


def condensed(faults: Sequence[Fault]) -> list[Fault]:
    """The faults with those of one kind at many places put together: a few of the places, and the number of the others.

    >>> print(*condensed([Fault(f"blk.{n}", "has no type") for n in range(30)]))
    blk.0, blk.1, blk.2 and 27 more: has no type
    """
    places: dict[str, list[str]] = {}
    for fault in faults:
        places.setdefault(fault.what, []).append(fault.where)
    kept = []
    for what, wheres in places.items():
        if len(wheres) > _PLACES_NAMED + 1 and all(wheres):
            more = len(wheres) - _PLACES_NAMED
            kept.append(Fault(f"{', '.join(wheres[:_PLACES_NAMED])} and {more:,} more", what))
        else:
            kept += [Fault(where, what) for where in wheres]
    return kept


class UnknownQuantType(InvalidInput):
    """A quant type name that is not in the catalogue.

    >>> from raq_solver import quant_type
    >>> quant_type("Q4K")
    Traceback (most recent call last):
    raq_solver.errors.UnknownQuantType: Q4K: no such quant type (did you mean Q4_K?)
    """


class UnknownTensor(InvalidInput):
    """A tensor name that the model does not have.

    >>> issubclass(UnknownTensor, InvalidInput)
    True
    """


class BackendFailure(RaqError, RuntimeError):
    """A solver backend broke; the message holds its status.

    >>> issubclass(BackendFailure, RuntimeError)
    True
    """


class ServiceError(RaqError):
    """The service could not answer.

    >>> issubclass(DeadlineExceeded, ServiceError)
    True
    """


class ServiceUnavailable(ServiceError):
    """No server answers at the address.

    >>> issubclass(ServiceUnavailable, ServiceError)
    True
    """


class DeadlineExceeded(ServiceError):
    """The server did not answer before the deadline.

    >>> issubclass(DeadlineExceeded, InvalidInput)  # the question may be fine
    False
    """


class LedgerMismatch(RaqError):
    """A file's bytes differ from its ledger: a bug in raq.

    >>> issubclass(LedgerMismatch, InvalidInput)  # no input is to blame
    False
    """


def raise_faults(faults: Sequence[Fault]) -> None:
    """Raise `InvalidInput` with all `faults`, if there are any."""
    if faults:
        raise InvalidInput(faults)


def near_misses(word: str, known: Iterable[str]) -> str:
    """A clause such as ` (did you mean Q4_K, Q4_1?)`, or empty text when no known word is near."""
    by_folded = {name.casefold(): name for name in known}
    # Comparing takes time in the square of a word's length, which no name with a letter wrong has.
    if len(word) > _LONGEST_WORD or len(by_folded) > _MOST_KNOWN:
        return ""
    near = difflib.get_close_matches(word.casefold(), list(by_folded), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(by_folded[name] for name in near)}?)" if near else ""
