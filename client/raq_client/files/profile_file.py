"""Read and write profiles as JSON files.

An infinite relative error (the type is not possible) is null, and so is a sensitivity that was not measured.
Standard errors of the relative errors are present if only a sample of the rows was measured, and levels of Fisher
information by window if the importance file has them.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raq_client.files.atomic_file import atomic_file
from raq_client.files.names import readable
from raq_client.files.reading import check_itself, read_bytes
from raq_client.files.validation import faults_of
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.profile import FisherLevels, FisherLosses, Profile
from raq_solver.quant_types import INPUT_BLOCKS, stored_type
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
    fisher_inputs: tuple[Finite | None, ...] | None = None
    fisher_levels: tuple[Finite, ...] | None = None


class _Window(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    weight: Finite


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["raq-profile-1"]
    quant_types: tuple[str, ...]
    provenance: dict[str, str]
    tensors: tuple[_Row, ...]
    fisher_windows: tuple[_Window, ...] | None = None


def save_profile(profile: Profile, path: Path, *, force: bool = False) -> None:
    """Write a profile. Raises InvalidInput if the file exists and `force` is not given, or can't be written."""
    sampled, levels = profile.sampling_errors, profile.levels
    rows = zip(
        profile.tensors,
        profile.relative_errors,
        profile.energies,
        profile.sensitivities,
        profile.sensitivity_errors,
        [None] * len(profile.tensors) if sampled is None else sampled.tolist(),
        [{}] * len(profile.tensors) if profile.fisher is None else _fisher_rows(profile.fisher),
        [None] * len(profile.tensors) if levels is None else levels.levels.tolist(),
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
                fisher_levels=of_windows,
                **fisher,
            )
            for tensor, errors, energy, sensitivity, error, sampling_errors, fisher, of_windows in rows
        ),
        fisher_windows=None if levels is None else _windows(levels),
    )
    with atomic_file(path, force=force) as file:
        file.write(content.model_dump_json(indent=1).encode() + b"\n")


def load_profile(path: Path) -> Profile:
    """Read a profile. Raises InvalidInput with every fault of the file."""
    try:
        data = read_bytes(path, "a raq profile")
        check_itself(data, path)
        content = _File.model_validate_json(data)
    except ValidationError as error:
        raise InvalidInput(faults_of(error, str(path), "a raq profile")) from None
    raise_faults(_disagreements(content, path))
    rows, width = content.tensors, len(content.quant_types)
    sampled = [row.sampling_errors for row in rows if row.sampling_errors is not None]
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
        fisher=_fisher(rows),
        levels=_levels(rows, content.fisher_windows),
    )


def _disagreements(content: _File, path: Path) -> list[Fault]:
    """Rows whose numbers of values are not those that the file states."""
    rows, width = content.tensors, len(content.quant_types)
    faults = [
        Fault(f"{path}: {row.name}", f"has {len(row.relative_errors)} errors for {width} quant types")
        for row in rows
        if len(row.relative_errors) != width
    ]
    scales = f"scales of {' and '.join(map(str, INPUT_BLOCKS))} inputs"
    for name, needed, of in (
        ("sampling_errors", width, f"the {width} quant types"),
        ("fisher_losses", width, f"the {width} quant types"),
        ("fisher_inputs", len(INPUT_BLOCKS), scales),
    ):
        counts = {None if (values := getattr(row, name)) is None else len(values) for row in rows}
        if counts - {None} and counts != {needed}:
            faults.append(Fault(str(path), f"some tensor lacks {name} for {of}"))
    if any(row.fisher_losses is None and row.fisher_inputs is not None for row in rows):
        faults.append(Fault(str(path), "has fisher_inputs, but no fisher_losses that they belong to"))
    windows = None if content.fisher_windows is None else len(content.fisher_windows)
    if {None if row.fisher_levels is None else len(row.fisher_levels) for row in rows} - {windows}:
        what = f"some tensor has no fisher_levels for the {windows or 0} windows that it names"
        faults.append(Fault(str(path), what))
    return faults


def _fisher(rows: tuple[_Row, ...]) -> FisherLosses | None:
    losses = [row.fisher_losses for row in rows if row.fisher_losses is not None]
    if not losses:
        return None
    inputs = [row.fisher_inputs for row in rows if row.fisher_inputs is not None]
    return FisherLosses(
        _with_nan(losses),
        np.array([_or_nan(row.fisher_energy) for row in rows], dtype=np.float64),
        _with_nan(inputs) if inputs else None,
    )


def _levels(rows: tuple[_Row, ...], windows: tuple[_Window, ...] | None) -> FisherLevels | None:
    if not windows:
        return None
    return FisherLevels(
        np.array([row.fisher_levels for row in rows], dtype=np.float64).reshape(len(rows), len(windows)),
        tuple(window.text for window in windows),
        np.array([window.weight for window in windows]),
    )


def _windows(levels: FisherLevels) -> tuple[_Window, ...]:
    weighted = zip(levels.texts, levels.weights.tolist(), strict=True)
    return tuple(_Window(text=text, weight=weight) for text, weight in weighted)


def _fisher_rows(fisher: FisherLosses) -> list[dict[str, Any]]:
    """The fields of each tensor's row that hold Fisher information."""
    count = len(fisher.energies)
    inputs = [None] * count if fisher.inputs is None else map(_or_nulls, fisher.inputs)
    rows = zip(map(_or_nulls, fisher.losses), _or_nulls(fisher.energies), inputs, strict=True)
    return [{"fisher_losses": losses, "fisher_energy": energy, "fisher_inputs": own} for losses, energy, own in rows]


def _or_nulls(values: Float64[np.ndarray, " values"]) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(value) else value for value in values.tolist())


def _with_nan(rows: Sequence[Sequence[float | None]]) -> Float64[np.ndarray, "rows values"]:
    return np.array([[_or_nan(value) for value in row] for row in rows], dtype=np.float64)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
