"""Running the command as a shell would, in this process: exit code, stdout, stderr."""

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest import mock


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def client(*arguments: object) -> Result:
    """`raq-client ARGUMENTS`."""
    from raq_client.cli import app, events
    from raq_client.cli.console import ERR, NORMAL, OUT, set_verbosity

    for output in (OUT, ERR):
        vars(output).pop("console", None)  # as wide as COLUMNS says now, not as it did in the first test
    try:
        return _ended(app.main, "raq-client", *arguments)
    finally:  # what comes next in this process is not quiet because this was
        set_verbosity(NORMAL)
        events.set_events(False)


def server(*arguments: object) -> Result:
    """`raq-server ARGUMENTS`, for what ends by itself."""
    from raq_server.cli import main

    return _ended(main, "raq-server", *arguments)


def _ended(main: Callable[[], None], *words: object) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), mock.patch.object(sys, "argv", [str(word) for word in words]):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Result(code, out.getvalue(), err.getvalue())
