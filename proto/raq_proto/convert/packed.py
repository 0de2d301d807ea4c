"""Repeated doubles of messages ⇄ arrays, by their packed bytes, which are those of the array.

Element by element, through Python's floats, a table takes some twenty times as long.
"""

from typing import Final

import numpy as np
from google.protobuf.message import Message
from jaxtyping import Float64

_PACKED: Final = 2
"""The wire type of a field whose bytes follow their length."""


def put_doubles(message: Message, field: str, numbers: Float64[np.ndarray, "*shape"]) -> None:
    """Append the numbers, row by row, to a repeated double field."""
    content = np.ascontiguousarray(numbers, dtype="<f8").tobytes()
    message.MergeFromString(_varint(_number(message, field) << 3 | _PACKED) + _varint(len(content)) + content)


def doubles(message: Message, field: str) -> Float64[np.ndarray, " numbers"]:
    """The numbers of a repeated double field, as a new array.

    >>> from raq_proto.v1 import problem_pb2
    >>> message = problem_pb2.LossTable(losses=[1.5])
    >>> put_doubles(message, "losses", np.array([2.5, np.inf]))
    >>> doubles(message, "losses").tolist()
    [1.5, 2.5, inf]
    """
    alone = type(message)()
    getattr(alone, field).MergeFrom(getattr(message, field))
    content = alone.SerializeToString()
    count = len(getattr(message, field))
    # Behind the key and the length, of a few bytes each, there is nothing but the numbers.
    return np.frombuffer(content, dtype="<f8", count=count, offset=len(content) - 8 * count).astype(np.float64)


def _number(message: Message, field: str) -> int:
    return message.DESCRIPTOR.fields_by_name[field].number


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
