"""Bearer tokens and their scopes. The server stores hashes of tokens only."""

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
        "/raq.v1.ProfileService/Download": Scope.READ,
        "/raq.v1.ProfileService/List": Scope.READ,
        "/raq.v1.ProfileService/Delete": Scope.ADMIN,
    }
)
"""The scope that a method needs; methods not listed need `solve`."""


def new_token() -> str:
    """A token of 256 random bits. It can't be guessed, so a plain hash of it is safe to store."""
    return f"raq_{secrets.token_urlsafe(32)}"


def hash_of(token: str) -> str:
    """SHA-256 of a token in hexadecimal digits, as it stands in the configuration."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a server. Without any, every call is permitted."""

    entries: Mapping[str, TokenEntry]

    @classmethod
    def of(cls, entries: Iterable[TokenEntry]) -> "Tokens":
        """Index the configured tokens by hash."""
        return cls(MappingProxyType({entry.sha256: entry for entry in entries}))

    def caller(self, method: str, authorization: str | None) -> str | None:
        """The name of the caller's token; None if no tokens are configured.

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
