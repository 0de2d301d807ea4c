import numpy as np
import pytest

from raq_client.evaluation import scores
from raq_client.evaluation.scores import TokenScores, join_scores, score_window


def _logits(seed: int, vocabulary: int = 1000, rows: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (rows, vocabulary)).astype(np.float32)


def _plainly(baseline: np.ndarray, candidate: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, ...]:
    log_p, log_q = (
        x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (baseline.astype(float), candidate.astype(float))
    )
    row = np.arange(len(targets))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    change = np.exp(log_q[row, targets]) - np.exp(log_p[row, targets])
    return -log_p[row, targets], -log_q[row, targets], kl, change, log_p.argmax(axis=1) == log_q.argmax(axis=1)


@pytest.mark.parametrize("block", [1, 4096, 1 << 20])
def test_scores_equal_the_formulas_in_double_precision(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "BLOCK_LOGITS", block)
    baseline = _logits(1)
    candidate = baseline + 0.3 * _logits(2)
    targets = np.random.default_rng(3).integers(0, 1000, 40).astype(np.int32)
    found = score_window(baseline, candidate, targets)
    expected = _plainly(baseline, candidate, targets)
    for array, witness in zip(vars(found).values(), expected, strict=True):
        np.testing.assert_allclose(array[0], witness, atol=1e-6)
    assert (found.windows, found.tokens) == (1, 40)


def test_a_model_does_not_differ_from_itself_nor_from_itself_shifted() -> None:
    logits, targets = _logits(4), np.zeros(40, np.int32)
    itself = score_window(logits, logits, targets)
    assert not itself.kl.any()
    assert not itself.probability_change.any()
    assert itself.same_top.all()
    shifted = score_window(logits, logits + np.float32(8), targets)
    np.testing.assert_allclose(shifted.kl, 0, atol=2e-6)


def test_divergence_is_never_negative_and_small_ones_are_seen() -> None:
    baseline, noise = _logits(5), _logits(6)
    for size in (1e-1, 1e-2, 1e-3):
        kl = score_window(baseline, baseline + np.float32(size) * noise, np.zeros(40, np.int32)).kl
        # second order: half the variance of the change under the baseline
        weights = np.exp(baseline.astype(float) - np.log(np.exp(baseline.astype(float)).sum(axis=1))[:, None])
        change = size * noise.astype(float)
        variance = (weights * change**2).sum(axis=1) - (weights * change).sum(axis=1) ** 2
        np.testing.assert_allclose(kl[0], variance / 2, rtol=3 * size, atol=1e-7)
        assert kl.min() > -1e-7


def test_tokens_that_are_ruled_out_and_broken_numbers() -> None:
    baseline, candidate = _logits(7), _logits(8)
    targets = np.full(40, 5, np.int32)
    baseline[:, 3] = candidate[:, 3] = -np.inf
    both = score_window(baseline, candidate, targets)
    kept = np.delete(np.arange(1000), 3)
    np.testing.assert_allclose(both.kl, score_window(baseline[:, kept], candidate[:, kept], targets - 1).kl, atol=1e-6)
    assert both.broken_tokens() == 0
    candidate[2, 9] = np.nan
    assert score_window(baseline, candidate, targets).broken_tokens() == 1


def test_scores_are_frozen_and_join_in_order() -> None:
    def constant(rows: int) -> TokenScores:
        value = np.full((rows, 3), float(rows))
        return TokenScores(value, value, value, value, np.ones((rows, 3), bool))

    both = join_scores([constant(1), constant(2)])
    assert both.kl[:, 0].tolist() == [1.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        both.kl[0, 0] = 0
