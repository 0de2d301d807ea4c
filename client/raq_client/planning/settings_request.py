"""The request in a file of settings: raq.toml or a build recipe, without any flags."""

from raq_client.files.settings import MemorySettings, Settings
from raq_client.planning.constraint_options import ConstraintSpec
from raq_client.planning.memory_budget import Serving, parse_context, parse_size
from raq_client.planning.memory_target import MemoryTarget
from raq_client.planning.request import BaseSpec, Request
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import QuantType, quant_type


def request_of(settings: Settings, base: BaseSpec | None = None) -> Request:
    """The request that settings make; `base` replaces what they say of a base.

    Raises InvalidInput for a memory that can't be read, or is only half given.
    """
    plain = BaseSpec(base=settings.base, exo=settings.exo, architecture=settings.architecture or "none")
    return Request(
        budget=settings.budget,
        loss=settings.loss,
        constraints=constraints_of(settings),
        base=base or plain,
        memory=_memory(settings.memory),
    )


def constraints_of(settings: Settings) -> ConstraintSpec:
    """The constraints in settings."""
    return ConstraintSpec(
        pin=settings.pin,
        floor=settings.floor,
        ceiling=settings.ceiling,
        exclude=settings.exclude,
        tie=settings.tie,
        at_most=settings.at_most,
        region=settings.region,
        monotone=settings.monotone,
        distinct_types=settings.distinct_types,
        active_bytes=settings.active_bytes,
        experts_used=settings.experts_used,
    )


def _memory(given: MemorySettings) -> MemoryTarget | None:
    if given.vram is None:
        if given != MemorySettings():
            raise InvalidInput(Fault("memory", "is only used with a device's memory; give vram too"))
        return None
    if given.host_memory is not None and not given.host:
        raise InvalidInput(Fault("memory.host_memory", "is for which tensors? Name them with host"))
    keys, values = _cache_types(given.kv or "f16")
    serving = Serving(
        context=parse_context(given.context or "4096"),
        key_type=keys,
        value_type=values,
        sequences=given.parallel or 1,
        batch=given.ubatch or 512,
        overhead=parse_size(given.overhead or "0B"),
    )
    on_host = None if given.host_memory is None else parse_size(given.host_memory)
    return MemoryTarget(parse_size(given.vram), serving, tuple(given.host), on_host)


def _cache_types(text: str) -> tuple[QuantType, QuantType]:
    """The types of keys and values: one for both, or two with a comma."""
    names = [part.strip() for part in text.split(",")]
    if len(names) not in (1, 2):
        raise InvalidInput(Fault("memory.kv", f"{text!r}; give one type, or two with a comma: keys, values"))
    return quant_type(names[0]), quant_type(names[-1])
