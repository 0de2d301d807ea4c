"""Profiles that are to be stored, read: slow for large ones, which are read in a process."""

import struct
from datetime import UTC, datetime
from typing import Final

from google.protobuf.message import DecodeError

from raq_proto.convert import profile_from_proto, profile_to_proto, stored_from_proto, stored_to_proto
from raq_proto.question import StoredProfile
from raq_proto.v1 import profile_pb2, profile_service_pb2
from raq_server.limits import RequestLimits
from raq_solver.errors import Fault, InvalidInput
from raq_solver.profile import Profile

_LENGTH: Final = struct.Struct(">I")


def read_profile(content: bytes, limits: RequestLimits) -> tuple[StoredProfile, bytes]:
    """A profile's description, and its message in canonical form. Raises InvalidInput."""
    try:
        message = profile_pb2.Profile.FromString(content)
    except DecodeError:
        raise InvalidInput(Fault("profile", "is not a raq.v1.Profile message")) from None
    return canonical(message, limits)


def canonical(message: profile_pb2.Profile, limits: RequestLimits) -> tuple[StoredProfile, bytes]:
    """The same of a message. Raises InvalidInput."""
    limits.check_profile(message)
    profile = profile_from_proto(message)
    content = profile_to_proto(profile).SerializeToString(deterministic=True)
    return described(profile, len(content)), content


def described(profile: Profile, size_bytes: int) -> StoredProfile:
    """The description of a profile that is stored now, as a message of that size."""
    now = datetime.now(tz=UTC)
    return StoredProfile(
        digest=profile.digest(),
        tensors=len(profile.tensors),
        weights=sum(tensor.weights for tensor in profile.tensors),
        quant_types=tuple(quant_type.name for quant_type in profile.quant_types),
        provenance=profile.provenance,
        size_bytes=size_bytes,
        created=now,
        used=now,
    )


def packed(stored: StoredProfile, content: bytes) -> bytes:
    """Both as bytes, to travel from a process."""
    info = stored_to_proto(stored).SerializeToString()
    return _LENGTH.pack(len(info)) + info + content


def unpacked(content: bytes) -> tuple[StoredProfile, bytes]:
    """The reverse of `packed`."""
    (length,) = _LENGTH.unpack_from(content)
    end = _LENGTH.size + length
    return stored_from_proto(profile_service_pb2.ProfileInfo.FromString(content[_LENGTH.size : end])), content[end:]
