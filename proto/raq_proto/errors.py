"""The errors of the service, as a tree; all others are in `raq_solver.errors`.

RaqError
├── InvalidInput
│   └── UnknownProfile        no stored profile has that digest
└── ServiceError
    ├── Overloaded            the server can't accept another call now; carries the time after which to try again
    ├── StoreFull             the server has no room for what should be stored
    ├── Unauthenticated       the call carries no token that the server knows
    └── NotPermitted          the token's scopes do not cover the call
"""

from typing import Self

from raq_solver.errors import Fault, InvalidInput, ServiceError


class UnknownProfile(InvalidInput):
    """No stored profile has that digest."""

    @classmethod
    def of(cls, digest: str) -> Self:
        """The error for one digest."""
        return cls(Fault(digest[:80] or "profile", "no profile of this digest is stored; put it first"))


class Overloaded(ServiceError):
    """The server can't accept another call now; try again after `retry_seconds`."""

    def __init__(self, text: str, retry_seconds: float) -> None:
        super().__init__(text)
        self.retry_seconds = retry_seconds


class StoreFull(ServiceError):
    """The server has no room for what should be stored."""


class Unauthenticated(ServiceError):
    """The call carries no token that the server knows."""


class NotPermitted(ServiceError):
    """The token's scopes do not cover the call."""
