"""Measured KL divergence of every loss model's allocation against llama.cpp's mixture of the same size.

One table per model; text that neither calibration nor training has seen. Run:

    pytest -m bench -s tests/bench/bench_quality.py            (4M model, all windows of tests/data)
    pytest -m bench -s tests/bench/bench_quality.py -k 18M     (needs the larger data)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from machine import header

from raq_client import engine, perplexity
from raq_client.check_report import Summary
from raq_client.file_types import FILE_TYPES
from raq_client.imatrix import Importance
from raq_client.imatrix_files import read_importance
from raq_client.measure import measure_profile
from raq_client.mixtures import mixture, tensor_bytes
from raq_client.model_file import ModelFile, open_model
from raq_client.model_tables import table_of
from raq_client.planning import chosen_types
from raq_client.quantize import quantize_model
from raq_solver.allocation import Allocation
from raq_solver.errors import InvalidInput
from raq_solver.loss_models import LOSS_MODELS
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.solve import solve

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

MIXTURES = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")
WINDOWS = {"4M": None, "18M": 40}


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with everything that comparing allocations needs."""

    name: str
    model: ModelFile
    importance: Importance
    profile: Profile
    text: str


@pytest.fixture(params=["4M", "18M"], scope="module")
def subject(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    name = request.param
    folder = data if name == "4M" else request.getfixturevalue("shared_data")
    model = open_model(folder / ("" if name == "4M" else "models") / f"wiki-math-{name}-f16.gguf")
    importance = read_importance(folder / ("" if name == "4M" else "imatrix") / f"wiki-math-{name}.gsm8k.imatrix.gguf")
    profile = measure_profile(model, importance, chosen_types(()), cache=tmp_path_factory.mktemp("cache"))
    text = (data / "gsm8k.evaluation.txt").read_text(encoding="utf-8")
    return Subject(name, model, importance, profile, text)


def test_quality(subject: Subject, tmp_path: Path) -> None:
    header(f"mean KL divergence on GSM8K test, wiki-math-{subject.name}, importance from GSM8K train")
    print("\n| size of | bytes | bpw | what | bytes | mean KL | ratio | 99.9 % | same top, % |")
    print("|---|---|---|---|---|---|---|---|---|")
    ratios: dict[str, list[float]] = {}
    with engine.load(subject.model.path) as baseline:
        for name in MIXTURES:
            types = mixture(table_of(subject.model), FILE_TYPES[name])
            size = tensor_bytes(types)
            plain = Allocation({tensor.name: q.name for tensor, q in types.items()})
            reference = measured(subject, baseline, plain, tmp_path)
            bits = 8 * size / int(subject.profile.weights.sum())
            line(f"{name} | {size:,} | {bits:.2f} | llama.cpp's mixture | {size:,}", reference, 1.0)
            for model, allocation, got in allocations(subject.profile, size):
                report = measured(subject, baseline, allocation, tmp_path)
                ratio = report.kl.value / reference.kl.value
                ratios.setdefault(model, []).append(ratio)
                line(f" | | | {model} | {got:,}", report, ratio)
    for model, found in ratios.items():
        print(f"geometric mean of the ratio, {model}: {np.exp(np.mean(np.log(found))):.3f}")
    assert ratios["residual"]


def allocations(profile: Profile, size: int) -> Iterator[tuple[str, Allocation, int]]:
    for name, loss_model in LOSS_MODELS.items():
        try:
            table = loss_model(profile)
        except InvalidInput:
            continue  # measured: nothing was measured
        allocation, ledger = solve(Problem(table, size)).unwrap()
        assert ledger.size <= size
        yield name, allocation, ledger.size


def measured(subject: Subject, baseline: engine.Engine, allocation: Allocation, folder: Path) -> Summary:
    path = folder / "candidate.gguf"
    quantize_model(subject.model, allocation, subject.importance, path, force=True)
    texts = [perplexity.Text("GSM8K test", subject.text)]
    return perplexity.check(baseline, path, texts, windows=WINDOWS[subject.name]).overall


def line(start: str, summary: Summary, ratio: float) -> None:
    kl = f"{summary.kl.value:.6f} ± {summary.kl.error:.6f}"
    print(
        f"| {start} | {kl} | {ratio:.2f} | {summary.kl_quantiles[0.999]:.4f} "
        f"| {100 * summary.top1_agreement.value:.2f} |",
        flush=True,
    )
