"""Read and write profiles as JSON files.

An infinite relative error (the type is not possible) is null, and so is a sensitivity that was not measured.
Standard errors of the relative errors are present if only a sample of the rows was measured.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raq_client.files.atomic_file import atomic_file
from raq_client.files.names import readable
from raq_client.files.reading import read_bytes
from raq_client.files.validation import faults_of
from raq_solver.errors import Fault, InvalidInput
from raq_solver.profile import FisherLosses, Profile
from raq_solver.quant_types import stored_type
from raq_solver.tensors import Tensor

FORMAT: Final = "raq-profile-1"

Finite = Annotated[float, Field(allow_inf_nan=False, ge=0)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    shape: tuple[Annotated[int, Field(gt=0)], ...] = Field(min_length=1)
    source_type: str
    relative_errors: tuple[Finite | None, ...]
    energy: Finite
    sensitivity: Finite | None = None
    sensitivity_error: Finite | None = None
    sampling_errors: tuple[Finite, ...] | None = None
    fisher_losses: tuple[Finite | None, ...] | None = None
    fisher_energy: Finite | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["raq-profile-1"]
    quant_types: tuple[str, ...]
    provenance: dict[str, str]
    tensors: tuple[_Row, ...]


def save_profile(profile: Profile, path: Path, *, force: bool = False) -> None:
    """Write a profile. Raises InvalidInput if the file exists and `force` is not given, or can't be written."""
    sampled = profile.sampling_errors
    rows = zip(
        profile.tensors,
        profile.relative_errors,
        profile.energies,
        profile.sensitivities,
        profile.sensitivity_errors,
        [None] * len(profile.tensors) if sampled is None else sampled.tolist(),
        [(None, None)] * len(profile.tensors) if profile.fisher is None else _fisher_rows(profile.fisher),
        strict=True,
    )
    content = _File(
        format=FORMAT,
        quant_types=tuple(q.name for q in profile.quant_types),
        provenance={name: readable(text) for name, text in profile.provenance.items()},
        tensors=tuple(
            _Row(
                name=tensor.name,
                shape=tensor.shape,
                source_type=tensor.source_type.name,
                relative_errors=tuple(float(e) if np.isfinite(e) else None for e in errors),
                energy=float(energy),
                sensitivity=None if np.isnan(sensitivity) else float(sensitivity),
                sensitivity_error=None if np.isnan(error) else float(error),
                sampling_errors=sampling_errors,
                fisher_losses=fisher_losses,
                fisher_energy=fisher_energy,
            )
            for tensor, errors, energy, sensitivity, error, sampling_errors, (fisher_losses, fisher_energy) in rows
        ),
    )
    with atomic_file(path, force=force) as file:
        file.write(content.model_dump_json(indent=1).encode() + b"\n")


def load_profile(path: Path) -> Profile:
    """Read a profile. Raises InvalidInput with every fault of the file."""
    try:
        content = _File.model_validate_json(read_bytes(path, "a raq profile"))
    except ValidationError as error:
        raise InvalidInput(faults_of(error, str(path), "a raq profile")) from None
    rows = content.tensors
    width = len(content.quant_types)
    faults = [
        Fault(f"{path}: {row.name}", f"has {len(row.relative_errors)} errors for {width} quant types")
        for row in rows
        if len(row.relative_errors) != width
    ]
    sampled = [row.sampling_errors for row in rows if row.sampling_errors is not None]
    if sampled and (len(sampled) < len(rows) or {len(each) for each in sampled} != {width}):
        faults.append(Fault(str(path), f"some tensor lacks sampling_errors for the {width} quant types"))
    fisher = [row.fisher_losses for row in rows if row.fisher_losses is not None]
    if fisher and (len(fisher) < len(rows) or {len(each) for each in fisher} != {width}):
        faults.append(Fault(str(path), f"some tensor lacks fisher_losses for the {width} quant types"))
    if faults:
        raise InvalidInput(faults)
    return Profile(
        tensors=tuple(Tensor(row.name, row.shape, stored_type(row.source_type)) for row in rows),
        quant_types=tuple(stored_type(name) for name in content.quant_types),
        relative_errors=np.array(
            [[np.inf if e is None else e for e in row.relative_errors] for row in rows], dtype=np.float64
        ).reshape(len(rows), width),
        energies=np.array([row.energy for row in rows], dtype=np.float64),
        sensitivities=np.array([_or_nan(row.sensitivity) for row in rows], dtype=np.float64),
        sensitivity_errors=np.array([_or_nan(row.sensitivity_error) for row in rows], dtype=np.float64),
        provenance=content.provenance,
        sampling_errors=np.array(sampled, dtype=np.float64) if sampled else None,
        fisher=FisherLosses(
            np.array([[_or_nan(loss) for loss in each] for each in fisher], dtype=np.float64),
            np.array([_or_nan(row.fisher_energy) for row in rows], dtype=np.float64),
        )
        if fisher
        else None,
    )


def _fisher_rows(fisher: FisherLosses) -> list[tuple[tuple[float | None, ...], float | None]]:
    return [
        (tuple(None if np.isnan(loss) else float(loss) for loss in losses), None if np.isnan(energy) else float(energy))
        for losses, energy in zip(fisher.losses, fisher.energies, strict=True)
    ]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
