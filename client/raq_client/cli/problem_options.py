"""The options that define a problem, as one group for every command that solves for a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.base_options import BaseOptions, MemoryOptions
from raq_client.cli.constraint_options import ConstraintOptions
from raq_client.files.settings import Settings
from raq_client.planning.request import Request
from raq_client.solver_client.protocol import SolverClient, chosen_server, open_solver
from raq_solver.backends.libraries import check_libraries
from raq_solver.knapsack import Limits

_SOLVER = "Solver"


@dataclass(frozen=True)
class SolverOptions:
    """How losses are predicted, and where problems are solved."""

    loss: options.Loss = None
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="ADDRESS",
            help="HOST:PORT of a raq-server, or several (A:PORT,B:PORT, dns:///NAME:PORT); else RAQ_SERVER, else none.",
            rich_help_panel=_SOLVER,
            show_default=False,
        ),
    ] = None
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=0, help="Time limit of a search.", rich_help_panel=_SOLVER, show_default=False),
    ] = None

    @property
    def limits(self) -> Limits:
        """The limits of every search."""
        return Limits(self.seconds)

    @contextmanager
    def solver(self, settings: Settings) -> Iterator[SolverClient]:
        """The solver client: a server by flag, environment or settings, else this process."""
        with open_solver(chosen_server(self.server, settings.server)) as solver:
            yield solver


@dataclass(frozen=True)
class ProblemOptions(MemoryOptions, BaseOptions, ConstraintOptions, SolverOptions):
    """All options of a problem except the budget: constraints, base, rules, memory, losses."""

    def request(self, settings: Settings, budget: str | None, *, max_loss: float | None = None) -> Request:
        """The request from the flags; settings replace missing flags.

        The settings' budget is used if nothing else limits the size. Raises InvalidInput with the faults of the
        options, and if this process is to solve it and a library is missing.
        """
        constraints = self.constraints(settings)
        if constraints.on_several and chosen_server(self.server, settings.server) is None:
            check_libraries()  # now, not after a model was measured
        memory = self.memory_target(settings)
        # A flag that limits the size replaces the settings' budget.
        limited = self.base is not None or self.vram is not None or max_loss is not None
        return Request(
            budget=budget or (None if limited else settings.budget),
            loss=self.loss or settings.loss,
            constraints=constraints,
            base=self.base_spec(settings),
            memory=memory,
            max_loss=max_loss,
        )
