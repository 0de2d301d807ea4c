"""Saving a plan: into `raq.toml` of the folder, with everything else in it kept, or as an allocation for `quantize`."""

import difflib
import json
import os
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from raq_client.dashboard.commands import CONSTRAINTS
from raq_client.dashboard.folder import Folder
from raq_client.dashboard.refusal import Refusal

SETTINGS: Final = "raq.toml"
KEYS: Final = (
    "model", "imatrix", "text", "profile", "budget", "types", "loss", "base",
    "pin", "floor", "ceiling", "exclude", "tie", "at-most", "region", "monotone", "exo",
)  # fmt: skip
"""Fields of a page that `raq.toml` has a key for, with - for _."""


def settings_text(before: str, fields: Mapping[str, Any]) -> str:
    """The text of a `raq.toml` with these fields; an empty field removes its key, all others stay as they are.

    Raises Refusal if the text before is no TOML.
    """
    try:
        document = tomlkit.parse(before)
    except TOMLKitError as error:
        raise Refusal(f"{SETTINGS}: not TOML: {error}", 409) from None
    for name in KEYS:
        if name not in fields:
            continue
        key, value = name.replace("-", "_"), fields[name]
        if value in ("", []):
            document.pop(key, None)
        elif document.get(key) != value:
            document[key] = value
    return tomlkit.dumps(document)


def constraints_in(text: str) -> dict[str, list[str]]:
    """The constraints that a `raq.toml` adds to every command in its folder; none if it is no TOML."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError):  # also of numbers with thousands of digits, and of brackets
        return {}
    found = {name: content.get(name.replace("-", "_"), []) for name in CONSTRAINTS}
    return {name: [each] if isinstance(each, str) else list(map(str, each)) for name, each in found.items() if each}


def difference(before: str, after: str, name: str) -> str:
    """What would change, as a unified diff; empty if nothing does."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="")
    return "\n".join(lines)


def read_text(folder: Folder, name: str) -> str:
    """The text of a file; empty if it is not there."""
    path = folder.path(name)
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{name}: can't be read: {error}", 409) from None


def write(folder: Folder, name: str, text: str, *, replace: bool) -> None:
    """Write a file, whole or not at all. Raises Refusal if it is there and not to be replaced, or can't be written."""
    path = folder.path(name)
    if path.exists() and not replace:
        raise Refusal(f"{name}: exists", 409)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        _write_durably(partial, text)
        partial.replace(path.resolve())
    except OSError as error:
        raise Refusal(f"{name}: can't be written: {error.strerror or error}", 409) from None
    finally:
        partial.unlink(missing_ok=True)


def plan_text(plan: Mapping[str, Any]) -> str:
    """A plan as `solve --json` prints it, which `quantize -a` reads."""
    return json.dumps(plan, indent=2, allow_nan=False) + "\n"


def _write_durably(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
