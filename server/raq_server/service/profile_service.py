"""`raq.v1.ProfileService`: profiles stored under the digest of their content."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.message import DecodeError

from raq_proto.convert import profile_from_proto, profile_to_proto, stored_to_proto
from raq_proto.errors import UnknownProfile
from raq_proto.question import StoredProfile
from raq_proto.v1 import profile_pb2, profile_service_pb2, profile_service_pb2_grpc
from raq_server.config import ServerConfig
from raq_server.limits import RequestLimits
from raq_server.service.interceptor import Context
from raq_server.store.async_store import AsyncStore
from raq_solver.errors import Fault, InvalidInput
from raq_solver.profile import Profile

_DIGEST: Final = re.compile("[0-9a-f]{64}")
_PAGE: Final = 100
_MOST_PAGE: Final = 1000
_FIRST_FIELD: Final = b"\x0a"
"""Tag of field 1 (a message) of GetResponse on the wire; its length follows, then its content."""


class ProfileService(profile_service_pb2_grpc.ProfileServiceServicer):
    """Puts, gets, lists and deletes profiles of the store."""

    def __init__(self, store: AsyncStore, config: ServerConfig) -> None:
        self._store = store
        self._limits = RequestLimits.of(config)
        self._largest = config.profile_limit_bytes

    async def Put(self, request_iterator: Any, context: Context) -> profile_service_pb2.PutResponse:
        """Store a profile."""
        del context
        content = await self._received(request_iterator)
        profile, canonical = await asyncio.to_thread(self._read, content)
        new = _stored(profile, len(canonical))
        created = await self._store.ask(lambda: self._store.database.put_profile(new, canonical))
        kept = await self._store.ask(lambda: self._store.database.profile_info(new.digest))
        return profile_service_pb2.PutResponse(info=stored_to_proto(kept or new), created=created)

    async def Get(self, request: profile_service_pb2.GetRequest, context: Context) -> Any:
        """A stored profile: a GetResponse as bytes. Parsing a large one would hold up the event loop."""
        del context
        digest = _checked(request.digest)
        found = await self._store.ask(lambda: self._store.database.profile(digest))
        if found is None:
            raise UnknownProfile.of(digest)
        return _FIRST_FIELD + _varint(len(found)) + found

    async def List(
        self, request: profile_service_pb2.ListRequest, context: Context
    ) -> profile_service_pb2.ListResponse:
        """Descriptions of the stored profiles, a page at a time."""
        del context
        if not 0 <= request.page_size <= _MOST_PAGE:
            raise InvalidInput(Fault("page_size", f"is {request.page_size}; must be from 0 to {_MOST_PAGE}"))
        after = _checked(request.page_token) if request.page_token else ""
        size = request.page_size or _PAGE
        found = await self._store.ask(lambda: self._store.database.profile_infos(after, size + 1))
        page, more = [stored_to_proto(each) for each in found[:size]], len(found) > size
        return profile_service_pb2.ListResponse(profiles=page, next_page_token=page[-1].digest if more else "")

    async def Delete(
        self, request: profile_service_pb2.DeleteRequest, context: Context
    ) -> profile_service_pb2.DeleteResponse:
        """Remove a profile."""
        del context
        digest = _checked(request.digest)
        deleted = await self._store.ask(lambda: self._store.database.delete_profile(digest))
        return profile_service_pb2.DeleteResponse(deleted=deleted)

    async def _received(self, parts: AsyncIterator[profile_service_pb2.PutRequest]) -> bytes:
        """The bytes of the profile, joined. Raises InvalidInput if there are too many or none."""
        whole, chunks, size = 0, [], 0
        async for part in parts:
            whole += part.WhichOneof("part") == "profile"
            chunks.append(part.profile.SerializeToString() if part.HasField("profile") else part.chunk)
            size += len(chunks[-1])
            if size > self._largest:
                raise InvalidInput(
                    Fault("profile", f"is larger than the {self._largest:,} bytes that this server takes")
                )
        if not chunks or (whole and len(chunks) > 1):
            raise InvalidInput(Fault("profile", "send either one message with `profile` or messages with `chunk`"))
        return b"".join(chunks)

    def _read(self, content: bytes) -> tuple[Profile, bytes]:
        """The profile, and its message in canonical form. Slow for large ones."""
        try:
            message = profile_pb2.Profile.FromString(content)
        except DecodeError:
            raise InvalidInput(Fault("profile", "is not a raq.v1.Profile message")) from None
        self._limits.check_profile(message)
        profile = profile_from_proto(message)
        return profile, profile_to_proto(profile).SerializeToString(deterministic=True)


def _stored(profile: Profile, size: int) -> StoredProfile:
    now = datetime.now(tz=UTC)
    return StoredProfile(
        digest=profile.digest(),
        tensors=len(profile.tensors),
        weights=sum(tensor.weights for tensor in profile.tensors),
        quant_types=tuple(quant_type.name for quant_type in profile.quant_types),
        provenance=profile.provenance,
        size_bytes=size,
        created=now,
        used=now,
    )


def _varint(number: int) -> bytes:
    """A length as it stands on the wire: 7 bits a byte, the lowest first."""
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + _varint(high) if high else bytes([low])


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput(Fault("digest", "is not 64 hexadecimal digits in lower case"))
    return digest
