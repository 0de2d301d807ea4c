"""Speed of the check, of collecting importance and of measuring sensitivities.

Run: pytest -m bench -s tests/bench/bench_check.py
CPU seconds stand beside the clock's: on a busy machine only they can be compared.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from raq_client import engine
from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import TrialSetup
from raq_client.evaluation.scores import score_window
from raq_client.importance.collect import collect
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.sensitivity.measure import measure_sensitivities
from support.checks import check
from support.machine import header

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]


@contextmanager
def timed(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"| {what} | {time.perf_counter() - wall:.2f} | {time.process_time() - cpu:.2f} |", flush=True)


def table(title: str) -> None:
    header(title)
    print("\n| what | seconds | CPU seconds |\n|---|---|---|")


@pytest.mark.parametrize("vocabulary", [4096, 151_936])
def test_comparing_the_logits_of_one_window(vocabulary: int) -> None:
    table(f"one window of 255 scored tokens, vocabulary {vocabulary}, NumPy alone")
    random = np.random.default_rng(0)
    baseline = random.normal(0, 3, (255, vocabulary)).astype(np.float32)
    candidate = baseline + random.normal(0, 0.05, baseline.shape).astype(np.float32)
    targets = random.integers(0, vocabulary, 255).astype(np.int32)
    with timed("score_window"):
        assert score_window(baseline, candidate, targets).tokens == 255


def test_a_whole_check(model_path: Path, data: Path) -> None:
    table("wiki-math-4M, 100 windows of 512, 2 threads")
    text = Text("GSM8K test", (data / "gsm8k.evaluation.txt").read_text(encoding="utf-8"))
    calibration = Text("GSM8K train", (data / "gsm8k.calibration.txt").read_text(encoding="utf-8"))
    with timed("load, tokenize, logits of one model"), engine.load(model_path, threads=2) as model:
        windows = model.tokenize(text.content)[: 100 * 512].reshape(100, 512)
        with timed("of these, logits"):
            assert sum(1 for _ in model.score_windows(windows)) == 100
    with timed("check of two models"):
        assert check(model_path, model_path, [text], windows=100, threads=2).overall.windows == 100
    with timed("collect importance"):
        assert collect(model_path, [calibration], windows=100, threads=2).chunk_count == 100


def test_sensitivities(model_path: Path, data: Path, imatrix_path: Path) -> None:
    table("wiki-math-4M, sensitivities of 30 tensors, 8 windows of 512 each, 2 threads")
    text = Text("GSM8K train", (data / "gsm8k.calibration.txt").read_text(encoding="utf-8"))
    model = open_model(model_path)
    bench = TrialSetup(model, model_path, read_importance(imatrix_path), [text], threads=2)
    with timed("32 evaluations"):
        found = measure_sensitivities(bench)
    print(f"predicted over measured KL of all tensors at once: {found.additivity:.3f}")
    assert found.floor.kl == 0.0
