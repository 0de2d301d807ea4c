"""`raq.v1.ProfileService`: profiles stored under the digest of their content."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from raq_proto.channel import CHUNK_BYTES
from raq_proto.convert import stored_to_proto
from raq_proto.errors import UnknownProfile
from raq_proto.question import StoredProfile
from raq_proto.v1 import profile_service_pb2, profile_service_pb2_grpc
from raq_server.config import ServerConfig
from raq_server.limits import RequestLimits
from raq_server.service.interceptor import CALL, Context
from raq_server.service.uploads import Upload
from raq_server.store.async_store import AsyncStore
from raq_server.telemetry.metrics import Metrics
from raq_server.workers.job import LARGE, Job, ProfileCache
from raq_server.workers.pool import Pool
from raq_server.workers.profiles import read_profile, unpacked
from raq_solver.errors import Fault, InvalidInput

_DIGEST: Final = re.compile("[0-9a-f]{64}")
_PAGE: Final = 100
_MOST_PAGE: Final = 1000
_PUT: Final = profile_service_pb2.DESCRIPTOR.services_by_name["ProfileService"].methods_by_name["Put"]
_FRAME: Final = 64
"""More bytes than a message has beside the profile in it."""
_FIRST_FIELD: Final = b"\x0a"
"""Tag of field 1 (a message) of GetResponse on the wire; its length follows, then its content."""


class ProfileService(profile_service_pb2_grpc.ProfileServiceServicer):
    """Puts, gets, lists and deletes profiles of the store."""

    def __init__(
        self, store: AsyncStore, pool: Pool, profiles: ProfileCache, metrics: Metrics, config: ServerConfig
    ) -> None:
        self._store, self._pool = store, pool
        self._profiles, self._metrics = profiles, metrics
        self._limits = RequestLimits.of(config)
        self._largest = config.profile_limit_bytes
        self._message = config.message_limit_bytes
        self._search_seconds = config.search_seconds

    async def Put(self, request_iterator: Any, context: Context) -> profile_service_pb2.PutResponse:
        """Store a profile."""
        del context
        upload = Upload(self._largest)
        async for part in request_iterator:
            upload.add(part)
            if part.HasField("start"):
                known = await self._known(_checked(part.start.digest))
                if known is not None:
                    return profile_service_pb2.PutResponse(info=stored_to_proto(known), created=False)
        new, canonical = await self._read(upload.content())
        if upload.start is not None and upload.start.digest != new.digest:
            raise InvalidInput(Fault("profile", f"has the digest {new.digest}; {upload.start.digest} was announced"))
        created = await self._store.ask(lambda: self._store.database.put_profile(new, canonical))
        kept = await self._store.ask(lambda: self._store.database.profile_info(new.digest))
        return profile_service_pb2.PutResponse(info=stored_to_proto(kept or new), created=created)

    async def Get(self, request: profile_service_pb2.GetRequest, context: Context) -> Any:
        """A stored profile: a GetResponse as bytes. Parsing a large one would hold up the event loop."""
        del context
        digest = _checked(request.digest)
        known = await self._known(digest)
        if known is not None and known.size_bytes > self._message - _FRAME:
            what = f"has {known.size_bytes:,} bytes, more than fit a message; use Download"
            raise InvalidInput(Fault(digest, what))
        found = await self._store.ask(lambda: self._store.database.profile(digest))
        if found is None:
            raise UnknownProfile.of(digest)
        return _FIRST_FIELD + _varint(len(found)) + found

    async def Download(
        self, request: profile_service_pb2.DownloadRequest, context: Context
    ) -> AsyncIterator[profile_service_pb2.DownloadResponse]:
        """A stored profile in chunks, each read when the one before was sent: a slow reader holds one."""
        del context
        digest, start = _checked(request.digest), 0
        if not await self._store.ask(lambda: self._store.database.use_profile(digest)):
            raise UnknownProfile.of(digest)
        while True:
            # The content of a digest never changes; a profile that is deleted meanwhile ends the call.
            chunk = await self._store.ask(partial(self._store.database.profile_part, digest, start, CHUNK_BYTES))
            if chunk is None:
                raise UnknownProfile.of(digest)
            if not chunk:
                return
            yield profile_service_pb2.DownloadResponse(chunk=chunk)
            start += len(chunk)

    async def List(
        self, request: profile_service_pb2.ListRequest, context: Context
    ) -> profile_service_pb2.ListResponse:
        """Descriptions of the stored profiles, a page at a time."""
        del context
        if not 0 <= request.page_size <= _MOST_PAGE:
            raise InvalidInput(Fault("page_size", f"is {request.page_size}; must be from 0 to {_MOST_PAGE}"))
        after = _checked(request.page_token, "page_token") if request.page_token else ""
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

    async def _known(self, digest: str) -> StoredProfile | None:
        """What is stored under a digest, noted as used."""
        if not await self._store.ask(lambda: self._store.database.use_profile(digest)):
            return None
        return await self._store.ask(lambda: self._store.database.profile_info(digest))

    async def _read(self, content: bytes) -> tuple[StoredProfile, bytes]:
        """The description of a profile, and its message in canonical form; of a large one by a process."""
        if len(content) < LARGE:
            return await asyncio.to_thread(read_profile, content, self._limits)
        call, until = CALL.get(), time.monotonic() + self._search_seconds
        job = Job(_PUT, content, until, self._limits, self._profiles, self._metrics, call.client, alone=call.is_local)
        async with aclosing(self._pool.answers(job)) as answers:
            (found,) = [each.content async for each in answers]
        return unpacked(found)


def _varint(number: int) -> bytes:
    """A length as it stands on the wire: 7 bits a byte, the lowest first."""
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + _varint(high) if high else bytes([low])


def _checked(digest: str, where: str = "digest") -> str:
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput(Fault(where, "is not 64 hexadecimal digits in lower case"))
    return digest
