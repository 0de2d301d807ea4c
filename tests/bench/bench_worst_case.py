"""One file for several uses: time to proof of the worst case, and what it is worth measured on two texts.

    pytest -m bench -s tests/bench/bench_worst_case.py

Domains of real instances are made: their sensitivities times exp(0.5 × a normal number) for each tensor, times
exp(0.1 × another) for each cell. The two texts are real. CPU time, also for the limit, since the clock of a busy
machine compares nothing.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import Trial, TrialSetup
from raq_client.importance.domains import read_domains
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.file_types import FILE_TYPES
from raq_client.models.model_file import open_model
from raq_client.models.table import table_of
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_client.recipes.mixtures import mixture, tensor_bytes
from raq_solver.allocation import Allocation, account
from raq_solver.backends import mckp
from raq_solver.backends.minimax.search import least_worst
from raq_solver.knapsack import Knapsack, Limits, Linear
from raq_solver.losses import LossTable
from raq_solver.make_problem import predicted_losses
from raq_solver.problem import Problem
from raq_solver.quant_types import stored_type
from raq_solver.questions.worst_case import Domains, solve_worst_case
from raq_solver.solve import solve
from support.instances import Instance, made, real
from support.machine import header

pytestmark = [pytest.mark.bench, pytest.mark.timeout(40_000)]

SECONDS = float(os.environ.get("RAQ_BENCH_SECONDS", "20"))
WINDOWS = 16


def test_time_to_proof(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    header(f"Worst case over domains: CPU seconds, stopped after {SECONDS:.0f}")
    print("| instance | tensors × types | domains | % | worst | gap | CPU s |\n|---|---|---|---|---|---|---|")
    real_ones = [real(shared_data / "instances" / f"{name}.npz") for name in ("Qwen3.6-27B", "Qwen3.5-0.8B")]
    made_ones = [made(500, 16), made(500, 16, few_sizes=False), made(1000, 20), made(1000, 20, few_sizes=False)]
    for instance in (*real_ones, *made_ones):
        for domains in (2, 3, 4):
            measured_proof(instance, domains, 40)


def measured_proof(instance: Instance, domains: int, per_cent: int) -> None:
    losses, plain = in_domains(instance, domains, per_cent)
    rows = np.arange(len(plain.sizes))
    start = time.process_time()
    found = least_worst(losses, [Linear(rows, plain.sizes, plain.capacity)], Limits(SECONDS))
    took = time.process_time() - start
    gap = 1 - found.bound / found.value
    shape = f"{plain.sizes.shape[0]} × {plain.sizes.shape[1]}"
    print(
        f"| {instance.name} | {shape} | {domains} | {per_cent} | {found.value:.6f} | {gap:.1e} | {took:.1f} |",
        flush=True,
    )


def in_domains(instance: Instance, domains: int, per_cent: int) -> tuple[np.ndarray, Knapsack]:
    """Losses of each domain over those of its own optimum."""
    plain, rng = instance.at(per_cent), np.random.default_rng(0)
    tables = []
    for _ in range(domains):
        tensors = np.exp(0.5 * rng.standard_normal((len(plain.sizes), 1)))
        table = plain.losses * tensors * np.exp(0.1 * rng.standard_normal(plain.sizes.shape))
        tables.append(table / mckp.solve(Knapsack(plain.sizes, table, plain.capacity), Limits()).bound)
    return np.array(tables), plain


@pytest.mark.parametrize("name", ["18M", "4M"])
@pytest.mark.parametrize("size_of", ["Q2_K", "Q3_K_M", "Q4_K_M"])
def test_two_texts(shared_data: Path, data: Path, name: str, size_of: str) -> None:
    model = open_model(shared_data / "models" / f"wiki-math-{name}-f16.gguf")
    files = [str(shared_data / "imatrix" / f"wiki-math-{name}.{text}.imatrix.gguf") for text in ("gsm8k", "wiki")]
    paths = [data / "gsm8k.evaluation.txt", shared_data / "text" / "wikitext2.test.raw.txt"]
    capacity = tensor_bytes(mixture(table_of(model), FILE_TYPES[size_of]))
    profiles = [measure_profile(model, read_importance(Path(each)), chosen_types(())) for each in files]
    tables = [predicted_losses(each) for each in profiles]
    both = read_domains([f"{each}:0.5" for each in files])
    blended = predicted_losses(measure_profile(model, both, chosen_types(())))
    question = Domains((("GSM8K", tables[0]), ("WikiText", tables[1])), capacity)
    found = solve_worst_case(question)
    given = {
        "both, 0.5 each": solve(Problem(blended, capacity)).unwrap()[0],
        "GSM8K alone": solve(Problem(tables[0], capacity)).unwrap()[0],
        "WikiText alone": solve(Problem(tables[1], capacity)).unwrap()[0],
        "worst case": found.allocation,
    }
    header(f"wiki-math-{name} at {capacity:,} bytes (Q{size_of[1:]}), {found.termination.name}, gap {found.gap:.1e}")
    print("| allocation for | bytes | predicted, GSM8K | WikiText | KL, GSM8K | WikiText | less the first | |")
    print("|---|---|---|---|---|---|---|---|")
    texts = [Text(path.name, path.read_text(encoding="utf-8")) for path in paths]
    benches = [TrialSetup(model, model.path, both, [text], WINDOWS) for text in texts]
    first: list[np.ndarray] = []
    own = [domain.best.unwrap()[1].loss for domain in found.domains]
    for what, allocation in given.items():
        assert allocation is not None
        sizes, losses = zip(*(accounted(allocation, table) for table in tables), strict=True)
        ratios = " | ".join(f"{loss / least:.4f}" for loss, least in zip(losses, own, strict=True))
        kls = [measured(bench, allocation) for bench in benches]
        against = [kl - base for kl, base in zip(kls, first or kls, strict=True)]
        first = first or kls
        shown = " | ".join(f"{kl.mean():.6f} ± {error(kl):.6f}" for kl in kls)
        paired = " | ".join(f"{each.mean():+.6f} ± {error(each):.6f}" for each in against)
        print(f"| {what} | {sizes[0]:,} | {ratios} | {shown} | {paired} |", flush=True)


def accounted(allocation: Allocation, table: LossTable) -> tuple[int, float]:
    ledger = account(allocation, table, 0)
    return ledger.size, ledger.loss


def measured(bench: TrialSetup, allocation: Allocation) -> np.ndarray:
    """Mean KL divergence of each window, nats per token."""
    with Trial(bench) as trial:
        changed = {
            tensor.name: stored_type(allocation.types[tensor.name])
            for tensor in bench.model.tensors
            if allocation.types[tensor.name] != tensor.source_type.name
        }
        kl: np.ndarray = trial.run(changed).scores.kl.mean(axis=1)
        return kl


def error(of_windows: np.ndarray) -> float:
    return float(of_windows.std(ddof=1) / np.sqrt(of_windows.size))
