"""The vocabulary of a folder of safetensors as GGUF stores it: tokens, their types and scores, the pre-tokenizer.

Two kinds are read: SentencePiece's `tokenizer.model`, and byte-level BPE in `tokenizer.json`. llama.cpp knows a
pre-tokenizer by name; here the name follows from the rules in `tokenizer.json`.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raq_client.files.reading import damage_named, read_bytes, read_text
from raq_client.models.safetensors import CONVERTER
from raq_solver.errors import Fault, InvalidInput

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of tokens in GGUF, which are those of SentencePiece."""

_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BY_SPLIT: Final = {
    _WORDS % r"\p{N}{1,3}": "llama-bpe",
    _WORDS % r"\p{N}": "qwen2",
    # Marks that follow a letter, as in Indic scripts, belong to its word.
    (_WORDS % r"\p{N}").replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}"): "qwen35",
}
"""llama.cpp's name of a pre-tokenizer by its regular expression."""
_SPECIAL: Final = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_SPECIAL_ENDS: Final = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
_SPACE: Final = "\u2581"
"""SentencePiece's sign for a blank."""
_ABSENT_SCORE, _ADDED_SCORE = -10000.0, -1000.0


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tokens with their types; `scores` only of SentencePiece. `model` and `pre` are llama.cpp's names."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None


def read_vocabulary(folder: Path, size: int | None) -> Vocabulary:
    """The vocabulary of a folder, padded to `size` tokens (None: as many as there are).

    Raises InvalidInput if there is none, or if it is of a kind that raq does not convert.
    """
    if (folder / "tokenizer.model").is_file():
        return _sentencepiece(folder, size)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InvalidInput(Fault(str(folder), "holds neither tokenizer.json nor tokenizer.model"))
    with damage_named(path, "a tokenizer"):
        found = json.loads(read_text(path))
        if found["model"].get("type") != "BPE" or found["model"].get("byte_fallback"):
            raise InvalidInput(Fault(str(path), f"is not byte-level BPE, which raq converts; {CONVERTER}"))
        return _byte_level(found, str(path), size)


def pre_tokenizer(found: Mapping[str, Any]) -> str | None:
    """llama.cpp's name of the pre-tokenizer in a tokenizer.json; None if its rules are none that raq knows.

    >>> pre_tokenizer({"pre_tokenizer": {"type": "ByteLevel", "use_regex": True}})
    'gpt-2'
    """
    outer = found.get("pre_tokenizer") or {}
    match outer.get("pretokenizers", [outer]):
        case [{"type": "ByteLevel"} as last] if last.get("use_regex", True):
            return "gpt-2"
        case [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"} as last] if last.get(
            "use_regex", True
        ):
            return "smollm"
        case [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"}, {"type": "ByteLevel"}]:
            return _BY_SPLIT.get(regex)
    return None


def looks_special(token: str) -> bool:
    """Whether llama.cpp takes an added token for a control token although it is not marked as one.

    >>> looks_special("<|end|>"), looks_special("<b>")
    (True, False)
    """
    return token in _SPECIAL or any(token.startswith(begin) and token.endswith(end) for begin, end in _SPECIAL_ENDS)


def _byte_level(found: Mapping[str, Any], where: str, size: int | None) -> Vocabulary:
    pre = pre_tokenizer(found)
    if pre is None:
        raise InvalidInput(Fault(where, f"has a pre-tokenizer that raq does not know; {CONVERTER}"))
    tokens: dict[int, tuple[str, int]] = {
        int(number): (text, NORMAL) for text, number in found["model"]["vocab"].items()
    }
    for each in found.get("added_tokens") or ():
        text = str(each["content"])
        if each["special"] or looks_special(text):
            tokens[int(each["id"])] = text, CONTROL
        else:
            tokens[int(each["id"])] = text.replace(_SPACE, " "), USER_DEFINED
    count = len(tokens) if size is None else size
    if max(tokens, default=-1) >= count:
        raise InvalidInput(Fault(where, f"has a token {max(tokens)}, but vocab_size of config.json is {count}"))
    listed = [tokens.get(number, (f"[PAD{number}]", UNUSED)) for number in range(count)]
    return Vocabulary("gpt2", pre, [text for text, _ in listed], [kind for _, kind in listed])


def _sentencepiece(folder: Path, size: int | None) -> Vocabulary:
    path = folder / "tokenizer.model"
    with damage_named(path, "a model of SentencePiece"):
        pieces = list(_pieces(read_bytes(path)))
    count = size or len(pieces)
    tokens = [(f"[PAD{number}]", _ABSENT_SCORE, UNUSED) for number in range(count)]
    tokens[: len(pieces)] = pieces[:count]
    for number, text, special in _added(folder):
        if not 0 <= number < count:
            continue
        if special is None:
            tokens[number] = text, _ADDED_SCORE, USER_DEFINED
        elif special or looks_special(text):
            tokens[number] = text, _ADDED_SCORE, CONTROL
        else:
            tokens[number] = text.replace(_SPACE, " "), _ADDED_SCORE, USER_DEFINED
    texts, scores, types = (list(column) for column in zip(*tokens, strict=True))
    return Vocabulary("llama", "default", texts, types, scores)


def _added(folder: Path) -> Iterator[tuple[int, str, bool | None]]:
    """Tokens added beside SentencePiece's: number, text, whether special (None: it is not said)."""
    path = folder / "added_tokens.json"
    if path.is_file():
        with damage_named(path, "added tokens"):
            yield from [(int(number), str(text), None) for text, number in json.loads(read_text(path)).items()]
    path = folder / "tokenizer_config.json"
    if path.is_file():
        with damage_named(path, "the configuration of a tokenizer"):
            decoder = json.loads(read_text(path)).get("added_tokens_decoder") or {}
            yield from [(int(number), str(one["content"]), bool(one.get("special"))) for number, one in decoder.items()]


def _pieces(data: bytes) -> Iterator[tuple[str, float, int]]:
    """The pieces of a SentencePiece model, a protobuf message: field 1 holds text (1), score (2) and type (3)."""
    for field, value in _fields(data):
        if field != 1 or not isinstance(value, bytes):
            continue
        piece = dict(_fields(value))
        text, score, kind = piece.get(1, b""), piece.get(2, bytes(4)), piece.get(3, NORMAL)
        if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
            raise ValueError("a piece has fields of other types")  # noqa: TRY004  # a damaged file, not a caller's bug
        yield text.decode(), struct.unpack("<f", score)[0], kind if kind in {UNKNOWN, CONTROL, UNUSED, BYTE} else NORMAL


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message in order: whole numbers, and the bytes of everything else."""
    position = 0
    while position < len(data):
        key, position = _number(data, position)
        if key & 7 == 0:
            value, position = _number(data, position)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(key & 7)
        if length is None:
            length, position = _number(data, position)
        if key & 7 not in {1, 2, 5} or position + length > len(data):
            raise ValueError("not a protobuf message, or cut off")
        yield key >> 3, data[position : position + length]
        position += length


def _number(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError("not a protobuf message, or cut off")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
