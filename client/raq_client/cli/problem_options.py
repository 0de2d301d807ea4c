"""The options that pose a problem: one group for every command that solves something of a model."""

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
from raq_solver.knapsack import Limits

_SOLVER = "Solver"


@dataclass(frozen=True)
class SolverOptions:
    """How losses are predicted, and who solves."""

    loss: options.Loss = None
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="ADDRESS",
            help="HOST:PORT of a raq-server; else RAQ_SERVER, else solved in this process.",
            rich_help_panel=_SOLVER,
            show_default=False,
        ),
    ] = None
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", min=0, help="Most time a search may take.", rich_help_panel=_SOLVER, show_default=False
        ),
    ] = None

    @property
    def limits(self) -> Limits:
        """Limits of every search."""
        return Limits(self.seconds)

    @contextmanager
    def solver(self, settings: Settings) -> Iterator[SolverClient]:
        """Who solves: a server by flag, environment or settings, else this process."""
        with open_solver(chosen_server(self.server, settings.server)) as solver:
            yield solver


@dataclass(frozen=True)
class ProblemOptions(MemoryOptions, BaseOptions, ConstraintOptions, SolverOptions):
    """Everything but the budget that a problem depends on: constraints, base, rules, memory, losses."""

    def request(self, settings: Settings, budget: str | None, *, max_loss: float | None = None) -> Request:
        """What is asked for, the project's settings where the flags are silent.

        The settings' budget counts where nothing else limits the size. Raises InvalidInput with the faults of the
        options.
        """
        memory = self.memory_target(settings)
        # A flag that limits the size takes the place of the project's budget.
        limited = self.base is not None or self.vram is not None or max_loss is not None
        return Request(
            budget=budget or (None if limited else settings.budget),
            loss=self.loss or settings.loss,
            constraints=self.constraints(settings),
            base=self.base_spec(settings),
            memory=memory,
            max_loss=max_loss,
        )
