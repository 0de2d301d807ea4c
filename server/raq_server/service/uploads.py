"""A profile that is being received, in one message or in chunks."""

from typing import Final

from raq_proto.v1 import profile_service_pb2
from raq_solver.errors import Fault, InvalidInput

_FORM: Final = (
    "send either one message with `profile`, or messages with `chunk` and at most one with `start` before them"
)


class Upload:
    """The parts of a profile of at most `largest` bytes, joined."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._chunks: list[bytes] = []
        self._size = 0
        self._whole = False
        self.start: profile_service_pb2.PutStart | None = None
        """What was announced, if anything."""

    def add(self, part: profile_service_pb2.PutRequest) -> None:
        """Take the next part. Raises InvalidInput if it is out of place, or one byte too many has come."""
        kind = part.WhichOneof("part")
        begun = bool(self._chunks) or self.start is not None
        if self._whole or (begun and kind in {"profile", "start"}):
            raise InvalidInput(Fault("profile", _FORM))
        if kind == "start":
            self.start = part.start
            self._require(part.start.size_bytes)
            return
        self._whole = kind == "profile"
        self._chunks.append(part.profile.SerializeToString() if self._whole else part.chunk)
        self._size += len(self._chunks[-1])
        self._require(self._size)
        if self.start is not None and self._size > self.start.size_bytes:
            raise self._other_size(f"more than {self.start.size_bytes:,} bytes have come")

    def content(self) -> bytes:
        """The whole profile; what was received is let go. Raises InvalidInput if it is not whole."""
        if not self._chunks:
            raise InvalidInput(Fault("profile", _FORM))
        if self.start is not None and self._size != self.start.size_bytes:
            raise self._other_size(f"{self._size:,} bytes have come")
        content = b"".join(self._chunks)
        self._chunks.clear()
        return content

    def _require(self, size: int) -> None:
        if size > self._largest:
            raise InvalidInput(Fault("profile", f"is larger than the {self._largest:,} bytes that this server takes"))

    def _other_size(self, what: str) -> InvalidInput:
        assert self.start is not None
        return InvalidInput(Fault("profile", f"was announced with {self.start.size_bytes:,} bytes; {what}"))
