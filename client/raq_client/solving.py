"""Where a problem is solved: by a server, or in this process. Callers can't tell which."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from raq_solver.solve import Solver

SERVER_VARIABLE: Final = "RAQ_SERVER"


@contextmanager
def solver_at(server: str | None) -> Iterator[Solver]:
    """The solver at `server` (HOST:PORT or unix:PATH), or the one of this process for None."""
    if server is None:
        from raq_solver.solve import solve

        yield solve
        return
    from raq_client.remote import RemoteSolver

    with RemoteSolver(server) as remote:
        yield remote


def chosen_server(flag: str | None, setting: str | None) -> str | None:
    """The server's address: the flag, else the environment, else the project's setting, else none."""
    return flag or os.environ.get(SERVER_VARIABLE) or setting
