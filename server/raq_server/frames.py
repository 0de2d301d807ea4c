"""What a worker and the server say to each other: frames over a socket pair, a length (4 bytes), a tag, a content.

Never pickles: requests of strangers go through here as the bytes they are.
"""

import json
import struct
from enum import Enum, unique
from typing import Any

LENGTH = struct.Struct(">I")


@unique
class Tag(Enum):
    """What a frame is."""

    JOB = b"J"
    """To the worker: a header (see `job_head`) and a request."""
    NEXT = b"N"
    """To the worker: go on."""
    GIVEN = b"G"
    """To the worker: what it asked for."""
    MISSING = b"M"
    """To the worker: there is nothing of the kind it asked for."""

    READY = b"R"
    """From the worker: it takes jobs."""
    PROFILE = b"P"
    """From the worker: needs the stored profile of this digest."""
    PROFILE_HELD = b"H"
    """From the worker: holds the profile of this digest; is it stored still?"""
    KNOWN = b"K"
    """From the worker: is the outcome of the problem of this digest known?"""
    REMEMBER = b"r"
    """From the worker: 64 digits of a problem's digest, and its proven outcome."""
    OBSERVE = b"O"
    """From the worker: JSON of a finished search."""
    PROVEN = b"A"
    """From the worker: an answer that may be given again; waits for NEXT."""
    ANSWER = b"a"
    """From the worker: an answer that depends on time; waits for NEXT."""
    ERROR = b"E"
    """From the worker: a google.rpc.Status; the job is over."""
    BUG = b"B"
    """From the worker: a traceback; the job is over."""
    END = b"."
    """From the worker: the job is over."""


def head(tag: Tag, size: int) -> bytes:
    """The beginning of a frame whose content has so many bytes."""
    return LENGTH.pack(size + 1) + tag.value


def frame(tag: Tag, content: bytes = b"") -> bytes:
    """The frame's bytes."""
    return head(tag, len(content)) + content


def parsed(content: bytes) -> tuple[Tag, bytes]:
    """Tag and content of a frame without its length."""
    return Tag(content[:1]), content[1:]


def job_head(header: dict[str, Any]) -> bytes:
    """The beginning of the content of a job's frame; the request follows."""
    text = json.dumps(header).encode()
    return LENGTH.pack(len(text)) + text


def job_parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and request of a job's frame."""
    (length,) = LENGTH.unpack_from(content)
    end = LENGTH.size + length
    return json.loads(content[LENGTH.size : end]), content[end:]
