import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client import engine
from raq_client.engine import NotFiniteError
from raq_client.engine.windows import Text
from raq_client.evaluation.kl_baseline import (
    encode_rows,
    measure_against_stored,
    open_baseline,
    score_stored,
    write_baseline,
)
from raq_client.evaluation.perplexity import measure
from raq_solver.errors import InvalidInput
from support.engine_models import MODEL, TEXT, write_quantized, write_smaller_vocabulary

TEXTS = [Text("text", TEXT[:8000])]
CONTEXT = 128


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("baseline") / "base.kld"
    write_baseline(MODEL, TEXTS, path, context=CONTEXT, windows=12, threads=2)
    return path


def _read_plainly(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and log-probabilities, by the layout in the words of llama.cpp's source, a row at a time."""
    data = path.read_bytes()
    assert data[:8] == b"_logits_"
    n_ctx, n_vocab, n_chunk = struct.unpack_from("<iii", data, 8)
    tokens = np.frombuffer(data, "<i4", n_chunk * n_ctx, 20).reshape(n_chunk, n_ctx)
    position = 20 + tokens.nbytes
    row_bytes = 2 * (2 * ((n_vocab + 1) // 2) + 4)
    found = []
    for _ in range(n_chunk * (n_ctx - 1 - n_ctx // 2)):  # after the rows raq's files name the model
        scale, least = struct.unpack_from("<ff", data, position)
        codes = np.frombuffer(data, "<u2", n_vocab, position + 8)
        found.append(scale * codes.astype(float) + least)
        position += row_bytes
    return tokens, np.array(found).reshape(n_chunk, n_ctx - 1 - n_ctx // 2, n_vocab)


def test_the_file_holds_what_the_model_says(stored: Path) -> None:
    tokens, log_p = _read_plainly(stored)
    with engine.load(MODEL, context=CONTEXT, threads=2) as model:
        expected_tokens = model.tokenize(TEXTS[0].content)[: 12 * CONTEXT].reshape(12, CONTEXT)
        np.testing.assert_array_equal(tokens, expected_tokens)
        for index, logits in enumerate(model.score_windows(tokens)):
            exact = logits.astype(float) - np.log(np.exp(logits.astype(float)).sum(axis=1, keepdims=True))
            reached = exact > exact.max(axis=1, keepdims=True) - 16
            assert abs(log_p[index] - exact)[reached].max() < 16 / 65535 / 2 * 1.02
            assert (log_p[index][~reached] <= exact.max(axis=1).max() - 15.99).all()
    np.testing.assert_allclose(np.exp(log_p).sum(axis=2), 1, atol=5e-4)


def test_reading_is_the_inverse(stored: Path) -> None:
    tokens, log_p = _read_plainly(stored)
    opened = open_baseline(stored)
    assert (opened.context, opened.vocabulary) == (CONTEXT, 4096)
    np.testing.assert_array_equal(opened.windows, tokens)
    np.testing.assert_allclose(opened.log_probabilities(7), log_p[7], atol=1e-5)


def test_a_baseline_with_nan_ends_the_check(stored: Path, tmp_path: Path) -> None:
    opened, data = open_baseline(stored), bytearray(stored.read_bytes())
    row = 2 * opened.rows.shape[2]
    first = opened.rows.offset + (CONTEXT - 1 - CONTEXT // 2 + 3) * row  # the fourth row of window 1
    data[first : first + 4] = np.float32(np.nan).tobytes()
    path = tmp_path / "spoiled.kld"
    path.write_bytes(bytes(data))
    with pytest.raises(NotFiniteError, match=r"spoiled.kld: holds numbers that are not finite in window 1: save it"):
        measure_against_stored(open_baseline(path), MODEL, threads=1)


def test_rows_of_odd_vocabularies_and_of_one_value_are_padded() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (3, 7)).astype(np.float32)
    logits[2] = 1.5
    rows = encode_rows(logits)
    assert rows.shape == (3, 12)
    assert not rows[:, 11].any()
    scale, least = rows[:, :2].copy().view(np.float32), rows[:, 2:4].copy().view(np.float32)
    log_p = scale * rows[:, 4:11] + least
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(log_p[2], -np.log(7), atol=1e-6)


def test_a_check_against_the_file_is_a_check_against_the_model(stored: Path, tmp_path: Path) -> None:
    candidate = write_quantized(tmp_path / "q4_0.gguf", gguf.GGMLQuantizationType.Q4_0)
    calls: list[tuple[int, int]] = []
    from_file = measure_against_stored(
        open_baseline(stored), candidate, threads=2, progress=lambda done, of: calls.append((done, of))
    ).scores()
    direct = measure(MODEL, candidate, TEXTS, context=CONTEXT, windows=12, threads=2).scores()
    np.testing.assert_allclose(from_file.kl, direct.kl, atol=3e-4)
    assert abs(from_file.kl.mean() - direct.kl.mean()) < 2e-5
    np.testing.assert_allclose(from_file.baseline_nll, direct.baseline_nll, atol=2e-4)
    np.testing.assert_array_equal(from_file.candidate_nll, direct.candidate_nll)
    np.testing.assert_allclose(from_file.probability_change, direct.probability_change, atol=2e-4)
    assert np.mean(from_file.same_top == direct.same_top) > 0.998
    assert calls[-1] == (12, 12)


def test_scores_against_stored_rows_are_llama_perplexitys_sums() -> None:
    random = np.random.default_rng(1)
    stored = np.log(random.dirichlet(np.full(50, 0.05), 20).clip(2.5e-8)).astype(np.float32)
    candidate = random.normal(0, 2, (20, 50)).astype(np.float32)
    targets = random.integers(0, 50, 20).astype(np.int32)
    found = score_stored(stored, candidate, targets)
    for row in range(20):
        log_q = candidate[row].astype(float) - np.log(np.exp(candidate[row].astype(float)).sum())
        log_p = stored[row].astype(float)
        kl = sum(np.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True) if p > -16)
        assert found.kl[0, row] == pytest.approx(kl, abs=1e-6)
        assert found.baseline_nll[0, row] == pytest.approx(-log_p[targets[row]])
        change = np.exp(log_q[targets[row]]) - np.exp(log_p[targets[row]])
        assert found.probability_change[0, row] == pytest.approx(change, abs=1e-6)


def test_files_that_are_none_are_refused(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="can't be read: No such file"):
        open_baseline(tmp_path / "none.kld")
    other = tmp_path / "other.kld"
    other.write_bytes(b"_logit")
    with pytest.raises(InvalidInput, match="is not a file of log-probabilities"):
        open_baseline(other)
    rows = open_baseline(stored).rows
    other.write_bytes(stored.read_bytes()[: rows.offset + rows.nbytes - 2])
    with pytest.raises(InvalidInput, match="is cut short"):
        open_baseline(other)
    other.write_bytes(b"_logits_" + struct.pack("<iii", 512, -3, 5))
    with pytest.raises(InvalidInput, match="a vocabulary of -3"):
        open_baseline(other)


def test_bad_requests_are_refused(stored: Path, tmp_path: Path) -> None:
    smaller = write_smaller_vocabulary(tmp_path / "smaller.gguf")
    with pytest.raises(InvalidInput, match=r"has 4000 tokens in its vocabulary, .*base\.kld has 4096"):
        measure_against_stored(open_baseline(stored), smaller)
    with pytest.raises(InvalidInput, match="needs at least 2 windows, not 1"):
        measure_against_stored(open_baseline(stored), MODEL, windows=1)
    with pytest.raises(InvalidInput, match="exists"):
        write_baseline(MODEL, TEXTS, stored, context=CONTEXT)
    with pytest.raises(InvalidInput, match="there is none to evaluate"):
        write_baseline(MODEL, [], tmp_path / "x.kld")
