"""Groups of options that several commands take: what a model is known by, how it is asked about, how it is checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import say
from raq_client.files.settings import Settings
from raq_client.planning.plan import Sources
from raq_client.quantizing.devices import chosen_device
from raq_client.solver_client.protocol import chosen_server
from raq_solver.errors import Fault, InvalidInput


@dataclass(frozen=True)
class MeasureOptions:
    """How a named model is measured."""

    imatrix: options.Imatrix = None
    types: Annotated[
        str | None,
        typer.Option(
            "--types",
            help="Quant types to choose from, with commas between: names, or auto (what fits each tensor), k, iq, "
            "legacy, all. auto unless given.",
            show_default=False,
        ),
    ] = None
    effort: options.Effort = "fast"
    threads: options.Threads = 0
    device: options.Device = "cpu"

    def of_model(self, model: Path, settings: Settings, *, cached: bool = True) -> Sources:
        """The sources of a model that is named; the project's settings where the flags are silent."""
        return Sources(
            model=model,
            imatrix=tuple(self.imatrix or settings.imatrix),
            types=options.listed(self.types) or settings.types,
            effort=self.effort,
            threads=self.threads,
            rows=settings.rows,
            cached=cached,
            device=chosen_device(self.device, say),
        )


@dataclass(frozen=True)
class SourceOptions(MeasureOptions):
    """Where the facts of a model come from."""

    model: options.Model = None
    profile: Annotated[
        list[Path] | None,
        typer.Option(
            "--profile",
            "-p",
            help="A saved profile, instead of a model; with --worst-case one for each domain.",
            show_default=False,
        ),
    ] = None

    def sources(self, settings: Settings) -> Sources:
        """The flags, and where they are silent, the project's settings. A model named by a flag wins over a profile.

        Raises InvalidInput for several profiles.
        """
        if len(self.profile or ()) > 1:
            what = f"{len(self.profile or ())} profiles; several are for the domains of solve --worst-case"
            raise InvalidInput(Fault("--profile", what))
        named = self.model is not None or bool(self.profile)
        return Sources(
            model=self.model if named else settings.model,
            imatrix=tuple(self.imatrix or (() if named else settings.imatrix)),
            profile=self.profile[0] if self.profile else None if named else settings.profile,
            types=options.listed(self.types) or settings.types,
            effort=self.effort,
            threads=self.threads,
            rows=settings.rows,
            device=chosen_device(self.device, say),
        )


@dataclass(frozen=True)
class AskOptions:
    """How losses are predicted, and who solves."""

    loss: options.Loss = None
    server: Annotated[
        str | None,
        typer.Option(
            "--server", help="HOST:PORT of a raq-server; else RAQ_SERVER, else solved here.", show_default=False
        ),
    ] = None
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0, help="Most time the search may take.", show_default=False)
    ] = None

    def loss_model(self, settings: Settings) -> str | None:
        """Name of the loss model; None leaves it to the profile."""
        return self.loss or settings.loss

    def solved_at(self, settings: Settings) -> str | None:
        """Address of the server that solves; None for this process."""
        return chosen_server(self.server, settings.server)


@dataclass(frozen=True)
class CheckOptions:
    """How a written file is checked."""

    text: options.Texts = None
    check_context: Annotated[int, typer.Option("--check-context", min=8, help="Tokens of a window.")] = 512
    windows: options.Windows = None
    libllama: options.Library = None

    def texts(self, settings: Settings) -> list[Path]:
        """Files of text to check on; the project's where none is named."""
        return self.text or list(settings.text)
