"""The shell lines that the documents show, and how each is known to be true: run, run by another test, or marked.

A block under `<!-- not run: REASON -->` is not run, and neither is a line with "not run" in its comment. Blocks under
`<!-- run by FILE -->`, or under one of the marks in `ELSEWHERE`, are run there. Everything else is run by
tests/e2e/test_docs_commands.py.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from support.paths import ROOT

PAGES: Final = MappingProxyType(
    {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    }
)
ELSEWHERE: Final = MappingProxyType(
    {
        "tutorial": "tests/e2e/test_tutorial.py",
        "run command": ".ci/run",
        "test command": ".ci/run",
    }
)
"""Marks of blocks, and the file that runs them as they stand."""
_BLOCK: Final = re.compile(r"(?:<!-- ([^\n]*?) -->\n)?```sh\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a shell block, joined where it goes on, and its comment; `mark` is that of its block."""

    text: str
    comment: str = ""
    mark: str = ""

    @property
    def not_run(self) -> bool:
        """Whether the reader is told that it is not run."""
        return self.mark.startswith("not run: ") or "not run" in self.comment

    @property
    def run_by(self) -> str | None:
        """The other file that runs it."""
        return ELSEWHERE.get(self.mark) or (self.mark.removeprefix("run by ") if self.mark else None)


def shown_lines(page: str) -> Iterator[Line]:
    """The lines of a page's shell blocks that are not only a comment."""
    for mark, block in _BLOCK.findall(PAGES[page]):
        for line in block.replace("\\\n", " ").splitlines():
            code, comment = _parts(line)
            if code:
                yield Line(code, comment, mark)


def _parts(line: str) -> tuple[str, str]:
    """A line's code and comment. No shell reads it: a string may go on in the next line."""
    found = re.search(r"(?:^|\s)#", line)
    at = found.start() if found else len(line)
    return line[:at].strip(), line[at:].strip(" #")
