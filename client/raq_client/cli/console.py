"""Where output goes: results to stdout, remarks and progress to stderr; how much of it, by --quiet and --verbose."""

import json
import sys
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from raq_client.cli import events
from raq_client.cli.streams import EXIT_NOBODY_READS

if TYPE_CHECKING:
    from rich.console import Console

QUIET, NORMAL, VERBOSE = range(3)

_verbosity = NORMAL


class Output:
    """A stream for people. Rich, which is slow to import, is loaded when something is printed first."""

    def __init__(self, *, stderr: bool = False) -> None:
        self._stderr = stderr

    @cached_property
    def console(self) -> "Console":
        """The console of Rich behind it."""
        from raq_client.cli.rich_console import open_console

        return open_console(stderr=self._stderr)

    def print(self, *objects: Any, sep: str = " ", soft_wrap: bool | None = None) -> None:
        """Print texts and renderables."""
        self.console.print(*objects, sep=sep, soft_wrap=soft_wrap)

    def out(self, text: str, *, end: str = "\n", highlight: bool = False) -> None:
        """Print a text as it is."""
        self.console.out(text, end=end, highlight=highlight)


OUT: Final = Output()
ERR: Final = Output(stderr=True)

Report = Callable[[int, int], None]
"""Called now and then with the units done and the units in all."""


def set_verbosity(level: int) -> None:
    """Print QUIET: results and errors; NORMAL: remarks and progress too; VERBOSE: details and tracebacks too."""
    global _verbosity  # noqa: PLW0603  # one process has one terminal
    _verbosity = level


def is_quiet() -> bool:
    """Whether remarks and progress are not wanted."""
    return _verbosity == QUIET


def say(text: str) -> None:
    """Print a remark on stderr, unless --quiet."""
    if is_quiet():
        return
    if events.are_on():
        events.emit("note", text=text)
    else:
        ERR.print(text, soft_wrap=True)


def fail(text: str) -> None:
    """Print on stderr why a command did not succeed, --quiet or not."""
    if events.are_on():
        events.emit("error", text=text)
    else:
        ERR.print(f"raq-client: {text}", soft_wrap=True)


def detail(text: str) -> None:
    """Print a detail on stderr where --verbose asks for it."""
    if _verbosity == VERBOSE:
        ERR.print(text, soft_wrap=True)


def show_traceback() -> None:
    """Print the traceback of the error that is being handled where --verbose asks for it."""
    if _verbosity == VERBOSE:
        import traceback

        ERR.out(traceback.format_exc(), end="")


def detail_of_process(seconds: float) -> None:
    """Print versions and what the process has used where --verbose asks for it."""
    if _verbosity == VERBOSE:
        import platform
        from importlib.metadata import version

        detail(f"raq {version('raq')}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
        detail(f"{seconds:.1f} s, {time.process_time():.1f} s of processor time{_peak_memory()}")


def _peak_memory() -> str:
    try:
        import resource
    except ImportError:  # Windows has none
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f", at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.2f} GiB of memory"


def print_json(value: Any) -> None:
    """Print a result for programs on stdout."""
    # Not by Rich, which would cut a result of a megabyte into its lines first.
    try:
        sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
        sys.stdout.flush()  # a reader that has gone is noticed now, not when the program ends
    except BrokenPipeError:
        sys.exit(EXIT_NOBODY_READS)
