"""Knapsacks from real models, and made ones of any size.

The real ones are built on measurements of Thireus' GGUF Tool Suite (https://github.com/Thireus/GGUF-Tool-Suite) by
Thireus and its contributors: loss = sensitivity of a tensor × whole-model loss of a type.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raq_solver.knapsack import Knapsack

BUDGETS = (10, 25, 40, 60, 80)
"""Per cent of the way from the smallest size to the size past which nothing gets better."""


@dataclass(frozen=True, eq=False)
class Instance:
    """A table of one model; `note` says what was filled in."""

    name: str
    sizes: np.ndarray
    losses: np.ndarray
    note: str

    def at(self, per_cent: float) -> Knapsack:
        """The knapsack at a budget."""
        least = int(np.where(np.isfinite(self.losses), self.sizes, 1 << 60).min(axis=1).sum())
        best = self.losses == self.losses.min(axis=1, keepdims=True)
        most = int(np.where(best, self.sizes, 1 << 60).min(axis=1).sum())
        return Knapsack(self.sizes, self.losses, least + int((most - least) * per_cent // 100))


def real(path: Path) -> Instance:
    """One instance file. Types without a value (NaN) are left out; a tensor that was not measured (NaN, upstream's 404)
    gets the median of the measured tensors of its role, else of all; one that has one size throughout is fixed."""
    with np.load(path) as data:
        sizes, sensitivity, curve = data["bytes"], data["sens"].astype(float), data["curve"]
        roles = np.array([re.sub(r"blk\.\d+\.", "", name) for name in data["tensors"]])
    known = np.isfinite(curve)
    sizes, curve = sizes[:, known], curve[known]
    free = sizes.max(axis=1) != sizes.min(axis=1)
    measured = np.isfinite(sensitivity)
    filled = np.flatnonzero(free & ~measured)
    for row in filled:
        alike = measured & (roles == roles[row])
        sensitivity[row] = np.median(sensitivity[alike if alike.any() else measured])
    losses = np.where(free, sensitivity, 0.0)[:, None] * curve
    losses[~free, 1:] = np.inf
    note = f"{int((~known).sum())} types left out, {filled.size} of {int(free.sum())} sensitivities filled in"
    return Instance(path.stem, sizes.astype(np.int64), np.where(np.isnan(losses), 0.0, losses), note)


def real_instances(folder: Path) -> Iterator[Instance]:
    """All instance files of a folder, by name."""
    return (real(path) for path in sorted(folder.glob("*.npz")))


def made(tensors: int, types: int, seed: int = 0, *, few_sizes: bool = True) -> Instance:
    """A table as of a language model: few distinct, large sizes (else random ones), losses that fall with bits."""
    rng = np.random.default_rng(seed)
    bits = np.round(np.sort(rng.uniform(1.5, 16, types)) * 32) / 32
    shapes = np.array([4096 * 4096, 4096 * 14336, 4096 * 1024, 14336 * 4096 * 8])
    weights = rng.choice(shapes, tensors) if few_sizes else rng.lognormal(16, 1.5, tensors)
    unit = 256 if few_sizes else 1
    sizes = np.round(weights[:, None] * bits / 8 / unit).astype(np.int64) * unit
    losses = np.exp(rng.normal(0, 1.5, (tensors, 1))) * 4.0**-bits * np.exp(rng.normal(0, 0.15, (tensors, types)))
    return Instance(f"made {tensors} × {types}", sizes, losses, "random")
