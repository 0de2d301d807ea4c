"""Entry point of `raq-client` and `raq`: quick answers, and what becomes of errors, signals and closed streams.

Help, version and completion are answered from tables. Typer and the command's module are imported only where a
command is called; they are imported inside functions, so that Ctrl-C is handled meanwhile.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

from raq_client.cli import events
from raq_client.cli.streams import EXIT_NOBODY_READS, close_streams, ended_by_signals, open_streams

EXIT_BUG: Final = 1
EXIT_BAD_INPUT: Final = 2
EXIT_UNREACHABLE: Final = 5
EXIT_INTERRUPTED: Final = 130
ENDED_BY: Final = {EXIT_INTERRUPTED: "interrupted", 143: "ended (SIGTERM)", 129: "ended (SIGHUP)"}
"""What to say where a signal ended a command: by exit code, 128 and the number of the signal."""

FAULTS_SHOWN: Final = 20
"""Lines printed of an error that names many faults; of the rest, the number."""


def main() -> NoReturn:
    """Run a command; turn errors into one sentence and an exit code."""
    open_streams()
    events.set_events(False)
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
    if events.are_on():
        events.emit("end", code=code)
    close_streams()
    sys.exit(code)


def _run() -> None:
    try:
        answer, code = _answer(sys.argv[1:])
        if answer is None:
            _run_command()
        else:
            sys.stdout.write(answer)
            sys.stdout.flush()
            sys.exit(code)
    except BrokenPipeError:
        sys.exit(EXIT_NOBODY_READS)
    except OSError as error:  # of the machine, where no file that the user named is at fault: standard output, mostly
        complain([f"{error.filename or 'standard output'}: {error.strerror or error}"])
        sys.exit(EXIT_BAD_INPUT)


def _answer(arguments: Sequence[str]) -> tuple[str | None, int]:
    """The answer to what needs no command, and its exit code: completion, version and help.

    None for everything else.
    """
    from raq_client.cli import completion
    from raq_client.cli.help import version_text

    if completion.is_asked():
        found = completion.completion()
        return (None if found is None else f"{found}\n"), 0
    if list(arguments) in (["-V"], ["--version"]):
        return version_text() + "\n", 0
    return _help(list(arguments))


def _help(arguments: list[str]) -> tuple[str | None, int]:
    """The help that is asked for, and the exit code; None if it is not help, or not of a command of the table."""
    from raq_client.cli.help import command_help, group_help, program
    from raq_client.cli.reference import reference_of

    last = arguments[-1] if arguments else ""
    everything, is_help = last == "--help-all", last in {"-h", "--help"}
    path = arguments[:-1] if everything or is_help else arguments
    if path[:1] == ["help"]:
        is_help, path = True, path[1:]
    group = None if everything else group_help(program(), path)
    if group is not None:
        return group, 0 if is_help else EXIT_BAD_INPUT  # a group alone misses its command
    command = reference_of(path) if everything or is_help else None
    if command is None:
        return None, EXIT_BAD_INPUT
    return command_help(" ".join([program(), *path]), command, everything=everything), 0


def _run_command() -> None:
    from raq_client.cli import console
    from raq_client.cli.help import program
    from raq_client.cli.root import APP

    began = time.monotonic()
    console.set_verbosity(console.NORMAL)
    try:
        APP(prog_name=program())
    except OSError:
        raise
    except Exception as error:
        from raq_solver.errors import RaqError  # loaded already, if the error is one

        if not isinstance(error, RaqError):
            raise
        console.show_traceback()
        complain(str(error).splitlines())
        sys.exit(exit_code(error))
    finally:
        console.detail_of_process(time.monotonic() - began)


def complain(lines: Sequence[str]) -> None:
    """Say what is wrong on stderr, a line for each fault."""
    rest = len(lines) - FAULTS_SHOWN
    more = [f"and {rest} more faults like these"] if rest > 1 else lines[FAULTS_SHOWN:]
    with suppress(OSError):  # the terminal may be gone
        for line in [*lines[:FAULTS_SHOWN], *more]:
            if events.are_on():
                events.emit("error", text=line)
            else:
                sys.stderr.write(f"raq-client: {line}\n")


def exit_code(error: Exception) -> int:
    """The exit code of an error of raq's: 2 for bad input, 5 for a service that can't be reached, else 1."""
    from raq_solver.errors import InvalidInput, ServiceError

    if isinstance(error, InvalidInput):
        return EXIT_BAD_INPUT
    return EXIT_UNREACHABLE if isinstance(error, ServiceError) else EXIT_BUG
