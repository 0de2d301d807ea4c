"""Groups of options for several commands: the model and how it is measured, and how a file is checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import say
from raq_client.engine import DEFAULT_CONTEXT
from raq_client.files.settings import Settings
from raq_client.planning.model_inputs import ModelInputs
from raq_client.quantizing.devices import chosen_device
from raq_solver.errors import Fault, InvalidInput, raise_faults


def project_model(model: Path | None, settings: Settings) -> Path:
    """The model of an argument, or else that of raq.toml. Raises InvalidInput if there is neither."""
    path = model or settings.model
    if path is None:
        raise InvalidInput(Fault("", "which model? Name MODEL, or model in raq.toml"))
    return path


@dataclass(frozen=True)
class CarryOutOptions:
    """A model, its importance, and how its tensors are quantized."""

    imatrix: options.Imatrix = None
    gram: options.Gram = None
    effort: options.Effort = "fast"
    threads: options.Threads = 0
    device: options.Device = "cpu"

    def inputs_of(self, model: Path | None, settings: Settings, *, cached: bool = True) -> ModelInputs:
        """The inputs for `model`, or for the settings' model; settings replace missing flags.

        Raises InvalidInput without a model.
        """
        return self._inputs(settings, project_model(model, settings), cached=cached)

    def _inputs(
        self, settings: Settings, path: Path | None, profile: Path | None = None, *, cached: bool = True
    ) -> ModelInputs:
        # The settings' importance belongs to the settings' model, if one is given there.
        of_project = profile is None and (settings.model is None or path in {None, settings.model})
        return ModelInputs(
            path=path,
            imatrix=tuple(self.imatrix or (settings.imatrix if of_project else ())),
            gram=self.gram or (settings.gram if of_project else None),
            profile_path=profile,
            types=self._types(settings),
            effort=self.effort,
            threads=self.threads,
            rows=settings.rows,
            cached=cached,
            device=chosen_device(self.device, say),
            text_weights=self._text_weights(),
        )

    def _types(self, settings: Settings) -> tuple[str, ...]:
        """The types to choose from; none for commands without a choice."""
        return settings.types

    def _text_weights(self) -> tuple[str, ...]:
        """The weights of the calibration's texts; none for commands without a choice."""
        return ()


@dataclass(frozen=True)
class MeasureOptions(CarryOutOptions):
    """How a model is measured."""

    types: Annotated[
        str | None,
        typer.Option(
            "--types",
            metavar="TYPE,TYPE…",
            help="Quant types to choose from: names, k, iq, legacy, all, or auto (the default): what fits each tensor.",
            show_default=False,
        ),
    ] = None

    text_weight: Annotated[
        list[str] | None,
        typer.Option(
            "--text-weight",
            metavar="TEXT:WEIGHT",
            rich_help_panel=options.DOMAINS_PANEL,
            help="How much losses on a text of the calibration count, 1 without; texts by the names that solve prints.",
            show_default=False,
        ),
    ] = None

    def _types(self, settings: Settings) -> tuple[str, ...]:
        return options.listed(self.types) or settings.types

    def _text_weights(self) -> tuple[str, ...]:
        return tuple(self.text_weight or ())


@dataclass(frozen=True)
class SourceOptions(MeasureOptions):
    """The source of a plan's data: a model or saved profiles."""

    model: options.OptionalModel = None
    model_option: Annotated[
        Path | None, options.other_input(*options.MODEL_NAMES, help_text="The same as MODEL, as an option.")
    ] = None
    profile: Annotated[
        list[Path] | None,
        typer.Option(
            "--profile",
            "-p",
            metavar="FILE",
            help="A saved profile, instead of a model.",
            show_default=False,
        ),
    ] = None

    def inputs(self, settings: Settings) -> ModelInputs:
        """The inputs from the flags, or from the settings if the flags give neither a model nor a profile.

        Raises InvalidInput for several profiles, and for a model together with a profile.
        """
        if len(self.profile or ()) > 1:
            what = f"{len(self.profile or ())} profiles; several are only for the domains of solve --worst-case"
            raise InvalidInput(Fault("--profile", what))
        model, profile = self.named_model, self.profile[0] if self.profile else None
        if profile is not None:
            given = {"a model": model is not None, "--imatrix": bool(self.imatrix), "--types": self.types is not None}
            given["--gram"] = self.gram is not None
            what = "can't be used with a saved profile, which is already measured"
            raise_faults([Fault(name, what) for name, there in given.items() if there])
            return self._inputs(settings, None, profile)
        if model is not None:
            return self._inputs(settings, model)
        return self._inputs(settings, settings.model, settings.profile)

    def refuse_all(self, flag: str) -> None:
        """Raise InvalidInput for each source given together with `flag`, which replaces them."""
        given = {
            "a model": self.named_model is not None,
            "--profile": bool(self.profile),
            "--imatrix": bool(self.imatrix),
            "--gram": self.gram is not None,
            "--types": self.types is not None,
        }
        raise_faults([Fault(name, f"can't be used together with {flag}") for name, there in given.items() if there])

    @property
    def named_model(self) -> Path | None:
        """The model given by flag or argument. Raises InvalidInput if the two differ."""
        if self.model is not None and self.model_option not in {None, self.model}:
            raise InvalidInput(Fault("--model", f"names {self.model_option}, but MODEL is {self.model}: give one"))
        return self.model or self.model_option


@dataclass(frozen=True)
class CheckOptions:
    """How a written file is checked."""

    text: options.Texts = None
    context: options.Context = DEFAULT_CONTEXT
    windows: options.Windows = None
    libllama: options.Library = None

    def texts(self, settings: Settings) -> list[Path]:
        """The files of text to check on; those of the settings if none is given."""
        return self.text or list(settings.text)
