"""Parse and encode the header of a GGUF file.

Rules
- Works on bytes, not files: the first megabytes of a model are enough to read its header.
- Metadata values keep their stored bytes, so that copies are exact for every type, and a vocabulary of 150,000
  tokens costs nothing until it is decoded. (gguf-py builds an array per token, which takes seconds.)
- Little-endian, versions 2 and 3, which have one layout. Source: docs/gguf.md of ggml-org/ggml.
"""

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from raq_client.files.mistaken import LONGEST
from raq_client.models.mistaken import in_place_of_model
from raq_solver.errors import Fault, InvalidInput

Value = bool | int | float | str | list["Value"]
"""A metadata value, decoded."""

ALIGNMENT_KEY: Final = "general.alignment"
DEFAULT_ALIGNMENT: Final = 32
"""The alignment of a header that gives none, and the smallest that llama.cpp accepts."""
MAGIC: Final = b"GGUF"
"""The first bytes of every GGUF file."""
_VERSION: Final = 3
_BOOL: Final = 7
_STRING: Final = 8
_ARRAY: Final = 9
_DEEPEST: Final = 16
"""Limit on nested arrays; no known file nests them more than once."""
# struct codes of the scalar value types, by GGUF's number for them.
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SIZES: Final = {type_id: struct.calcsize("<" + code) for type_id, code in _SCALARS.items()}


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A metadata value as stored in the file: GGUF's type number and the bytes after it."""

    type_id: int
    raw: bytes

    def decode(self) -> Value:
        """The value; bytes that are not UTF-8 become replacement characters."""
        return _decode(self.raw, 0, self.type_id)[0]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's entry in the header. `offset` counts from the start of the data; `shape` is in GGUF order."""

    name: str
    shape: tuple[int, ...]
    ggml_id: int
    offset: int

    @property
    def is_empty(self) -> bool:
        """Whether the tensor has no elements: some converters write such placeholders."""
        return 0 in self.shape


@dataclass(frozen=True, slots=True)
class Header:
    """Everything before the data, which starts at byte `data_start`."""

    metadata: Mapping[str, StoredValue]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_start: int


def padded(size: int, alignment: int) -> int:
    """The smallest multiple of `alignment` that is at least `size`.

    >>> padded(33, 32)
    64
    """
    return -(-size // alignment) * alignment


def parse_header(data: bytes | memoryview, where: str) -> Header:
    """Parse the header at the beginning of `data`; `where` names the file in errors.

    Raises HeaderCutOffError if `data` ends before the header does, else InvalidInput if it is not GGUF, damaged, or of
    an unsupported version or byte order.
    """
    _check_start(bytes(data[:LONGEST]), where)
    try:
        tensor_count, value_count = struct.unpack_from("<QQ", data, 8)
        metadata, position = _metadata(data, 24, value_count)
        tensors, position = _tensor_infos(data, position, tensor_count)
    except (struct.error, OverflowError, _CutError):
        what = f"the header is cut off or damaged: it does not end within the {len(data):,} bytes of the file"
        raise HeaderCutOffError(Fault(where, what)) from None
    except _DamageError as damage:
        raise InvalidInput(Fault(where, f"the header is damaged: {damage}")) from None
    alignment = metadata[ALIGNMENT_KEY].decode() if ALIGNMENT_KEY in metadata else DEFAULT_ALIGNMENT
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise InvalidInput(Fault(where, f"the header is damaged: {ALIGNMENT_KEY} is {alignment}, not a power of two"))
    return Header(metadata, tensors, alignment, padded(position, alignment))


def stored(value: Value) -> StoredValue:
    """The value as raq stores it: integers as u32 (64 bits if needed), floats as f32, lists as arrays of strings.

    >>> stored(7).decode(), stored(["a", "b"]).decode()
    (7, ['a', 'b'])
    """
    match value:
        case bool():
            return StoredValue(_BOOL, struct.pack("<?", value))
        case int():
            type_id = 4 if 0 <= value < 2**32 else 10 if value >= 0 else 11
            return StoredValue(type_id, struct.pack("<" + _SCALARS[type_id], value))
        case float():
            return StoredValue(6, struct.pack("<f", value))
        case str():
            return StoredValue(_STRING, _packed(value))
        case list():
            texts = [_packed(str(item)) for item in value]
            return StoredValue(_ARRAY, struct.pack("<IQ", _STRING, len(texts)) + b"".join(texts))


def array_without(value: StoredValue, gone: Collection[int], *, length: int) -> StoredValue:
    """An array of numbers or flags of that length without the items at these positions; any other value unchanged.

    >>> numbers = StoredValue(_ARRAY, struct.pack("<IQ3I", 4, 3, 7, 8, 9))
    >>> array_without(numbers, [1], length=3).decode()
    [7, 9]
    """
    if value.type_id != _ARRAY:
        return value
    item_type, count = struct.unpack_from("<IQ", value.raw)
    if count != length or item_type not in _SIZES:
        return value
    size, begin = _SIZES[item_type], struct.calcsize("<IQ")
    items = [value.raw[begin + size * at : begin + size * (at + 1)] for at in range(count) if at not in gone]
    return StoredValue(_ARRAY, struct.pack("<IQ", item_type, len(items)) + b"".join(items))


def encode_header(metadata: Mapping[str, StoredValue], tensors: Sequence[TensorInfo], alignment: int) -> bytes:
    """The header as bytes, padded so that data can follow."""
    parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_packed(key), struct.pack("<I", value.type_id), value.raw]
    for info in tensors:
        parts += [_packed(info.name), struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *info.shape)]
        parts.append(struct.pack("<IQ", info.ggml_id, info.offset))
    header = b"".join(parts)
    return header + bytes(padded(len(header), alignment) - len(header))


def info_size(info: TensorInfo) -> int:
    """The bytes of a tensor's entry in the header."""
    return len(_packed(info.name)) + 4 + 8 * len(info.shape) + 4 + 8


class HeaderCutOffError(InvalidInput):
    """The given bytes end before the header does; with more bytes it may be complete."""


class _CutError(Exception):
    """The bytes end before the header does."""


class _DamageError(Exception):
    """The header contains something impossible."""


def _check_start(start: bytes, where: str) -> None:
    if start[:4] != MAGIC:
        found = in_place_of_model(start)
        what = "it does not begin with the letters GGUF" if found is None else f"it is {found}"
        raise InvalidInput(Fault(where, f"not a GGUF file ({what})"))
    if len(start) < 8:
        raise InvalidInput(Fault(where, "the header is cut off: the file ends after the letters GGUF"))
    (version,) = struct.unpack_from("<I", start, 4)
    if version & 0xFFFF == 0:
        raise InvalidInput(Fault(where, "big-endian GGUF; raq reads little-endian files only, convert it first"))
    if version not in (2, 3):
        what = f"GGUF version {version}; raq reads versions 2 and 3, convert it with a current llama.cpp"
        raise InvalidInput(Fault(where, what))


def _metadata(data: bytes | memoryview, position: int, count: int) -> tuple[dict[str, StoredValue], int]:
    metadata: dict[str, StoredValue] = {}
    for _ in range(count):
        key, position = _text(data, position)
        (type_id,) = struct.unpack_from("<I", data, position)
        end = _end(data, position + 4, type_id)
        if end > len(data):
            raise _CutError
        if key in metadata:
            raise _DamageError(f"the key {key} occurs twice")
        metadata[key] = StoredValue(type_id, bytes(data[position + 4 : end]))
        position = end
    return metadata, position


def _tensor_infos(data: bytes | memoryview, position: int, count: int) -> tuple[tuple[TensorInfo, ...], int]:
    infos: dict[str, TensorInfo] = {}
    for _ in range(count):
        name, position = _text(data, position)
        (dimensions,) = struct.unpack_from("<I", data, position)
        if dimensions > 4:
            raise _DamageError(f"{name} has {dimensions} dimensions, at most 4 are possible")
        shape = struct.unpack_from(f"<{dimensions}Q", data, position + 4)
        ggml_id, offset = struct.unpack_from("<IQ", data, position + 4 + 8 * dimensions)
        if name in infos:
            raise _DamageError(f"the tensor {name} occurs twice")
        infos[name] = TensorInfo(name, shape or (1,), ggml_id, offset)
        position += 4 + 8 * dimensions + 12
    return tuple(infos.values()), position


def _end(data: bytes | memoryview, position: int, type_id: int, depth: int = 0) -> int:
    """The end position of the value that begins at `position`."""
    if depth > _DEEPEST:
        raise _DamageError(f"arrays lie in arrays more than {_DEEPEST} deep")
    if type_id in _SIZES:
        return position + _SIZES[type_id]
    if type_id == _STRING:
        return position + 8 + int(struct.unpack_from("<Q", data, position)[0])
    if type_id != _ARRAY:
        raise _DamageError(f"no metadata type has the number {type_id}")
    item_type, count = struct.unpack_from("<IQ", data, position)
    position += 12
    if item_type in _SIZES:
        return position + int(count) * _SIZES[item_type]
    if item_type == _STRING:
        length = struct.Struct("<Q").unpack_from
        for _ in range(count):
            position += 8 + length(data, position)[0]
        return position
    for _ in range(count):
        position = _end(data, position, item_type, depth + 1)
    return position


def _decode(raw: bytes, position: int, type_id: int) -> tuple[Value, int]:
    end = _end(raw, position, type_id)
    if type_id in _SCALARS:
        return struct.unpack_from("<" + _SCALARS[type_id], raw, position)[0], end
    if type_id == _STRING:
        return raw[position + 8 : end].decode(errors="replace"), end
    item_type, count = struct.unpack_from("<IQ", raw, position)
    position += 12
    if item_type in _SCALARS:
        return list(struct.unpack_from(f"<{count}{_SCALARS[item_type]}", raw, position)), end
    items: list[Value] = []
    for _ in range(count):
        item, position = _decode(raw, position, item_type)
        items.append(item)
    return items, end


def _text(data: bytes | memoryview, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, position)
    end = position + 8 + length
    if end > len(data):
        raise _CutError
    try:
        return bytes(data[position + 8 : end]).decode(), end
    except UnicodeDecodeError:
        raise _DamageError("a name in it is not text") from None


def _packed(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")  # file names may contain surrogates, which can't be encoded
    return struct.pack("<Q", len(raw)) + raw
