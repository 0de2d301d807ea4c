"""The lines of a job, in a folder that all its processes share.

Each process appends to a file of its own, so that no two write to one file (which network file systems do not support)
and a line cut short by a crash spoils nothing but itself.
"""

import json
import os
import re
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from raq_client.files.cache_file import CacheFile
from raq_client.files.output_checks import unwritable
from raq_client.units.unit import Line, Part, Unit, Work
from raq_solver.errors import InvalidInput

_TOKEN_BYTES = 4
_PART = re.compile(r"\d+-of-(?P<of>\d+)-")


def work_folder(output: Path) -> Path:
    """The folder beside an output in which its unfinished parts lie.

    >>> work_folder(Path("models/m.gguf")).name
    'm.gguf.parts'
    """
    return output.with_name(f"{output.name}.parts")


class Journal:
    """The lines of one job in `folder`, a folder of its own named by the job's key.

    Where this process makes one of several parts, the name of its file says so.
    """

    def __init__(self, folder: Path, job: Work) -> None:
        self.folder = folder / job.key[:32]
        self.part: Part | None = None
        self._file: BinaryIO | None = None

    def known(self) -> dict[str, Line]:
        """The lines that exist, by the names of their units."""
        found: dict[str, Line] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            found |= {line["unit"]: line for line in CacheFile(path).objects() if "unit" in line}
        return found

    def divisions(self) -> set[int]:
        """The numbers of parts into which processes have divided the job."""
        found = (_PART.match(path.name) for path in self.folder.glob("*.jsonl"))
        return {int(each["of"]) for each in found if each is not None}

    def add(self, unit: Unit, line: Line) -> Line:
        """Append the line of a unit. Raises InvalidInput if it can't be written."""
        kept = {"unit": unit.name, **line}
        try:
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                part = "" if self.part is None else f"{self.part.index}-of-{self.part.of}-"
                name = f"{part}{secrets.token_hex(_TOKEN_BYTES)}.jsonl"
                self._file = (self.folder / name).open("xb", buffering=0)
            self._file.write(json.dumps(kept).encode() + b"\n")
        except OSError as error:
            raise InvalidInput(unwritable(self.folder, error)) from error
        return kept

    def remove(self) -> None:
        """Remove the job's folder, and the folder around it if no other job is in it."""
        self._close()
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.parent.rmdir()
        except OSError:  # another job's parts are there
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
