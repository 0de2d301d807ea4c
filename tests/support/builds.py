"""Build recipes on small models, for tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from raq_client.building.build import Built, HowToBuild, build
from raq_client.building.workshop import Workshop
from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.imatrix_file import write_importance
from raq_client.models.model_file import open_model
from raq_client.models.quantizable import is_quantizable
from raq_client.recipes.build_recipe import FORMAT, BuildRecipe, read_build_recipe
from raq_client.solver_client.local import LocalSolver
from support.gguf_files import small_model

TYPES = ["Q8_0", "Q6_K", "Q4_K", "Q3_K"]


def project(folder: Path, seed: int = 0) -> Path:
    """A folder with a model of random weights and importance for it."""
    folder.mkdir(parents=True, exist_ok=True)
    small_model(folder / "small.gguf", seed=seed)
    small_importance(folder / "small.gguf", folder / "imatrix.gguf", seed)
    return folder


def small_importance(model: Path, path: Path, seed: int = 0, **scales: float) -> Path:
    """Random importance for a model; `scales` multiply that of tensors whose name contains a key (`blk_1`: blk.1)."""
    rng = np.random.default_rng(seed)
    entries = {}
    for tensor in open_model(model).tensors:
        if is_quantizable(tensor) and tensor.name.startswith("blk."):
            scale = next((value for key, value in scales.items() if key.replace("_", ".") in tensor.name), 1.0)
            sums = scale * rng.uniform(0.5, 2.0, tensor.matrices * tensor.row_length)
            entries[tensor.name] = Entry(sums.astype(np.float32), np.ones(tensor.matrices, np.float32))
    write_importance(Importance(entries, ("made",), 1, 512), path, force=True)
    return path


def recipe(folder: Path, name: str = "small", /, **keys: Any) -> Path:
    """A recipe file in a project's folder; `keys` are added to, or replace, a budget, types and rows to measure."""
    given = {"budget": "5.0", "imatrix": ["imatrix.gguf"], "types": TYPES, "rows": 8} | keys
    data = {"format": FORMAT, "name": name, "model": "small.gguf", "output": {"file": f"{name}.out.gguf"}} | given
    path = folder / f"{name}.json"
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}), encoding="utf-8")
    return path


def read(folder: Path, name: str = "small", /, **keys: Any) -> BuildRecipe:
    """The same, read."""
    return read_build_recipe(recipe(folder, name, **keys))


def built(given: BuildRecipe, store: Path, *, force: bool = False, reuse: bool = True, most: int = 2**40) -> Built:
    """A recipe built in this process, with a store of its own."""
    how = HowToBuild(Workshop(store, most, cached=False), threads=1, force=force, reuse=reuse)
    return build(given, how, LocalSolver())
