"""Options for a base and its moves, for architecture rules, and for the memory in which the model runs."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from raq_client.cli import options
from raq_client.files.settings import Settings
from raq_client.importance.ratio import Thresholds
from raq_client.planning.memory_budget import Serving, parse_context, parse_size
from raq_client.planning.memory_target import MemoryTarget
from raq_client.planning.request import BaseSpec
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import QuantType, quant_type


class Moves(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """Which tensors may leave the base."""

    ANY = "any"
    RATIO = "ratio"


class Counting(str, Enum):  # noqa: UP042
    """How overrides affect the tensors that they do not match."""

    LLAMA_CPP = "llama.cpp"
    RESOLVED = "resolved"


_MEMORY = {"show_default": False, "rich_help_panel": "Memory"}
_BASE = {"show_default": False, "rich_help_panel": "Base and moves"}


def _option(panel: dict[str, Any], *names: str, help_text: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_text, **(panel | more))


@dataclass(frozen=True)
class MemoryOptions:
    """The memory for a model, and the settings with which it will run."""

    vram: Annotated[
        str | None,
        _option(
            _MEMORY, "--vram", metavar="SIZE", help_text="Device memory, e.g. 24GiB; the weights get what is left."
        ),
    ] = None
    vram_context: Annotated[
        str | None,
        _option(
            _MEMORY, "--vram-context", metavar="TOKENS", help_text="Context to hold there, e.g. 184k; default: 4096."
        ),
    ] = None
    kv: Annotated[
        str | None,
        _option(
            _MEMORY,
            "--kv",
            metavar="TYPE[,TYPE]",
            help_text="Type of the key-value cache, e.g. q8_0, or of keys and values; default: f16.",
        ),
    ] = None
    overhead: Annotated[
        str | None,
        _option(
            _MEMORY,
            "--overhead",
            metavar="SIZE",
            help_text="Other memory use there (driver, desktop, vision), e.g. 3GiB.",
        ),
    ] = None
    parallel: Annotated[
        int | None, _option(_MEMORY, "--parallel", min=1, help_text="Sequences at once; default: 1.")
    ] = None
    batch: Annotated[
        int | None,
        _option(_MEMORY, "--ubatch", min=1, help_text="Tokens computed at once (n_ubatch); default: 512."),
    ] = None
    host: Annotated[
        list[str] | None,
        _option(_MEMORY, "--host", metavar="PATTERN", help_text="Tensors kept on the host; may be repeated."),
    ] = None
    host_memory: Annotated[
        str | None,
        _option(
            _MEMORY,
            "--host-memory",
            metavar="SIZE",
            help_text="Memory for the --host tensors, e.g. 8GiB; else they are pinned.",
        ),
    ] = None

    def memory_target(self, settings: Settings) -> MemoryTarget | None:
        """The memory target of flags and settings, None without a device's memory.

        Raises InvalidInput if other memory flags are given without it.
        """
        known = settings.memory
        if (self.vram or known.vram) is None:
            others = {
                "--vram-context": self.vram_context,
                "--kv": self.kv,
                "--overhead": self.overhead,
                "--parallel": self.parallel,
                "--ubatch": self.batch,
                "--host": self.host,
                "--host-memory": self.host_memory,
            }
            what = "is only used with a device's memory; give --vram too"
            raise_faults([Fault(flag, what) for flag, value in others.items() if value is not None])
            return None
        host, on_host = tuple(self.host or known.host), self.host_memory or known.host_memory
        if on_host is not None and not host:
            raise InvalidInput(Fault("--host-memory", "is for which tensors? Name them with --host"))
        memory = parse_size(self.vram or known.vram or "")
        return MemoryTarget(memory, self.serving(settings), host, None if on_host is None else parse_size(on_host))

    def serving(self, settings: Settings) -> Serving:
        """The settings with which the model will run."""
        known = settings.memory
        keys, values = _cache_types(self.kv or known.kv or "f16")
        return Serving(
            context=parse_context(self.vram_context or known.context or "4096"),
            key_type=keys,
            value_type=values,
            sequences=self.parallel or known.parallel or 1,
            batch=self.batch or known.ubatch or 512,
            overhead=parse_size(self.overhead or known.overhead or "0B"),
        )


def _cache_types(text: str) -> tuple[QuantType, QuantType]:
    """The types of keys and values."""
    names = options.listed(text)
    if len(names) not in (1, 2):
        raise InvalidInput(Fault("--kv", f"{text!r}; give one type, or two with a comma: keys, values"))
    return quant_type(names[0]), quant_type(names[-1])


@dataclass(frozen=True)
class BaseOptions:
    """A base, and which tensors may move from it."""

    base: Annotated[
        str | None,
        _option(
            _BASE,
            "--base",
            metavar="BASE",
            help_text="Start from this: a mixture (Q4_K_M), a GGUF file, an allocation, overrides, a recipe.",
        ),
    ] = None
    overrides: Annotated[
        Path | None,
        _option(
            _BASE, "--overrides", metavar="FILE", help_text="A --tensor-type-file applied to the mixture of --base."
        ),
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
        list[Path] | None,
        _option(_BASE, "--domain", metavar="FILE", help_text="Importance of the domain's text, for the ratio."),
    ] = None
    general: Annotated[
        list[Path] | None,
        _option(_BASE, "--general", metavar="FILE", help_text="Importance of general text, for the ratio."),
    ] = None
    demote_below: options.DemoteBelow = 0.80
    promote_above: options.PromoteAbove = 1.10
    exo: Annotated[
        list[str] | None,
        _option(_BASE, "--exo", metavar="PATTERN", help_text="Tensors kept at F16; the price for the rest is shown."),
    ] = None
    architecture: Annotated[
        str | None,
        _option(
            _BASE, "--architecture", metavar="RULES", help_text="Rules on kinds of tensors: default, none, or a file."
        ),
    ] = None

    def base_spec(self, settings: Settings) -> BaseSpec:
        """The base spec from the flags; settings replace missing flags."""
        return BaseSpec(
            base=self.base or settings.base,
            overrides=self.overrides,
            counting=self.counting.value,
            moves=self.moves.value,
            domain=tuple(self.domain or ()),
            general=tuple(self.general or ()),
            thresholds=Thresholds(self.demote_below, self.promote_above),
            exo=(*settings.exo, *(self.exo or ())),
            architecture=self.architecture or settings.architecture or "none",
        )
