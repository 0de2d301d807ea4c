"""Per-tensor measurements of real models, as data for a fit.

By Thireus, GGUF Tool Suite and its contributors (https://github.com/Thireus/GGUF-Tool-Suite): mean KL divergence of
the whole model when one tensor, or one bundle of tensors, is of one low type.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raq_client.quantizing.reference_errors import error_of_published
from raq_client.sensitivity.published import BUNDLES, read_published
from raq_solver.loss_models.role_prior import last_block
from raq_solver.tensor_names import block_of, role_of

FLOOR_PERCENTILE = 1.0
OWN_NOISE = 0.1
"""Standard error of raq's own measurements of a middling tensor."""
LEAST_BLOCKS = 8
"""Blocks that a role must have for its scatter from block to block to tell the noise."""


@dataclass(frozen=True, eq=False)
class Published:
    """One model. `values[i]` is the KL divergence of the tensors `groups[i]` together, nats per token.

    `error` is the relative error of the low type, `most_floor` the lowest value less a per cent of them, `noise` the
    scatter from block to block of the role where it is least: an upper bound on what repeats by chance.
    """

    name: str
    tensors: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    values: np.ndarray
    error: float
    most_floor: float
    noise: float

    @property
    def experts(self) -> bool:
        return any("_exps." in name for name in self.tensors)

    @property
    def tied(self) -> bool:
        return "output.weight" not in self.tensors


def published_models(folder: Path) -> list[Published]:
    """All instance files of a folder, by name."""
    return [_read(path) for path in sorted(folder.glob("*.npz"))]


def own_models(folder: Path) -> list[Published]:
    """The project's models, from tables of the same form (tests/data/SOURCES.md). Changing nothing gives 0 there."""
    found = []
    for path in sorted(folder.glob("*.q3_k.kld.csv")):
        table = read_published(path)
        (values,) = table.values
        error = error_of_published("Q3_K")
        assert error is not None
        groups = tuple((name,) for name in table.tensors)
        noise = OWN_NOISE * float(np.median(values))
        found.append(Published(path.name.split(".")[0], table.tensors, groups, values, error, noise / 10, noise))
    return found


def _read(path: Path) -> Published:
    with np.load(path) as data:
        names = tuple(str(name) for name in data["tensors"])
        alone = data["sens"].astype(float)
        error = error_of_published(str(data["ref"]))
    assert error is not None
    last = last_block(names)
    together: dict[tuple[int, float], list[str]] = defaultdict(list)
    for name, value in zip(names, alone.tolist(), strict=True):
        # An exact zero is a tensor that the run never used, as are blocks past the stack and what serves only them.
        if np.isfinite(value) and value > 0 and block_of(name) <= last and "indexer." not in name:
            together[block_of(name), value].append(name)
    groups: list[tuple[str, ...]] = []
    values: list[float] = []
    for (block, value), members in together.items():
        roles = {role_of(name) for name in members}
        one = block >= 0 and len(members) > 1 and any(roles <= bundle for bundle in BUNDLES)
        parts = [tuple(members)] if one else [(name,) for name in members]
        groups += parts
        values += [value] * len(parts)
    found = np.array(values)
    floor = float(np.percentile(found, FLOOR_PERCENTILE))
    return Published(path.stem, names, tuple(groups), found, error, floor, _noise(groups, found))


def _noise(groups: list[tuple[str, ...]], values: np.ndarray) -> float:
    by_role: dict[str, dict[int, float]] = defaultdict(dict)
    for group, value in zip(groups, values.tolist(), strict=True):
        block, role = block_of(group[0]), role_of(group[0])
        if block >= 0:
            by_role[role][block] = value
    series = [[blocks[b] for b in sorted(blocks)] for blocks in by_role.values() if len(blocks) >= LEAST_BLOCKS]
    return min(float(1.4826 * np.median(np.abs(np.diff(each))) / np.sqrt(2)) for each in series)
