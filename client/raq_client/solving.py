"""Where a problem is solved: by a server, or in this process. Callers can't tell which."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from raq_solver.solve import Solver

SERVER_VARIABLE: Final = "RAQ_SERVER"
TOKEN_VARIABLE: Final = "RAQ_TOKEN"  # noqa: S105  # the name of a variable
ROOTS_VARIABLE: Final = "RAQ_ROOT_CERTIFICATES"
"""File of the certificates (PEM) that the server's must be signed by; makes the connection encrypted."""
CERTIFICATE_VARIABLE: Final = "RAQ_CERTIFICATE"
KEY_VARIABLE: Final = "RAQ_PRIVATE_KEY"
"""Files (PEM) of the client's own certificate and key."""


@contextmanager
def solver_at(server: str | None) -> Iterator[Solver]:
    """The solver at `server` (HOST:PORT or unix:PATH), or the one of this process for None.

    Token and certificates of the server's clients come from the environment.
    """
    if server is None:
        from raq_solver.solve import solve

        yield solve
        return
    from raq_client import connect

    with connect(
        server,
        token=os.environ.get(TOKEN_VARIABLE),
        root_certificates=_path(ROOTS_VARIABLE),
        certificate=_path(CERTIFICATE_VARIABLE),
        private_key=_path(KEY_VARIABLE),
    ) as client:
        yield client


def _path(variable: str) -> Path | None:
    found = os.environ.get(variable)
    return Path(found) if found else None


def chosen_server(flag: str | None, setting: str | None) -> str | None:
    """The server's address: the flag, else the environment, else the project's setting, else none."""
    return flag or os.environ.get(SERVER_VARIABLE) or setting
