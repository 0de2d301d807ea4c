"""Profiles ⇄ messages."""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_proto.convert.packed import Doubles, put_doubles
from raq_proto.question import StoredProfile
from raq_proto.v1 import profile_pb2, profile_service_pb2
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.profile import FisherLosses, Profile
from raq_solver.quant_types import INPUT_BLOCKS, QuantType, stored_type
from raq_solver.tensors import Tensor

_MOST_WEIGHTS: Final = 2**48
"""Most weights of one tensor: its sizes then stay within the whole numbers that a double holds exactly."""
_MOST_DIMENSIONS: Final = 4
"""As in ggml."""
_UNKNOWN_NAMED: Final = 20


def profile_to_proto(profile: Profile, message: profile_pb2.Profile | None = None) -> profile_pb2.Profile:
    """Profile to message: the given one, or a new one."""
    message = profile_pb2.Profile() if message is None else message
    for tensor in profile.tensors:
        message.tensors.add(name=tensor.name, shape=tensor.shape, source_type=tensor.source_type.name)
    message.quant_types.extend(q.name for q in profile.quant_types)
    message.provenance.update(profile.provenance)
    put_doubles(
        message,
        relative_errors=profile.relative_errors,
        energies=profile.energies,
        sensitivities=profile.sensitivities,
        sensitivity_errors=profile.sensitivity_errors,
    )
    if profile.sampling_errors is not None:
        put_doubles(message, sampling_errors=profile.sampling_errors)
    if profile.fisher is not None:
        put_doubles(message, fisher_losses=profile.fisher.losses, fisher_energies=profile.fisher.energies)
        if profile.fisher.inputs is not None:
            put_doubles(message, fisher_inputs=profile.fisher.inputs)
    return message


def profile_from_proto(message: profile_pb2.Profile) -> Profile:
    """Message to profile."""
    shape = len(message.tensors), len(message.quant_types)
    inputs = shape[0] * len(INPUT_BLOCKS) if message.fisher_inputs else 0
    faults = [
        Fault(f"profile.{name}", f"has {count} numbers; {shape[0]} tensors x {shape[1]} quant types need {needed}")
        for name, count, needed in (
            ("relative_errors", len(message.relative_errors), shape[0] * shape[1]),
            ("energies", len(message.energies), shape[0]),
            ("sensitivities", len(message.sensitivities), shape[0]),
            ("sensitivity_errors", len(message.sensitivity_errors), shape[0]),
            ("sampling_errors", len(message.sampling_errors), shape[0] * shape[1] if message.sampling_errors else 0),
            ("fisher_losses", len(message.fisher_losses), shape[0] * shape[1] if message.fisher_losses else 0),
            ("fisher_energies", len(message.fisher_energies), shape[0] if message.fisher_losses else 0),
            ("fisher_inputs", len(message.fisher_inputs), inputs if message.fisher_losses else 0),
        )
        if count != needed
    ]
    if not all(shape):
        faults.append(Fault("profile", "has no tensors" if not shape[0] else "has no quant types"))
    known = _types([*(each.source_type for each in message.tensors), *message.quant_types], faults)
    tensors = tuple(filter(None, (_tensor(each, known, faults) for each in message.tensors)))
    types = tuple(known[name] for name in message.quant_types if name in known)
    faults += [
        Fault("profile.energies", f"holds {energy}; must be finite and at least 0")
        for energy in message.energies
        if not 0 <= energy < math.inf
    ]
    raise_faults(faults)
    packed = Doubles(message)
    return Profile(
        tensors=tensors,
        quant_types=types,
        relative_errors=_numbers(packed, "relative_errors").reshape(shape),
        energies=_numbers(packed, "energies"),
        sensitivities=_numbers(packed, "sensitivities"),
        sensitivity_errors=_numbers(packed, "sensitivity_errors"),
        provenance=dict(message.provenance),
        sampling_errors=_numbers(packed, "sampling_errors").reshape(shape) if message.sampling_errors else None,
        fisher=_fisher(packed, shape) if message.fisher_losses else None,
    )


def _fisher(packed: Doubles, shape: tuple[int, int]) -> FisherLosses:
    inputs = _numbers(packed, "fisher_inputs").reshape(-1, len(INPUT_BLOCKS))
    losses = _numbers(packed, "fisher_losses").reshape(shape)
    return FisherLosses(losses, _numbers(packed, "fisher_energies"), inputs if inputs.size else None)


def stored_to_proto(stored: StoredProfile) -> profile_service_pb2.ProfileInfo:
    """Stored profile to message."""
    message = profile_service_pb2.ProfileInfo(
        digest=stored.digest,
        tensors=stored.tensors,
        weights=stored.weights,
        quant_types=stored.quant_types,
        provenance=stored.provenance,
        size_bytes=stored.size_bytes,
    )
    message.created.FromDatetime(stored.created)
    message.used.FromDatetime(stored.used)
    return message


def stored_from_proto(message: profile_service_pb2.ProfileInfo) -> StoredProfile:
    """Message to stored profile."""
    return StoredProfile(
        digest=message.digest,
        tensors=message.tensors,
        weights=message.weights,
        quant_types=tuple(message.quant_types),
        provenance=dict(message.provenance),
        size_bytes=message.size_bytes,
        created=message.created.ToDatetime(UTC),
        used=message.used.ToDatetime(UTC),
    )


def _numbers(packed: Doubles, field: str) -> Float64[np.ndarray, " numbers"]:
    numbers = packed[field]
    numbers[np.isnan(numbers)] = np.nan  # one bit pattern: the digest is over bits
    return numbers


def _tensor(message: profile_pb2.Tensor, known: Mapping[str, QuantType], faults: list[Fault]) -> Tensor | None:
    shape = tuple(message.shape)
    if len(shape) > _MOST_DIMENSIONS:
        what = f"has {len(shape)} dimensions; at most {_MOST_DIMENSIONS} are supported"
        faults.append(Fault(message.name or "tensor", what))
        return None
    if not shape or min(shape) < 1 or math.prod(shape) > _MOST_WEIGHTS:
        what = f"has the shape {shape}; needs positive numbers, at most 2^48 weights in all"
        faults.append(Fault(message.name or "tensor", what))
        return None
    source = known.get(message.source_type)
    return None if source is None else Tensor(message.name, shape, source)


def _types(names: Iterable[str], faults: list[Fault]) -> dict[str, QuantType]:
    """The types of these names. Of unknown ones the first are faults: looking for known names like them takes time."""
    found: dict[str, QuantType] = {}
    unknown = 0
    for name in dict.fromkeys(names):
        try:
            found[name] = stored_type(name)
        except InvalidInput as error:
            faults += error.faults
            unknown += 1
            if unknown == _UNKNOWN_NAMED:
                break
    return found
