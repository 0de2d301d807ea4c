"""Who may do what: bearer tokens, known by their hashes only."""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from raq_proto.errors import NotPermitted, Unauthenticated
from raq_server.config import Scope, TokenEntry

_ORDER: Final = tuple(Scope)
SCOPES: Final[Mapping[str, Scope]] = MappingProxyType(
    {
        "/raq.v1.ProfileService/Put": Scope.SOLVE,
        "/raq.v1.ProfileService/Get": Scope.READ,
        "/raq.v1.ProfileService/List": Scope.READ,
        "/raq.v1.ProfileService/Delete": Scope.ADMIN,
    }
)
"""The scope that a method needs; those not named need `solve`."""


def new_token() -> str:
    """A token of 256 random bits: too many to guess, so that a plain hash of it may be stored."""
    return f"raq_{secrets.token_urlsafe(32)}"


def hash_of(token: str) -> str:
    """SHA-256 of a token, as the configuration names it."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens that a server knows. Without any, every call may do everything."""

    entries: Mapping[str, TokenEntry]

    @classmethod
    def of(cls, entries: Iterable[TokenEntry]) -> "Tokens":
        """From the configuration."""
        return cls(MappingProxyType({entry.sha256: entry for entry in entries}))

    def caller(self, method: str, authorization: str | None) -> str | None:
        """The name of the caller's token; None where no tokens are configured.

        Raises Unauthenticated and NotPermitted.
        """
        if not self.entries:
            return None
        kind, _, token = (authorization or "").partition(" ")
        entry = self.entries.get(hash_of(token.strip())) if kind.casefold() == "bearer" else None
        if entry is None:
            what = "is not known here" if authorization else "is missing; send metadata `authorization: Bearer TOKEN`"
            raise Unauthenticated(f"the call's token {what}")
        needed = SCOPES.get(method, Scope.SOLVE)
        if _ORDER.index(entry.scope) < _ORDER.index(needed):
            raise NotPermitted(f"the token of {entry.name} has the scope {entry.scope}; this needs {needed}")
        return entry.name
