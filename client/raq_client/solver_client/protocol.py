"""The interface of solver clients, and the choice between a server and this process."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from raq_solver.allocation import Allocation
from raq_solver.budget import Budget
from raq_solver.knapsack import Limits
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.questions.audit import Audit
from raq_solver.questions.explain import Conflict, Costs, TensorReasons
from raq_solver.questions.ladder import Ladder
from raq_solver.questions.smallest_size import Smallest
from raq_solver.questions.sweep import Point
from raq_solver.questions.worst_case import Domains, WorstCase

SERVER_VARIABLE: Final = "RAQ_SERVER"
TOKEN_VARIABLE: Final = "RAQ_TOKEN"  # noqa: S105  # the name of a variable
ROOTS_VARIABLE: Final = "RAQ_ROOT_CERTIFICATES"
"""File of the root certificates (PEM) for the server's certificate; makes the connection encrypted."""
CERTIFICATE_VARIABLE: Final = "RAQ_CERTIFICATE"
KEY_VARIABLE: Final = "RAQ_PRIVATE_KEY"
"""Files (PEM) with the client's own certificate and key."""


class SolverClient(Protocol):
    """Answers questions about problems: `local.LocalSolver` in this process, `remote.Client` over gRPC.

    Questions with their own sizes (sweep, audit, nested ladder) ignore the capacity of the problem.
    """

    def solve(self, question: Problem, limits: Limits = ..., /) -> Outcome:
        """The allocation of least loss within the budget."""

    def solve_worst_case(self, question: Domains, limits: Limits = ..., /) -> WorstCase:
        """The allocation within the capacity with the smallest worst-domain loss."""

    def sweep(self, question: Problem, budgets: Sequence[Budget], limits: Limits = ..., /) -> Iterator[Point]:
        """The optimum of each budget, as it is proven."""

    def smallest_size(self, question: Problem, most_loss: float, limits: Limits = ..., /) -> Smallest:
        """The smallest allocation whose loss is at most `most_loss` (nats per token)."""

    def explain_tensor(self, question: Problem, tensor: str, limits: Limits = ..., /) -> TensorReasons:
        """Why a tensor has its type."""

    def constraint_costs(self, question: Problem, limits: Limits = ..., /) -> Costs:
        """The cost of the constraints in loss."""

    def explain_conflict(self, question: Problem, limits: Limits = ..., /) -> Conflict | None:
        """Why nothing fits."""

    def audit(self, question: Problem, allocation: Allocation, limits: Limits = ..., /) -> Audit:
        """How far an allocation is from the best of its own size."""

    def nested_ladder(self, question: Problem, budgets: Sequence[Budget], limits: Limits = ..., /) -> Ladder:
        """The nested ladder of least total loss."""


@contextmanager
def open_solver(server: str | None) -> Iterator[SolverClient]:
    """A solver client for `server` (HOST:PORT, unix:PATH, dns:///NAME:PORT or a list), or for this process if None.

    The token and certificates for a server come from the environment.
    """
    if server is None:
        from raq_client.solver_client.local import LocalSolver

        yield LocalSolver()
        return
    from raq_client.solver_client.connection import Connection
    from raq_client.solver_client.remote import Client

    token = os.environ.get(TOKEN_VARIABLE)
    files = (_path(ROOTS_VARIABLE), _path(CERTIFICATE_VARIABLE), _path(KEY_VARIABLE))
    with Client(Connection.of(server, token, False, *files)) as client:  # noqa: FBT003  # the roots make it encrypted
        yield client


def _path(variable: str) -> Path | None:
    found = os.environ.get(variable)
    return Path(found) if found else None


def chosen_server(flag: str | None, setting: str | None) -> str | None:
    """The server's address: the flag, else the environment, else the setting; None if all are empty."""
    return flag or os.environ.get(SERVER_VARIABLE) or setting
