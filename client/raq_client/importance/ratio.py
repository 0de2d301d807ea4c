"""Importance ratio: activation levels of each tensor on a domain's text relative to general text (RA articles).

Definitions
- The level of a tensor on a text is its mean squared input over all tokens and columns (and experts), so the token
  counts of the two texts do not matter.
- The raw ratio is the domain's level over the general level. The ratio is the raw ratio divided by the median raw
  ratio of the distinct inputs, so that a domain with higher levels everywhere promotes nothing by that alone.
  Tensors that read the same input (q/k/v, gate/up) count once in that median.
- Ratios are averaged over groups of tensors as logarithms: a half and a double cancel.
- An interval needs several importance files of each text (of different parts of it). They are resampled with
  replacement (bootstrap); the interval is the middle 95 % of the resulting ratios. With one file there is no interval,
  because its noise is unknown.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Float64

from raq_client.importance.combining import merge
from raq_client.importance.imatrix import Importance
from raq_client.importance.statistics import tied_groups, zone_of
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.tensor_names import block_of, role_of

_DRAWS: Final = 1000
_SEED: Final = 20260701

Key = TypeVar("Key", bound=Hashable)


@unique
class Verdict(Enum):
    """What a ratio suggests for a tensor."""

    DEMOTE = "the domain drives it less than general text does"
    KEEP = "driven alike"
    PROMOTE = "the domain drives it more than general text does"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Ratios beyond which a tensor is a candidate. Raises InvalidInput unless they enclose 1."""

    demote_below: float
    promote_above: float

    def __post_init__(self) -> None:
        if not 0 < self.demote_below <= 1 <= self.promote_above:
            what = f"demote below {self.demote_below}, promote above {self.promote_above}: 1 must lie between them"
            raise InvalidInput(Fault("thresholds", what))

    def verdict(self, ratio: float) -> Verdict:
        """The verdict for a ratio.

        >>> Thresholds(0.8, 1.1).verdict(1.2).name
        'PROMOTE'
        """
        if ratio < self.demote_below:
            return Verdict.DEMOTE
        return Verdict.PROMOTE if ratio > self.promote_above else Verdict.KEEP


ARTICLES: Final = Thresholds(demote_below=0.80, promote_above=1.10)
"""The thresholds of the RA articles."""


@dataclass(frozen=True, slots=True)
class TensorRatio:
    """One tensor's ratio. `interval` is None without repeats; `tied` are the names of tensors with the same input.

    `certain`: whether the whole interval gives the same verdict; None without an interval.
    """

    name: str
    block: int
    zone: int
    role: str
    domain_level: float
    general_level: float
    raw: float
    ratio: float
    interval: tuple[float, float] | None
    verdict: Verdict
    certain: bool | None
    tied: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class RatioReport:
    """The ratios of all tensors with a level above 0 on both texts.

    `scale` is the median raw ratio, by which all are divided; `inputs` is the number of distinct inputs.
    """

    rows: tuple[TensorRatio, ...]
    scale: float
    inputs: int
    only_domain: tuple[str, ...]
    only_general: tuple[str, ...]

    @property
    def demote(self) -> tuple[str, ...]:
        """Candidates for fewer bits, lowest ratio first."""
        return self._of(Verdict.DEMOTE)

    @property
    def promote(self) -> tuple[str, ...]:
        """Candidates for more bits, highest ratio first."""
        return self._of(Verdict.PROMOTE)[::-1]

    def grouped(self, key: Callable[[TensorRatio], Key]) -> Mapping[Key, float]:
        """Geometric means over groups of tensors: by block, zone, role or any other key."""
        groups: dict[Key, list[float]] = {}
        for row in self.rows:
            groups.setdefault(key(row), []).append(math.log(row.ratio))
        return MappingProxyType({name: math.exp(math.fsum(logs) / len(logs)) for name, logs in groups.items()})

    def _of(self, verdict: Verdict) -> tuple[str, ...]:
        rows = sorted((row for row in self.rows if row.verdict is verdict), key=lambda row: row.ratio)
        return tuple(row.name for row in rows)


def importance_ratio(
    domain: Sequence[Importance], general: Sequence[Importance], thresholds: Thresholds = ARTICLES
) -> RatioReport:
    """Compare the importance of a domain with that of general text, each given by one or more files.

    Raises InvalidInput if the files do not belong to one model or share no tensor.
    """
    merged = merge(domain), merge(general)
    names = [name for name in merged[0].entries if name in merged[1].entries]
    names = [name for name in names if all(_level(part, name) > 0 for part in merged)]
    _check(merged, names)
    representatives = _representatives(merged, names)
    raw = np.array([_level(merged[0], name) / _level(merged[1], name) for name in names])
    # One vote per distinct input: q, k and v read the same input and would otherwise count three times.
    scale = float(np.median(raw[representatives]))
    intervals = _intervals(domain, general, names, representatives)
    ties = tied_groups(merged[0])
    rows = []
    for index, name in enumerate(names):
        ratio = float(raw[index]) / scale
        interval = None if intervals is None else (float(intervals[0, index]), float(intervals[1, index]))
        verdict = thresholds.verdict(ratio)
        rows.append(
            TensorRatio(
                name=name,
                block=block_of(name),
                zone=zone_of(name),
                role=role_of(name),
                domain_level=_level(merged[0], name),
                general_level=_level(merged[1], name),
                raw=float(raw[index]),
                ratio=ratio,
                interval=interval,
                verdict=verdict,
                certain=None if interval is None else all(thresholds.verdict(end) is verdict for end in interval),
                tied=tuple(other for other in ties[name] if other != name),
            )
        )
    rows.sort(key=lambda row: (row.block, row.name))
    only = [tuple(name for name in part.entries if name not in set(names)) for part in merged]
    return RatioReport(tuple(rows), scale, len(representatives), *only)


def _level(importance: Importance, name: str) -> float:
    """Mean squared input over tokens and columns."""
    entry = importance.entries[name]
    tokens = float(entry.counts.sum(dtype=np.float64))
    columns = entry.sums.size // entry.counts.size
    return float(entry.sums.sum(dtype=np.float64)) / (tokens * columns) if tokens else 0.0


def _check(merged: tuple[Importance, Importance], names: Sequence[str]) -> None:
    faults = []
    for name in names:
        sizes = [part.entries[name].sums.size for part in merged]
        if sizes[0] != sizes[1]:
            faults.append(Fault(name, f"{sizes[0]} values in the domain, {sizes[1]} in general: two models?"))
    if not names:
        faults.append(Fault("", "the two importances share no tensor: are they of one model?"))
    raise_faults(faults)


def _representatives(merged: tuple[Importance, Importance], names: Sequence[str]) -> list[int]:
    """The index of one tensor for each distinct input."""
    first: dict[tuple[tuple[str, ...], ...], int] = {}
    groups = [tied_groups(part) for part in merged]
    for index, name in enumerate(names):
        # Tensors share an input only if their sums agree in both texts; in one they may agree by chance.
        first.setdefault(tuple(group[name] for group in groups), index)
    return list(first.values())


def _intervals(
    domain: Sequence[Importance], general: Sequence[Importance], names: Sequence[str], representatives: list[int]
) -> Float64[np.ndarray, "2 tensors"] | None:
    """The middle 95 % of the ratios of resampled files, or None if one side has only one file."""
    if min(len(domain), len(general)) < 2:
        return None
    random = np.random.default_rng(_SEED)
    levels = [_drawn_levels(parts, names, random) for parts in (domain, general)]
    # A resampled text may lack a tensor (an expert reached in only one part): 0/0, which the nan functions skip.
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = levels[0] / levels[1]
        ratios = raw / np.nanmedian(raw[:, representatives], axis=1, keepdims=True)
    interval: Float64[np.ndarray, "2 tensors"] = np.nanquantile(ratios, [0.025, 0.975], axis=0)
    return interval


def _drawn_levels(
    parts: Sequence[Importance], names: Sequence[str], random: np.random.Generator
) -> Float64[np.ndarray, "draws tensors"]:
    sums = np.zeros((len(parts), len(names)))
    tokens = np.zeros_like(sums)
    for row, part in enumerate(parts):
        for column, name in enumerate(names):
            entry = part.entries.get(name)
            if entry is not None:
                sums[row, column] = entry.sums.sum(dtype=np.float64) / (entry.sums.size // entry.counts.size)
                tokens[row, column] = entry.counts.sum(dtype=np.float64)
    # Drawing files with replacement is the same as drawing how often each one occurs.
    times = random.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=_DRAWS)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (times @ sums) / (times @ tokens)
