"""The errors of raq, in the order of their tree.

RaqError
├── InvalidInput (also ValueError)        the caller's fault; carries every fault found, not only the first
│   ├── UnknownQuantType                  a type name that is not in the catalogue
│   └── UnknownTensor                     a tensor name that the model does not have
├── BackendFailure (also RuntimeError)    a solver library broke, or returned something impossible
├── ServiceError                          raised by clients of the service
│   ├── ServiceUnavailable                no server answers at that address
│   └── DeadlineExceeded                  the server did not answer in time
└── LedgerMismatch                        a file's bytes differ from the account: a bug in raq, with both numbers

Not errors: an infeasible budget, a search stopped by its limit, a failed check. Those are outcomes.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an input: where it is, and what to do about it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class RaqError(Exception):
    """Base of every error that raq raises on purpose."""


class InvalidInput(RaqError, ValueError):
    """An input cannot be used; `faults` names everything that is wrong with it."""

    def __init__(self, faults: Iterable[Fault] | Fault) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        assert self.faults, "an InvalidInput needs at least one fault"
        super().__init__("\n".join(str(fault) for fault in self.faults))


class UnknownQuantType(InvalidInput):
    """A quant type name that is not in the catalogue."""


class UnknownTensor(InvalidInput):
    """A tensor name that the model does not have."""


class BackendFailure(RaqError, RuntimeError):
    """A solver backend broke; the message holds its status."""


class ServiceError(RaqError):
    """The service could not answer."""


class ServiceUnavailable(ServiceError):
    """No server answers at the address."""


class DeadlineExceeded(ServiceError):
    """The server did not answer before the deadline."""


class LedgerMismatch(RaqError):
    """A file's bytes differ from the account of them: a bug in raq."""


def raise_faults(faults: Sequence[Fault]) -> None:
    """Raise `InvalidInput` with all `faults`, if there are any."""
    if faults:
        raise InvalidInput(faults)


def near_misses(word: str, known: Iterable[str]) -> str:
    """A clause such as ` (did you mean Q4_K, Q4_1?)`, or nothing when no known word is near."""
    by_folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), list(by_folded), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(by_folded[name] for name in near)}?)" if near else ""
