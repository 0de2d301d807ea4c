"""Do predicted losses rank real recipes as their measured perplexities do?

Published recipes of Thireus' GGUF Tool Suite and its contributors (https://github.com/Thireus/GGUF-Tool-Suite) with
measured perplexity, and their measurements per tensor and per type. A pair of recipes of one model counts if their
bits per weight differ by less than 2 % and their ln(perplexity) by more than 0.004; a loss is right about a pair if it
is lower where perplexity is. The loss with exponents is judged on each model by those chosen on all others. Run:

    pytest -m bench -s tests/bench/bench_ranking.py
"""

import gzip
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from machine import header

from raq_client.model_tables import role_of
from raq_client.reference_errors import error_of_published
from raq_client.sensitivity_fit import Evaluation, fit_sensitivities

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

FAMILY = {"Qwen3.8-27B": "Qwen3.6-27B", "Qwen3.5-27B": "Qwen3.6-27B"}
"""Models of the same shapes, whose measurements stand in for missing ones; never trained on for one another."""
SAME_SIZE, LEAST_RISE = 0.02, 0.004
PEERS_BEST = 0.805
"""Best pairwise accuracy found among other programs' losses, on 149 pairs of 216 recipes not all published here."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """One recipe: rows and columns of the model's instance, and what was measured of it."""

    tensors: np.ndarray
    types: np.ndarray
    bits: float
    log_perplexity: float


@dataclass(frozen=True, eq=False)
class Facts:
    """What was published of a model: weights and KL divergence of each tensor, KL divergence of each type."""

    names: list[str]
    weights: np.ndarray
    alone: np.ndarray
    curve: np.ndarray
    reference: np.ndarray

    def of_role(self) -> np.ndarray:
        """The mean KL divergence of the tensors of each tensor's role."""
        groups = defaultdict(list)
        for name, value in zip(self.names, self.alone, strict=True):
            if np.isfinite(value):
                groups[role_of(name)].append(value)
        means = {role: float(np.mean(values)) for role, values in groups.items()}
        return filled(np.array([means.get(role_of(name), np.nan) for name in self.names]))

    def fitted(self) -> np.ndarray:
        """Less the floor, and shrunk towards role and depth as raq does with imported tables."""
        known = np.isfinite(self.alone) & (self.alone > 0)
        names = [name for name, use in zip(self.names, known, strict=True) if use]
        values = self.alone[known]
        floor = float(np.percentile(values, 1))
        runs = [Evaluation((name,), (1.0,), value, floor) for name, value in zip(names, values.tolist(), strict=True)]
        found = np.full(len(self.names), np.nan)
        found[known] = fit_sensitivities(names, runs, floor).values
        return filled(found)


Loss = Callable[[Facts], tuple[np.ndarray, np.ndarray]]
"""A weight for each tensor and an error for each type: the loss of a recipe is the sum of their products."""
LOSSES: Mapping[str, Loss] = {
    "all tensors alike × curve": lambda f: (np.ones(len(f.names)), f.curve),
    "weights × curve": lambda f: (f.weights, f.curve),
    "weights × reference error": lambda f: (f.weights, f.reference),
    "KL alone × curve": lambda f: (filled(f.alone), f.curve),
    "KL alone, fitted × curve": lambda f: (f.fitted(), f.curve),
    "KL alone, fitted × reference error": lambda f: (f.fitted(), f.reference),
    "KL of role × curve": lambda f: (f.of_role(), f.curve),
    "KL of role × reference error": lambda f: (f.of_role(), f.reference),
}


def test_ranking(shared_data: Path) -> None:
    recipes, facts = read(shared_data)
    header("pairs of published recipes of one size that a predicted loss ranks as measured perplexity does")
    pairs = {model: pairs_of(found) for model, found in recipes.items()}
    print(", ".join(f"{model}: {len(found)}" for model, found in pairs.items() if found))
    print("\n| loss | right | of | share |\n|---|---|---|---|")
    show("bits per weight", recipes, pairs, lambda _, recipe: recipe.bits)
    for name, loss in LOSSES.items():
        parts = {model: loss(found) for model, found in facts.items()}
        show(name, recipes, pairs, lambda model, recipe, parts=parts: summed(*parts[model], recipe))
    right, total = left_out(recipes, facts, pairs)
    print(f"| KL of role ^a × weights ^b × curve ^c, chosen on the other models | {right:.1f} | {total} | ", end="")
    print(f"{right / total:.3f} ± {math.sqrt(right / total * (1 - right / total) / total):.3f} |")
    assert total == sum(map(len, pairs.values()))


def read(folder: Path) -> tuple[dict[str, list[Recipe]], dict[str, Facts]]:
    recipes: dict[str, list[Recipe]] = defaultdict(list)
    facts: dict[str, Facts] = {}
    with gzip.open(folder / "recipes" / "measured_recipes.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            path = folder / "instances" / f"{FAMILY.get(line['model'], line['model'])}.npz"
            if line["note"] or not path.exists():
                continue
            with np.load(path) as instance:
                rows = {str(name): row for row, name in enumerate(instance["tensors"])}
                columns = {str(name).lower(): column for column, name in enumerate(instance["qtypes"])}
                facts.setdefault(line["model"], facts_of(instance))
            used = [(rows[t], columns[q.lower()]) for t, q in line["assign"].items() if q.lower() in columns]
            at = np.array(used).T
            recipes[line["model"]].append(Recipe(at[0], at[1], line["bpw"], math.log(line["ppl"])))
    return recipes, facts


def facts_of(instance: Mapping[str, np.ndarray]) -> Facts:
    curve = instance["curve"].astype(float)
    reference = [error_of_published(str(name)) for name in instance["qtypes"]]
    return Facts(
        [str(name) for name in instance["tensors"]],
        instance["elements"].astype(float),
        instance["sens"].astype(float),
        np.maximum(np.where(np.isfinite(curve), curve, np.nanmedian(curve)), 1e-6),
        np.array([np.nan if error is None else max(error, 1e-9) for error in reference]),
    )


def filled(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nanmedian(values))


def pairs_of(recipes: list[Recipe]) -> list[tuple[int, int]]:
    return [
        (i, j)
        for (i, one), (j, other) in combinations(enumerate(recipes), 2)
        if abs(one.bits / other.bits - 1) < SAME_SIZE and abs(one.log_perplexity - other.log_perplexity) > LEAST_RISE
    ]


def summed(weight: np.ndarray, error: np.ndarray, recipe: Recipe) -> float:
    return float(np.nansum(weight[recipe.tensors] * error[recipe.types]))


def right_of(losses: list[float], recipes: list[Recipe], pairs: list[tuple[int, int]]) -> float:
    """Pairs ranked rightly; a tie is half a pair."""
    signs = [
        np.sign(losses[i] - losses[j]) * np.sign(recipes[i].log_perplexity - recipes[j].log_perplexity)
        for i, j in pairs
    ]
    return float(sum((1 + sign) / 2 for sign in signs))


def show(
    name: str,
    recipes: dict[str, list[Recipe]],
    pairs: dict[str, list[tuple[int, int]]],
    loss: Callable[[str, Recipe], float],
) -> None:
    total = sum(map(len, pairs.values()))
    right = sum(right_of([loss(m, r) for r in found], found, pairs[m]) for m, found in recipes.items())
    print(f"| {name} | {right:g} | {total} | {right / total:.3f} |")


def left_out(
    recipes: dict[str, list[Recipe]], facts: dict[str, Facts], pairs: dict[str, list[tuple[int, int]]]
) -> tuple[float, int]:
    """Pairs ranked rightly on each model, by the exponents that rank most pairs of all other families rightly.

    Where several do, the mean over them.
    """
    steps = (0.0, 0.25, 0.5, 0.75, 1.0)
    roles = {model: found.of_role() for model, found in facts.items()}
    right: dict[str, dict[tuple[float, float, float], float]] = {model: {} for model, found in pairs.items() if found}
    for powers in product(steps, steps, steps[2:]):
        for model, found in right.items():
            own = facts[model]
            weight = roles[model] ** powers[0] * own.weights ** powers[1]
            losses = [summed(weight, own.curve ** powers[2], recipe) for recipe in recipes[model]]
            found[powers] = right_of(losses, recipes[model], pairs[model])
    score = 0.0
    for model, found in right.items():
        family = FAMILY.get(model, model)
        others = [other for other in right if FAMILY.get(other, other) != family]
        known = {powers: sum(right[other][powers] for other in others) for powers in found}
        best = [powers for powers, count in known.items() if count == max(known.values())]
        # Few pairs leave many exponents equally good: any of them might have been chosen.
        counts = [found[powers] for powers in best]
        mean = float(np.mean(counts))
        print(f"{model}: {len(best)} best exponents, right {min(counts):g} to {max(counts):g}, mean {mean:.2f}")
        score += mean
    return score, sum(map(len, pairs.values()))
