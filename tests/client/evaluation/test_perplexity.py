import json
import math
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client import engine
from raq_client.engine import NotFiniteError
from raq_client.engine.windows import Text
from raq_client.evaluation.perplexity import measure
from raq_client.evaluation.report import CheckReport
from raq_client.evaluation.statistics import estimate_exp_mean
from raq_solver.errors import InvalidInput
from support.checks import check
from support.engine_models import MODEL, TEXT, rewrite, write_quantized, write_smaller_vocabulary

SHORT = Text("short", TEXT[:8000])  # five windows of 512


@pytest.fixture(scope="module")
def q8_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quantized(tmp_path_factory.mktemp("models") / "q8_0.gguf", gguf.GGMLQuantizationType.Q8_0)


@pytest.fixture(scope="module")
def q4_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quantized(tmp_path_factory.mktemp("models") / "q4_0.gguf", gguf.GGMLQuantizationType.Q4_0)


@pytest.fixture(scope="module")
def report(q4_0: Path) -> CheckReport:
    return check(MODEL, q4_0, [SHORT], threads=1)


def test_a_model_against_itself() -> None:
    itself = check(MODEL, MODEL, [SHORT], windows=3, threads=2).overall
    assert (itself.windows, itself.tokens) == (3, 3 * 255)
    assert itself.kl.value == itself.kl_quantiles[1.0] == 0.0
    assert (itself.top1_agreement.value, itself.log_ratio.value, itself.probability_change_rms.value) == (1.0, 0.0, 0.0)
    assert itself.perplexity == itself.baseline_perplexity


def test_perplexity_is_that_of_the_tokens(report: CheckReport) -> None:
    """Recomputed from the engine's logits with nothing but the definition."""
    with engine.load(MODEL, threads=1) as model:
        tokens = model.tokenize(SHORT.content)
        windows = tokens[: len(tokens) // 512 * 512].reshape(-1, 512)
        losses = []
        for window, logits in zip(windows, model.score_windows(windows), strict=True):
            exact = logits.astype(np.float64)
            log_p = exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))
            losses += [-log_p[index, window[257 + index]] for index in range(255)]
    assert math.isclose(report.overall.baseline_perplexity.value, math.exp(np.mean(losses)), rel_tol=1e-6)
    assert report.overall.tokens == len(losses)


def test_more_bits_are_nearer_the_original(report: CheckReport, q8_0: Path) -> None:
    better = check(MODEL, q8_0, [SHORT], threads=1).overall
    worse = report.overall
    assert 0 < better.kl.value < worse.kl.value / 20
    assert better.top1_agreement.value > worse.top1_agreement.value
    assert better.probability_change_rms.value < worse.probability_change_rms.value
    assert better.baseline_perplexity == worse.baseline_perplexity


def test_figures_of_one_report_agree_with_each_other(report: CheckReport) -> None:
    found = report.overall
    assert math.isclose(found.ratio.value, found.perplexity.value / found.baseline_perplexity.value, rel_tol=1e-9)
    assert math.isclose(found.log_ratio.value, math.log(found.ratio.value), rel_tol=1e-9)
    assert math.isclose(found.difference.value, found.perplexity.value - found.baseline_perplexity.value, rel_tol=1e-9)
    ordered = [found.kl_quantiles[fraction] for fraction in sorted(found.kl_quantiles)]
    assert ordered == sorted(ordered)
    assert ordered[0] >= 0
    assert (found.kl_by_position[0].first, found.kl_by_position[-1].last) == (256, 510)
    weights = [part.last - part.first + 1 for part in found.kl_by_position]
    mean = np.average([part.kl.value for part in found.kl_by_position], weights=weights)
    assert math.isclose(float(mean), found.kl.value, rel_tol=1e-9)
    assert report.texts == {"short": found}
    assert json.loads(json.dumps(report.to_dict()))["overall"]["windows"] == found.windows


def test_texts_and_domains_are_reported_apart_and_together(q4_0: Path) -> None:
    texts = [Text("a", TEXT[:2000], "maths"), Text("b", TEXT[2000:6000], "maths"), Text("c", TEXT[6000:8000])]
    calls: list[tuple[int, int]] = []
    found = check(MODEL, q4_0, texts, context=128, threads=1, progress=lambda done, of: calls.append((done, of)))
    counts = {name: summary.windows for name, summary in found.texts.items()}
    assert found.overall.windows == sum(counts.values())
    assert list(found.domains) == ["maths"]
    assert found.domains["maths"].windows == counts["a"] + counts["b"]
    weighted = sum(summary.kl.value * counts[name] for name, summary in found.texts.items())
    assert math.isclose(weighted, found.overall.kl.value * found.overall.windows, rel_tol=1e-9)
    assert calls == [(done, found.overall.windows) for done in range(1, found.overall.windows + 1)]


def test_a_window_longer_than_the_training_context_is_a_warning_not_an_error() -> None:
    found = check(MODEL, MODEL, [Text("long", TEXT)], context=640, windows=2, threads=1)
    assert "was trained for a context of 512 tokens" in found.warnings[0]


@pytest.mark.parametrize("tensor", ["blk.1.ffn_up.weight", "output_norm.weight"])
def test_a_model_with_a_weight_that_is_not_finite_ends_the_check_and_is_named(tmp_path: Path, tensor: str) -> None:
    def spoil(name: str, data: np.ndarray) -> dict[str, np.ndarray]:
        if name == tensor:
            data.reshape(-1)[5] = np.nan
        return {name: data}

    path = rewrite(tmp_path / "nan.gguf", spoil)
    named = rf"nan\.gguf: .* weight 5 of row 0 of {tensor} is nan; get or make the file again"
    for models in ((MODEL, path), (path, MODEL)):
        with pytest.raises(NotFiniteError, match=named):
            check(*models, [SHORT], context=128, windows=3, threads=1)


def test_engines_can_be_reused(q4_0: Path) -> None:
    with engine.load(MODEL, context=64, threads=1) as base, engine.load(q4_0, context=64, threads=1) as other:
        first = measure(base, other, [SHORT], context=64, windows=4)
        second = measure(base, other, [SHORT], context=64, windows=4)
    np.testing.assert_array_equal(first.scores().kl, second.scores().kl)


def test_no_text_and_short_texts_are_all_named_at_once() -> None:
    with pytest.raises(InvalidInput, match="there is none to check on"):
        check(MODEL, MODEL, [])
    with pytest.raises(InvalidInput) as caught:
        check(MODEL, MODEL, [Text("one", "a few words"), SHORT, Text("two", "")])
    assert [fault.where for fault in caught.value.faults] == ["one", "two"]
    assert "at least 2 windows of 512 are needed" in caught.value.faults[0].what
    with pytest.raises(InvalidInput, match="windows: must be at least 2, not 1"):
        check(MODEL, MODEL, [SHORT], windows=1)


def test_models_of_two_vocabularies_are_not_compared(tmp_path: Path) -> None:
    other = write_smaller_vocabulary(tmp_path / "other.gguf")
    with pytest.raises(InvalidInput, match=r"has 4000 tokens in its vocabulary, the baseline .* has 4096"):
        check(MODEL, other, [SHORT])


def test_an_interrupt_between_windows_frees_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    original = engine.Engine.close

    def close(self: engine.Engine) -> None:
        closed.append(self)
        original(self)

    monkeypatch.setattr(engine.Engine, "close", close)

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(MODEL, MODEL, [SHORT], progress=stop)
    assert len(closed) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    # llama-perplexity of llama.cpp 0c1e57098, context 512, first 60 chunks: 4M, then 18M (see the data's SOURCES.md)
    [
        ("gsm8k.test.txt", ((18.24, 0.41), (22.21, 0.50))),
        ("wikitext2.test.raw.txt", ((67.86, 1.58), (70.64, 1.68))),
    ],
)
def test_perplexity_equals_that_of_llama_perplexity(
    shared_data: Path, text: str, expected: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    content = Text(text, (shared_data / "text" / text).read_text())
    models = [shared_data / "models" / f"wiki-math-{size}-f16.gguf" for size in ("4M", "18M")]
    scores = measure(models[0], models[1], [content], windows=60, threads=1).scores()
    found = [estimate_exp_mean(losses) for losses in (scores.baseline_nll, scores.candidate_nll)]
    assert tuple((round(ppl.value, 2), round(ppl.token_error, 2)) for ppl in found) == expected
