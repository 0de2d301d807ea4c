"""Repeated doubles of messages ⇄ arrays, by their packed bytes, which are those of the array.

Element by element, through Python's floats, a table takes some twenty times as long. On the wire a packed field and one
of bytes are the same, so a message is read and written as one of another type, whose repeated doubles are bytes.
"""

from functools import cache
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from jaxtyping import Float64

_NAME: Final = "PackedDoubles"


def put_doubles(message: Message, **numbers: Float64[np.ndarray, "..."]) -> None:
    """Append numbers, row by row, to repeated double fields; each is named by its field."""
    packed = _packed_type(message.DESCRIPTOR)()
    for field, array in numbers.items():
        getattr(packed, field).append(np.ascontiguousarray(array, dtype="<f8").tobytes())
    message.MergeFromString(packed.SerializeToString())


class Doubles:
    """The repeated doubles of a message; each field, by its name, as a new array.

    >>> from raq_proto.v1 import problem_pb2
    >>> message = problem_pb2.LossTable(losses=[1.5])
    >>> put_doubles(message, losses=np.array([2.5, np.inf]))
    >>> Doubles(message)["losses"].tolist()
    [1.5, 2.5, inf]
    """

    def __init__(self, message: Message) -> None:
        self._packed = _packed_type(message.DESCRIPTOR)()
        self._packed.MergeFromString(message.SerializeToString())

    def __getitem__(self, field: str) -> Float64[np.ndarray, " numbers"]:
        return np.frombuffer(b"".join(getattr(self._packed, field)), dtype="<f8").astype(np.float64)


@cache
def _packed_type(descriptor: Any) -> type[Any]:
    """Messages with fields of bytes under the names and numbers of the repeated doubles of another type."""
    file = FileDescriptorProto(name=f"{descriptor.full_name}.{_NAME}", package=descriptor.full_name)
    made = file.message_type.add(name=_NAME)
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_DOUBLE and field.is_repeated:
            made.field.add(
                name=field.name,
                number=field.number,
                type=FieldDescriptorProto.TYPE_BYTES,
                label=FieldDescriptorProto.LABEL_REPEATED,
            )
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"{descriptor.full_name}.{_NAME}"))
