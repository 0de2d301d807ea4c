"""`raq-client`: where it begins, and what becomes of errors, signals and closed streams. No logic.

Whatever takes time to import is imported inside: a Ctrl-C meanwhile is answered too.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from raq_client.cli.streams import close_streams, ended_by_signals, open_streams

if TYPE_CHECKING:
    from raq_solver.errors import RaqError

EXIT_BUG: Final = 1
EXIT_BAD_INPUT: Final = 2
EXIT_UNREACHABLE: Final = 5
EXIT_INTERRUPTED: Final = 130
ENDED_BY: Final = {EXIT_INTERRUPTED: "interrupted", 143: "ended (SIGTERM)", 129: "ended (SIGHUP)"}
"""What to say where a signal ended a command: by exit code, 128 and the number of the signal."""

FAULTS_SHOWN: Final = 20
"""Lines printed of an error that names many faults; of the rest, the number."""


def main() -> NoReturn:
    """Entry point of `raq-client`: runs a command and turns errors into one sentence and an exit code."""
    open_streams()
    try:
        with ended_by_signals():
            _run()
        code = 0
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except SystemExit as end:  # also Typer's own answer to Ctrl-C, which says nothing
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    if code in ENDED_BY:
        complain([f"{ENDED_BY[code]}; nothing is left half-written"])
    close_streams()
    sys.exit(code)


def _run() -> None:
    from raq_client.cli.commands import APP
    from raq_solver.errors import RaqError

    try:
        APP()
    except RaqError as error:
        complain(str(error).splitlines())
        sys.exit(exit_code(error))
    except OSError as error:  # of the machine, where no file that the user named is at fault: standard output, mostly
        complain([f"{error.filename or 'standard output'}: {error.strerror or error}"])
        sys.exit(EXIT_BAD_INPUT)


def complain(lines: Sequence[str]) -> None:
    """Say what is wrong on stderr, a line for each fault."""
    rest = len(lines) - FAULTS_SHOWN
    more = [f"and {rest} more faults like these"] if rest > 1 else lines[FAULTS_SHOWN:]
    with suppress(OSError):  # the terminal may be gone
        for line in [*lines[:FAULTS_SHOWN], *more]:
            sys.stderr.write(f"raq-client: {line}\n")


def exit_code(error: "RaqError") -> int:
    """The exit code of an error."""
    from raq_solver.errors import InvalidInput, ServiceError

    if isinstance(error, InvalidInput):
        return EXIT_BAD_INPUT
    return EXIT_UNREACHABLE if isinstance(error, ServiceError) else EXIT_BUG
