"""Is loss_models.role_prior what the published measurements say, and how good is it on a model it has not seen?

Measurements by Thireus, GGUF Tool Suite and its contributors (https://github.com/Thireus/GGUF-Tool-Suite), and raq's
own of the project's two models (tests/data). Every model is judged by the fit to all others. Run:

    pytest -m bench -s tests/bench/bench_prior.py
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from raq_client.importance.imatrix_file import read_importance
from raq_client.models.file_types import FILE_TYPES
from raq_client.models.model_file import open_model
from raq_client.models.table import ModelTable, guessed_architecture
from raq_client.models.table import table_of as model_table
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_client.quantizing.reference_errors import error_of_published
from raq_client.recipes.mixtures import mixture, tensor_bytes
from raq_client.sensitivity.design import role_design
from raq_client.sensitivity.fit import Evaluation, fit_sensitivities
from raq_solver.loss_models import measured, residual, role_prior
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.quant_types import CATALOGUE
from raq_solver.solve import solve
from raq_solver.tensors import Tensor
from support.machine import header
from support.prior_fit import PriorFit, fit_prior
from support.published_models import Published, own_models, published_models

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

K_TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")
MIXTURES = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")
FAMILY = ("Qwen3.5-", "Qwen3.6-")
MOST_EVALUATIONS = 60
CLEAR = 3.0
"""Multiples of the noise that a value stands above the floor where its logarithm is looked at."""


@pytest.fixture(scope="module")
def models(data: Path, shared_data: Path) -> list[Published]:
    return [*published_models(shared_data / "instances"), *own_models(data)]


@pytest.fixture(scope="module")
def fit(models: list[Published]) -> PriorFit:
    return fit_prior(models)


def test_the_committed_numbers_are_what_the_fit_gives(models: list[Published], fit: PriorFit) -> None:
    header("raq_solver.loss_models.role_prior, fitted anew")
    print(f"scale {fit.scale:.2f}; spreads {fit.spreads}; scatter {fit.scatter:.2f}")
    print("floors, 1e-4 nats:", {name: round(1e4 * float(floor), 2) for name, floor in fit.floors.items()})
    for key, value in sorted(fit.effects.items()):
        print(f"{' '.join(key)}: {value:.2f} ± {fit.errors[key]:.2f}")
    for model in models:
        names = [name for group in model.groups for name in group]
        found = role_prior.role_sensitivities([Tensor(name, (256,), CATALOGUE["F32"]) for name in model.tensors])
        by_name = dict(zip(model.tensors, np.log(found), strict=True))
        assert fit.predict(model, names) == pytest.approx([by_name[name] for name in names], abs=0.05)


def test_models_left_out(models: list[Published], fit: PriorFit, shared_data: Path) -> None:
    header("the prior on models that its fit has not seen")
    print("rank: of values by prediction. spread: of ln(measured / predicted), its mean taken off.")
    print(
        "loss: by the model's own measurements, over that of llama.cpp's mixture of the same bytes (geometric mean)\n"
    )
    print("| model | rank | spread | spread, all alike | loss: relative | 10/5/1 | prior | own measurements |")
    print("|---|---|---|---|---|---|---|---|")
    kept: dict[str, list[np.ndarray]] = {}
    for index, model in enumerate(models):
        others = [other for other in models if other is not model]
        losses, spreads = shown(model, fit_prior(others, fit), fit, shared_data)
        kept.setdefault("all", []).append(spreads)
        kept.setdefault("losses", []).extend([losses] if losses is not None else [])
        if model.name.startswith(FAMILY):
            apart = [other for other in others if not other.name.startswith(FAMILY)]
            kept.setdefault("family", []).append(shown(model, fit_prior(apart, fit), fit, shared_data, "; family")[0])
        assert index < len(models)
    print("mean of spread: prior, all alike", np.mean(kept["all"], axis=0).round(3))
    print("mean of loss: relative, 10/5/1, prior, own", np.exp(np.mean(kept["losses"], axis=0)).round(3))
    print("the same, whole Qwen3.5 family left out", np.exp(np.mean(kept["family"], axis=0)).round(3))
    assert np.mean(kept["losses"], axis=0)[2] < np.mean(kept["losses"], axis=0)[1]


@pytest.mark.parametrize("name", ["4M", "18M"])
def test_small_models_left_out(
    name: str, models: list[Published], fit: PriorFit, request: pytest.FixtureRequest, data: Path
) -> None:
    """Losses by measured sensitivities and errors, over the mixtures'."""
    folder = data if name == "4M" else request.getfixturevalue("shared_data")
    model = open_model(folder / ("" if name == "4M" else "models") / f"wiki-math-{name}-f16.gguf")
    importance = read_importance(folder / ("" if name == "4M" else "imatrix") / f"wiki-math-{name}.gsm8k.imatrix.gguf")
    profile = measure_profile(model, importance, chosen_types(()))
    own = next(each for each in models if each.name.endswith(f"-{name}"))
    single = {group[0]: float(kl) / own.error for group, kl in zip(own.groups, own.values, strict=True)}
    names = [tensor.name for tensor in profile.tensors]
    left = np.exp(fit_prior([each for each in models if each is not own], fit).predict(own, names))
    truth = replace(profile, sensitivities=np.array([single.get(each, 0.0) for each in names]))
    constants = np.array([{"output.weight": 10.0, "token_embd.weight": 5.0}.get(each, 1.0) for each in names])
    judge = measured(truth)
    tables = {
        "10/5/1": measured(replace(profile, sensitivities=constants)),
        "prior": measured(replace(truth, sensitivities=left)),
    }
    tables |= {"residual": residual(profile), "own": judge}
    found: dict[str, list[float]] = {}
    for mixture_name in MIXTURES:
        types = mixture(model_table(model), FILE_TYPES[mixture_name])
        reference = total(judge, {tensor.name: q.name for tensor, q in types.items()})
        for key, table in tables.items():
            allocation, _ = solve(Problem(table, tensor_bytes(types))).unwrap()
            found.setdefault(key, []).append(total(judge, allocation.types) / reference)
    header(f"loss over the mixture's by measured sensitivities, wiki-math-{name}, geometric mean of five sizes")
    print({key: round(float(np.exp(np.mean(np.log(values)))), 3) for key, values in found.items()})
    assert np.mean(found["own"]) <= np.mean(found["prior"])


def test_few_evaluations_of_models_left_out(models: list[Published], fit: PriorFit) -> None:
    """Roles first, then single tensors at random, made of the published values of what was measured alone."""
    header("spread of ln(estimated / measured): role and depth only, with the prior")
    for model in models:
        names = [group[0] for group in model.groups if len(group) == 1]
        if len(names) < MOST_EVALUATIONS or len(names) < len(model.groups) / 2:
            continue
        at = dict(zip([group[0] for group in model.groups], model.values - fit.floors[model.name], strict=True))
        truth = np.array([at[name] for name in names])
        clear = truth > CLEAR * model.noise
        left = fit_prior([other for other in models if other is not model], fit)
        expected = dict(zip(names, np.exp(left.predict(model, names)).tolist(), strict=True))
        random = np.random.default_rng(0)
        cells = []
        for count in (12, 30, MOST_EVALUATIONS):
            groups = role_design(names)[:count]
            groups += [(names[i],) for i in random.choice(len(names), count - len(groups), replace=False)]
            losses = [sum(max(float(at[name]), 1e-9) for name in group) for group in groups]
            noises = [model.noise * math.sqrt(len(group)) for group in groups]
            errors = [(model.error,) * len(group) for group in groups]
            runs = [Evaluation(*parts) for parts in zip(groups, errors, losses, noises, strict=True)]
            estimates = [fit_sensitivities(names, runs, 0.0, foreseen).values for foreseen in ({}, expected)]
            misses = [np.std(np.log(np.maximum(e, 1e-9)[clear] / truth[clear])) for e in estimates]
            cells.append(f"{count}: {misses[0]:.2f} → {misses[1]:.2f}")
        print(f"{model.name}, {len(names)} tensors: {', '.join(cells)}", flush=True)
        assert len(cells) == 3


def total(table: LossTable, types: Mapping[str, str]) -> float:
    columns = {name: column for column, name in enumerate(table.quant_types)}
    return float(sum(table.losses[row, columns[types[name]]] for row, name in enumerate(table.tensors)))


def shown(
    model: Published, fit: PriorFit, full: PriorFit, folder: Path, note: str = ""
) -> tuple[np.ndarray | None, np.ndarray]:
    """Print a model's row; ln of the losses over the mixture's, and the spreads by prior and with all alike."""
    floor = full.floors[model.name]
    predicted = np.array([np.log(np.exp(fit.predict(model, group)).sum()) for group in model.groups])
    alike = np.log([len(group) for group in model.groups])
    clear = model.values - floor > CLEAR * model.noise
    measured = np.log(model.values[clear] - floor)
    spreads = np.array([np.std(measured - predicted[clear]), np.std(measured - alike[clear])])
    rank = spearmanr(predicted, model.values).statistic
    path = folder / "instances" / f"{model.name}.npz"
    losses = allocated(model, fit, floor, path) if path.exists() else None
    cells = ["", "", "", ""] if losses is None else [f"{value:.2f}" for value in np.exp(losses)]
    row = [model.name + note, f"{rank:.2f}", *(f"{spread:.2f}" for spread in spreads), *cells]
    print(f"| {' | '.join(row)} |", flush=True)
    return losses, spreads


def allocated(model: Published, fit: PriorFit, floor: float, path: Path) -> np.ndarray:
    """ln(loss / loss of the mixture) by measured sensitivities and curve, mean over the mixtures' sizes.

    Types' errors are those of Gaussian rows, as of a model of which only the header is at hand.
    """
    with np.load(path) as data:
        columns = {str(name).upper().removesuffix("_R4"): at for at, name in enumerate(data["qtypes"])}
        types = [q for q in K_TYPES if q in columns and np.isfinite(data["curve"][columns[q]])]
        at = [columns[q] for q in types]
        sizes, curve = data["bytes"][:, at].astype(np.int64), data["curve"][at].astype(float)
        weights = data["elements"].astype(np.int64)
    truth = by_tensor(model, floor)
    constants = {"output.weight": 10.0, "token_embd.weight": 15.0 if model.tied else 5.0}
    plain = np.array([constants.get(name, 1.0) for name in model.tensors])
    errors = np.array([error_of_published(q) for q in types], dtype=float)
    choices = (np.ones(len(truth)), plain, np.exp(fit.predict(model, model.tensors)), np.maximum(truth, 1e-9))
    found = []
    for name in MIXTURES if len(types) == len(K_TYPES) else MIXTURES[:2]:
        picks = mixture_picks(model, weights, types, name)
        capacity = int(sizes[np.arange(len(picks)), picks].sum())
        reference = float((truth * curve[picks]).sum())
        losses = []
        for index, sensitivities in enumerate(choices):
            table = table_of(
                model, sensitivities, curve if index == len(choices) - 1 else errors, sizes, weights, types
            )
            allocation, _ = solve(Problem(table, capacity)).unwrap()
            chosen = np.array([types.index(allocation.types[tensor]) for tensor in model.tensors])
            losses.append(float((truth * curve[chosen]).sum()) / reference)
        found.append(losses)
    ratios: np.ndarray = np.log(found).mean(axis=0)
    return ratios


def by_tensor(model: Published, floor: float) -> np.ndarray:
    """Measured value less the floor, bundles in equal parts; the mean of its role, else the median, if not measured."""
    found = {}
    for group, value in zip(model.groups, model.values.tolist(), strict=True):
        found.update(dict.fromkeys(group, (value - floor) / len(group)))
    roles: dict[str, list[float]] = {}
    for name, value in found.items():
        roles.setdefault(role_of(name), []).append(value)
    middle = float(np.median(list(found.values())))
    means = {role: float(np.mean(values)) for role, values in roles.items()}
    return np.array([found.get(n, means.get(role_of(n), middle)) for n in model.tensors])


def mixture_picks(model: Published, weights: np.ndarray, types: list[str], name: str) -> np.ndarray:
    """Columns of the types of llama.cpp's mixture; a type that is not among them gives way to the next larger."""
    tensors = tuple(_tensor(tensor, int(count)) for tensor, count in zip(model.tensors, weights, strict=True))
    architecture = guessed_architecture(tensors) or "deepseek2"
    heads: Mapping[str, int] = {"attention.head_count": 32, "attention.head_count_kv": 8}
    table = ModelTable(model.name, architecture, tensors, {f"{architecture}.{key}": n for key, n in heads.items()})
    bits = [float(CATALOGUE[q].bits_per_weight) for q in types]
    wanted = [float(q.bits_per_weight) for q in mixture(table, FILE_TYPES[name]).values()]
    return np.array([max((at for at, each in enumerate(bits) if each >= bit), default=0) for bit in wanted])


def _tensor(name: str, weights: int) -> Tensor:
    """A tensor of that many weights, its shape made up: the mixture's rules look at names and experts."""
    if weights % 2048 or weights < 20_000 or "norm" in name:
        return Tensor(name, (weights,), CATALOGUE["F32"])
    shape = (256, weights // 2048, 8) if "_exps." in name else (256, weights // 256)
    return Tensor(name, shape, CATALOGUE["BF16"])


def table_of(
    model: Published,
    sensitivities: np.ndarray,
    errors: np.ndarray,
    sizes: np.ndarray,
    weights: np.ndarray,
    types: list[str],
) -> LossTable:
    losses = sensitivities[:, None] * errors
    losses[sizes.min(axis=1) == sizes.max(axis=1), 1:] = math.inf
    return LossTable(
        tensors=model.tensors, quant_types=tuple(types), weights=weights, sizes=sizes, losses=losses, source="bench"
    )
