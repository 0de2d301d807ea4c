"""Anything as plain data for JSON."""

import math
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def plain_fields(value: "DataclassInstance") -> dict[str, Any]:
    """The fields of a dataclass as plain data for JSON."""
    return {each.name: plain(getattr(value, each.name)) for each in fields(value)}


def plain(value: Any) -> Any:
    """Anything as plain data for JSON: dataclasses as objects, paths as text, NaN and infinities as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain_fields(value)
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value
