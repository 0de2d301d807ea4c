"""The options around a budget: base and moves, architecture, exo, and the promise of memory."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from raq_client.cli import options
from raq_client.files.settings import Settings
from raq_client.importance.ratio import Thresholds
from raq_client.planning.premises import BaseSpec
from raq_client.planning.promise import MemoryTarget
from raq_client.planning.vram import Serving, parse_context, parse_size
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import QuantType, quant_type


class Moves(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """Which tensors may leave the base."""

    ANY = "any"
    RATIO = "ratio"


class Counting(str, Enum):  # noqa: UP042
    """What overrides do to the tensors that they do not name."""

    LLAMA_CPP = "llama.cpp"
    RESOLVED = "resolved"


_MEMORY = {"show_default": False, "rich_help_panel": "MemoryTarget of memory"}
_BASE = {"show_default": False, "rich_help_panel": "Base and moves"}


def _option(panel: dict[str, Any], *names: str, help_text: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_text, **(panel | more))


@dataclass(frozen=True)
class MemoryOptions:
    """How a model is to run, on how much memory."""

    vram: Annotated[
        str | None,
        _option(_MEMORY, "--vram", help_text="Memory of the device, as 24GiB; the weights get what is left."),
    ] = None
    serving_context: Annotated[
        str, _option(_MEMORY, "--context", help_text="Tokens of context to hold, as 184k; with --vram.")
    ] = "4096"
    kv: Annotated[
        str, _option(_MEMORY, "--kv", help_text="Type of the key-value cache, as q8_0; two with a comma: keys, values.")
    ] = "f16"
    overhead: Annotated[
        str,
        _option(_MEMORY, "--overhead", help_text="What else takes memory there (driver, desktop, vision), as 3GiB."),
    ] = "0B"
    parallel: Annotated[int, _option(_MEMORY, "--parallel", min=1, help_text="Sequences at once.")] = 1
    batch: Annotated[int, _option(_MEMORY, "--ubatch", min=1, help_text="Tokens computed at once (n_ubatch).")] = 512
    host: Annotated[
        list[str] | None, _option(_MEMORY, "--host", help_text="PATTERN of tensors kept on the host; may be repeated.")
    ] = None

    host_memory: Annotated[
        str | None,
        _option(_MEMORY, "--host-memory", help_text="What --host tensors may take, as 8GiB; else they are pinned."),
    ] = None

    def promise(self) -> MemoryTarget | None:
        """The promise of memory, or None without --vram. Raises InvalidInput if the rest is given without it."""
        if self.vram is None:
            if self != MemoryOptions():
                what = (
                    "--context, --kv, --overhead, --parallel, --ubatch, --host and --host-memory say how memory is used"
                )
                raise InvalidInput(
                    Fault("", f"{what}: say of how much with --vram (a check's window is --check-context)")
                )
            return None
        if self.host_memory is not None and not self.host:
            raise InvalidInput(Fault("--host-memory", "is for which tensors? Name them with --host"))
        on_host = None if self.host_memory is None else parse_size(self.host_memory)
        return MemoryTarget(parse_size(self.vram), self.serving(), tuple(self.host or ()), on_host)

    def serving(self) -> Serving:
        """How the model runs."""
        keys, values = self.cache_types()
        return Serving(
            context=parse_context(self.serving_context),
            key_type=keys,
            value_type=values,
            sequences=self.parallel,
            batch=self.batch,
            overhead=parse_size(self.overhead),
        )

    def cache_types(self) -> tuple[QuantType, QuantType]:
        """Types of keys and values."""
        names = options.listed(self.kv)
        if len(names) not in (1, 2):
            raise InvalidInput(Fault("--kv", f"{self.kv!r}; give one type, or two with a comma: keys, values"))
        return quant_type(names[0]), quant_type(names[-1])


@dataclass(frozen=True)
class BaseOptions:
    """A base, and what may leave it."""

    base: Annotated[
        str | None,
        _option(
            _BASE,
            "--base",
            help_text="Start from this: a mixture (Q4_K_M), a GGUF file, an allocation, overrides, a recipe.",
        ),
    ] = None
    overrides: Annotated[
        Path | None, _option(_BASE, "--overrides", help_text="A --tensor-type-file laid over the mixture of --base.")
    ] = None
    counting: Annotated[
        Counting,
        _option(
            _BASE,
            "--counting",
            show_default=True,
            help_text="Whether overrides shift the mixture's other types as llama.cpp does.",
        ),
    ] = Counting.LLAMA_CPP
    moves: Annotated[
        Moves,
        _option(
            _BASE,
            "--moves",
            show_default=True,
            help_text="Which tensors may leave the base: any, or candidates of the ratio.",
        ),
    ] = Moves.ANY
    domain: Annotated[
        list[Path] | None, _option(_BASE, "--domain", help_text="Importance of the domain's text, for the ratio.")
    ] = None
    general: Annotated[
        list[Path] | None, _option(_BASE, "--general", help_text="Importance of general text, for the ratio.")
    ] = None
    demote_below: options.DemoteBelow = 0.80
    promote_above: options.PromoteAbove = 1.10
    exo: Annotated[
        list[str] | None, _option(_BASE, "--exo", help_text="PATTERN of tensors held at F16; shows what the rest pays.")
    ] = None
    architecture: Annotated[
        str | None, _option(_BASE, "--architecture", help_text="Rules on kinds of tensors: default, none, or a file.")
    ] = None
    plot: Annotated[
        Path | None, _option(_BASE, "--plot", help_text="Draw the moves from the base into this .svg or .png.")
    ] = None

    def around(self, settings: Settings, memory: MemoryOptions) -> BaseSpec:
        """What is asked for, the project's settings where the flags are silent.

        Raises InvalidInput for overrides without a base.
        """
        base = self.base or settings.base
        if self.overrides is not None and base is None:
            raise InvalidInput(Fault("--overrides", "what are they laid over? Give a --base, such as Q4_K_M"))
        return BaseSpec(
            base=base,
            overrides=self.overrides,
            counting=self.counting.value,
            moves=self.moves.value,
            domain=tuple(self.domain or ()),
            general=tuple(self.general or ()),
            thresholds=Thresholds(self.demote_below, self.promote_above),
            exo=tuple(self.exo or ()),
            architecture=self.architecture or settings.architecture or "none",
            promise=memory.promise(),
        )
