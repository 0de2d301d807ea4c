"""Metadata of a file as users override it: `KEY=TYPE:VALUE`, as llama-quantize's `--override-kv` takes it."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from raq_client.models.gguf_header import ALIGNMENT_KEY, Value
from raq_solver.errors import Fault, raise_faults

_OVERRIDE: Final = re.compile(r"([^=\s]+)=(int|float|bool|str):(.*)", re.DOTALL)
_FIXED: Final = ("general.architecture", ALIGNMENT_KEY, "general.file_type", "general.quantization_version", "split.")
"""Keys, or beginnings of keys, that describe the bytes of the file: another value would make them unreadable."""
_MOST_INT: Final = 2**32


def _bool(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("must be true or false")
    return text == "true"


def _int(text: str) -> int:
    number = int(text)
    if not 0 <= number < _MOST_INT:
        raise ValueError("must be from 0 to 2^32 - 1, as llama.cpp stores it")
    return number


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("must be finite")
    return number


_READ: Final[Mapping[str, Callable[[str], Value]]] = {"int": _int, "float": _float, "bool": _bool, "str": str}


def key_overrides(texts: Iterable[str]) -> dict[str, Value]:
    """The metadata in these texts. Raises InvalidInput with every one that is not KEY=TYPE:VALUE.

    >>> key_overrides(["llama.rope.freq_base=float:1000000", "general.name=str:Mine"])
    {'llama.rope.freq_base': 1000000.0, 'general.name': 'Mine'}
    """
    found: dict[str, Value] = {}
    faults = []
    for text in texts:
        try:
            key, value = _read(text)
            found[key] = value
        except ValueError as error:
            faults.append(Fault(text, str(error)))
    raise_faults(faults)
    return found


def _read(text: str) -> tuple[str, Value]:
    match = _OVERRIDE.fullmatch(text)
    if match is None:
        raise ValueError("write KEY=TYPE:VALUE with the type int, float, bool or str, as in general.name=str:Mine")
    key, kind, value = match.groups()
    if key.startswith(_FIXED):
        raise ValueError(f"{key} describes how the file is written, and can't be overridden")
    try:
        return key, _READ[kind](value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not of the type {kind}: {error}") from None
