"""One door for files from elsewhere: whatever goes wrong while one is read is one fault with its name.

Rules
- Readers of files that users name take their bytes, text, JSON and TOML from here, or parse inside `damage_named`.
- A pipe or a device is refused: files are read more than once (hashed, measured, written), and such bytes come once.
"""

import csv
import json
import struct
import sys
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from raq_client.files.mistaken import LONGEST, in_place_of_file
from raq_client.files.output_checks import kind_of
from raq_solver.errors import Fault, InvalidInput

LONGEST_REASON: Final = 200
"""Characters kept of what a parser says: some quote what they can't read, and that can be long."""
_FOREIGN: Final = (
    OSError,
    ValueError,  # also bytes that are not UTF-8, JSON, TOML, and numbers of more than 4,300 digits
    RuntimeError,  # also recursion that is too deep, and archives that are encrypted
    OverflowError,
    MemoryError,
    EOFError,
    AttributeError,
    struct.error,
    zlib.error,
    csv.Error,
    zipfile.BadZipFile,
)
"""What Python's and NumPy's parsers raise on damaged or hostile bytes."""


@contextmanager
def damage_named(where: Path | str, what: str = "") -> Iterator[None]:
    """Turn every error of a parser into one InvalidInput that names the file, and `what` it should be.

    An InvalidInput raised inside passes unchanged.
    """
    try:
        yield
    except InvalidInput:
        raise
    except _FOREIGN as error:
        wanted = f" as {what}" if what else ""
        raise InvalidInput(Fault(str(where), f"can't be read{wanted}: {_reason(error)}")) from error


def check_readable(path: Path) -> None:
    """Raise InvalidInput if `path` is a folder, a pipe or a device; a missing file is left to its reader."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    kind = kind_of(mode)
    if kind == "a folder":
        raise InvalidInput(Fault(str(path), "is a folder; name a file in it"))
    if kind:
        what = f"is {kind}, not a file: raq reads its inputs more than once; write the data to a file and name that"
        raise InvalidInput(Fault(str(path), what))


def read_bytes(path: Path, what: str = "") -> bytes:
    """The bytes of a file that should be `what`. Raises InvalidInput if it can't be read or is no regular file."""
    check_readable(path)
    with damage_named(path, what):
        return path.read_bytes()


def read_text(path: Path, what: str = "") -> str:
    r"""The text of a UTF-8 file, with its line ends as they are. Raises InvalidInput as `read_bytes` does."""
    data = read_bytes(path, what)
    with damage_named(path, what):
        try:
            return data.decode()
        except UnicodeDecodeError:
            check_itself(data, path)
            raise


def check_itself(content: str | bytes, where: Path | str) -> None:
    """Raise InvalidInput if the content is that of a web page, a pointer or an archive in place of the file."""
    start = content[:LONGEST]
    found = in_place_of_file(start.encode() if isinstance(start, str) else start)
    if found is not None:
        raise InvalidInput(Fault(str(where), f"is {found}"))


def parse_json(text: str | bytes, where: Path | str, what: str = "JSON") -> Any:
    """The value of a JSON text that should be `what`. Raises InvalidInput, naming `where`, if it is not JSON.

    >>> parse_json('{"a": 1}', "a.json")
    {'a': 1}
    """
    check_itself(text, where)
    with damage_named(where, what):
        return json.loads(text)


def parse_toml(text: str, where: Path | str, what: str = "TOML") -> dict[str, Any]:
    """The table of a TOML text, as `parse_json`."""
    check_itself(text, where)
    with damage_named(where, what):
        return tomllib.loads(text)


def _reason(error: BaseException) -> str:
    match error:
        case OSError() if error.strerror:
            return error.strerror
        case RecursionError():
            return "it is nested too deeply"
        case MemoryError():
            return "it needs more memory than there is"
        case ValueError() if "set_int_max_str_digits" in str(error):
            return f"it has a number of more than {sys.get_int_max_str_digits():,} digits"
        case UnicodeDecodeError():
            return f"byte {error.start} is not UTF-8 text"
        case _:
            said = " ".join(str(error).split()) or type(error).__name__
            return said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]}…"
