"""Do predicted losses rank real recipes as their measured perplexities do?

Published recipes of Thireus' GGUF Tool Suite and its contributors (https://github.com/Thireus/GGUF-Tool-Suite) with
measured perplexity, and their measurements per tensor and per type. A pair of recipes of one model counts if their
bits per weight differ by less than 2 % and their ln(perplexity) by more than 0.004 (research of peers used this rule),
or, in the last column, by more than two standard errors. A loss is right about a pair if it is lower where perplexity
is. The prior is fitted without the model and its kin; the loss with exponents is judged on each model by those chosen
on all others. Run:

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

from raq_client.quantizing.reference_errors import error_of_published
from raq_client.sensitivity.fit import Evaluation, fit_sensitivities
from raq_solver.tensor_names import role_of
from support.machine import header
from support.prior_fit import fit_prior
from support.published_models import Published, own_models, published_models

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

FAMILY = {"Qwen3.8-27B": "Qwen3.6-27B", "Qwen3.5-27B": "Qwen3.6-27B"}
"""Models of the same shapes, whose measurements stand in for missing ones; never trained on for one another."""
SISTERS = {"Qwen3.5-4B": ("Qwen3.5-2B", "Qwen3.5-9B")}
"""A model of which only recipes are at hand, and the next smaller and larger ones, whose curves it is given."""
SAME_SIZE, LEAST_RISE = 0.02, 0.004
TOKENS, CORRELATED = 148_000, 2.5
"""Scored tokens of the perplexities (wiki.test.raw, context 512), and how much standard errors over windows exceed
those over independent tokens on raq's models."""
NEED_OWN = ("KL", "weights")
"""Losses that begin so need a model's own measurements."""
PEERS_BEST = 0.805
"""Best pairwise accuracy found among other programs' losses, on 149 pairs of 216 recipes not all published here."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """One recipe: rows and columns of the model's instance, and what was measured of it."""

    tensors: np.ndarray
    types: np.ndarray
    bits: float
    log_perplexity: float
    rise: float

    def differs(self, other: "Recipe") -> bool:
        """Whether perplexities are more than two standard errors apart.

        A quantized model's log probabilities scatter around the original's with a variance of twice the KL
        divergence, for which the rise of ln(perplexity) stands.
        """
        error = CORRELATED * math.sqrt(2 * (max(self.rise, 0.002) + max(other.rise, 0.002)) / TOKENS)
        return abs(self.log_perplexity - other.log_perplexity) > 2 * error


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a model: weights and KL divergence of each tensor (NaN without own measurements), what the prior
    expects of each, KL divergence and reference error of each type."""

    names: list[str]
    weights: np.ndarray
    alone: np.ndarray
    curve: np.ndarray
    reference: np.ndarray
    prior: np.ndarray

    @property
    def measured(self) -> bool:
        return bool(np.isfinite(self.alone).any())

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


Rule = Callable[[Recipe, Recipe], bool]
"""Whether two recipes differ enough in perplexity to be told apart."""
Column = tuple[dict[str, list[Recipe]], dict[str, list[tuple[int, int]]]]
Loss = Callable[[Facts], tuple[np.ndarray, np.ndarray]]
"""A weight for each tensor and an error for each type: the loss of a recipe is the sum of their products."""
LOSSES: Mapping[str, Loss] = {
    "all tensors alike × curve": lambda f: (np.ones(len(f.names)), f.curve),
    "prior × curve": lambda f: (f.prior, f.curve),
    "prior × reference error": lambda f: (f.prior, f.reference),
    "weights × curve": lambda f: (f.weights, f.curve),
    "weights × reference error": lambda f: (f.weights, f.reference),
    "KL alone × curve": lambda f: (filled(f.alone), f.curve),
    "KL alone, fitted × curve": lambda f: (f.fitted(), f.curve),
    "KL alone, fitted × reference error": lambda f: (f.fitted(), f.reference),
    "KL of role × curve": lambda f: (f.of_role(), f.curve),
    "KL of role × reference error": lambda f: (f.of_role(), f.reference),
}


def test_ranking(data: Path, shared_data: Path) -> None:
    recipes, facts = read(shared_data, [*published_models(shared_data / "instances"), *own_models(data)])
    header("pairs of published recipes of one size that a predicted loss ranks as measured perplexity does")
    rules: list[Rule] = [
        lambda one, other: abs(one.log_perplexity - other.log_perplexity) > LEAST_RISE,
        lambda one, other: one.differs(other),
    ]
    measured = {model: found for model, found in recipes.items() if facts[model].measured}
    columns = [(measured, rules[0]), (recipes, rules[0]), (recipes, rules[1])]
    found = [(chosen, {model: pairs_of(each, rule) for model, each in chosen.items()}) for chosen, rule in columns]
    for _, pairs in found:
        print(", ".join(f"{model}: {len(each)}" for model, each in pairs.items() if each))
    print("\n| loss | models with own measurements | all | all, beyond two errors |\n|---|---|---|---|")
    show("bits per weight", found, facts, lambda _, recipe: recipe.bits)
    for name, loss in LOSSES.items():
        parts = {m: loss(each) for m, each in facts.items() if each.measured or not name.startswith(NEED_OWN)}
        show(name, found, facts, lambda model, recipe, parts=parts: summed(*parts[model], recipe))
    right, total = left_out(measured, facts, found[0][1])
    print(f"| KL of role ^a × weights ^b × curve ^c, chosen on the other models | {share(right, total)} | | |")
    assert total == sum(map(len, found[0][1].values()))


def read(folder: Path, models: list[Published]) -> tuple[dict[str, list[Recipe]], dict[str, Facts]]:
    recipes: dict[str, list[Recipe]] = defaultdict(list)
    facts: dict[str, Facts] = {}
    types: dict[str, list[str]] = {}
    full = fit_prior(models)
    with gzip.open(folder / "recipes" / "measured_recipes.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            model = line["model"]
            kin = FAMILY.get(model, model)
            paths = [folder / "instances" / f"{name}.npz" for name in SISTERS.get(model, (kin,))]
            if line["note"] or not all(path.exists() for path in paths):
                continue
            if model not in facts:
                own = tuple(line["assign"]) if model in SISTERS else ()
                types[model], facts[model] = facts_of(paths, own)
                left = fit_prior([each for each in models if each.name != kin], full)
                facts[model].prior[:] = np.exp(left.predict(unmeasured(facts[model].names), facts[model].names))
            rows = {name: row for row, name in enumerate(facts[model].names)}
            columns = {name: column for column, name in enumerate(types[model])}
            used = [(rows[t], columns[q.lower()]) for t, q in line["assign"].items() if q.lower() in columns]
            at = np.array(used).T
            logs = math.log(line["ppl"]), math.log(line["ppl"] / line["bf16"])
            recipes[model].append(Recipe(at[0], at[1], line["bpw"], *logs))
    return recipes, facts


def unmeasured(names: list[str]) -> Published:
    return Published("", tuple(names), (), np.array([]), 1.0, 1.0, 1.0)


def facts_of(paths: list[Path], names: tuple[str, ...]) -> tuple[list[str], Facts]:
    """Names of types, and what is known of a model from its instance, or of named tensors from its sisters'."""
    curves: list[dict[str, float]] = []
    for path in paths:
        with np.load(path) as data:
            curves.append({str(q).lower(): float(kl) for q, kl in zip(data["qtypes"], data["curve"], strict=True)})
            tensors, weights = [str(name) for name in data["tensors"]], data["elements"].astype(float)
            alone = data["sens"].astype(float)
    types = [name for name in curves[0] if all(name in curve for curve in curves)]
    each = np.array([[curve[name] for name in types] for curve in curves])
    each = np.maximum(np.where(np.isfinite(each), each, np.nanmedian(each)), 1e-6)
    curve = np.exp(np.log(each).mean(axis=0))
    found = [error_of_published(name) for name in types]
    reference = np.array([np.nan if error is None else max(error, 1e-9) for error in found])
    if names:
        nothing = np.full(len(names), np.nan)
        return types, Facts(list(names), nothing, nothing.copy(), curve, reference, nothing.copy())
    return types, Facts(tensors, weights, alone, curve, reference, np.empty(len(tensors)))


def filled(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nanmedian(values))


def pairs_of(recipes: list[Recipe], rule: Rule) -> list[tuple[int, int]]:
    return [
        (i, j)
        for (i, one), (j, other) in combinations(enumerate(recipes), 2)
        if abs(one.bits / other.bits - 1) < SAME_SIZE and rule(one, other)
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


def share(right: float, total: int) -> str:
    part = right / total
    return f"{right:.3g} of {total} = {part:.3f} ± {math.sqrt(part * (1 - part) / total):.3f}"


def show(name: str, columns: list[Column], facts: dict[str, Facts], loss: Callable[[str, Recipe], float]) -> None:
    """A row; cells stay empty where the loss needs measurements that a model of the column lacks."""
    cells = []
    for recipes, pairs in columns:
        if name.startswith(NEED_OWN) and not all(facts[model].measured for model in recipes):
            cells.append("")
            continue
        right = sum(right_of([loss(m, r) for r in found], found, pairs[m]) for m, found in recipes.items())
        cells.append(share(right, sum(map(len, pairs.values()))))
    print(f"| {name} | {' | '.join(cells)} |")


def left_out(
    recipes: dict[str, list[Recipe]], facts: dict[str, Facts], pairs: dict[str, list[tuple[int, int]]]
) -> tuple[float, int]:
    """Pairs ranked rightly on each model, by the exponents that rank most pairs of all other families rightly.

    Where several do, the mean over them.
    """
    steps = (0.0, 0.25, 0.5, 0.75, 1.0)
    roles = {model: facts[model].of_role() for model in recipes}
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
