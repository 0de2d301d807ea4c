import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from raq_client import engine
from raq_client.engine.interrupts import deferred_interrupts
from raq_solver.errors import InvalidInput
from support.engine_models import MODEL, TEXT


@pytest.fixture(scope="module")
def model() -> Iterator[engine.Engine]:
    with engine.load(MODEL, context=64, threads=2) as loaded:
        yield loaded


def test_the_model_says_what_it_is(model: engine.Engine) -> None:
    assert (model.vocabulary, model.trained_context, model.begin_token) == (4096, 512, 0)


def test_a_text_begins_with_the_begin_token_and_continues_as_its_beginning(model: engine.Engine) -> None:
    whole, part = model.tokenize(TEXT[:4000]), model.tokenize(TEXT[:2000])
    assert whole[0] == model.begin_token
    np.testing.assert_array_equal(whole[: len(part) - 2], part[:-2])  # the cut may fall into a word
    assert model.tokenize("").tolist() == [0]


def test_special_tokens_written_in_a_text_stay_text(model: engine.Engine) -> None:
    assert len(model.tokenize("<s></s>")) > 3


def test_windows_do_not_know_of_each_other(model: engine.Engine) -> None:
    windows = model.tokenize(TEXT[:6000])[: 20 * 64].reshape(20, 64)
    together = np.array(list(map(np.copy, model.score_windows(windows))))
    assert together.shape == (20, 31, 4096)
    order = np.random.default_rng(0).permutation(20)
    shuffled = np.array(list(map(np.copy, model.score_windows(windows[order]))))
    np.testing.assert_allclose(shuffled, together[order], atol=2e-4)


def test_the_first_token_of_a_window_gives_way_to_the_begin_token(model: engine.Engine) -> None:
    window = model.tokenize(TEXT[:1000])[:64].reshape(1, 64)
    changed = window.copy()
    changed[0, 0] = 77
    np.testing.assert_array_equal(next(model.score_windows(window)).copy(), next(model.score_windows(changed)))
    assert changed[0, 0] == 77


def test_tokens_after_a_position_do_not_change_its_logits(model: engine.Engine) -> None:
    window = model.tokenize(TEXT[:1000])[:64].reshape(1, 64)
    changed = window.copy()
    changed[0, 50:] = 5
    first, second = next(model.score_windows(window)).copy(), next(model.score_windows(changed)).copy()
    np.testing.assert_allclose(first[: 50 - 32], second[: 50 - 32], atol=2e-4)
    assert abs(first[50 - 32] - second[50 - 32]).max() > 0.1


def test_reading_again_gives_the_same_bits(model: engine.Engine) -> None:
    window = model.tokenize(TEXT[:1000])[:64].reshape(1, 64)
    first = next(model.score_windows(window)).copy()
    np.testing.assert_array_equal(first, next(model.score_windows(window)))


def test_libllama_is_silent_and_its_python_package_is_not_imported(capfd: pytest.CaptureFixture[str]) -> None:
    engine.load(MODEL, context=64).close()
    assert capfd.readouterr() == ("", "")
    assert "xllamacpp" not in sys.modules


def test_closing_twice_is_fine() -> None:
    loaded = engine.load(MODEL, context=64)
    loaded.close()
    loaded.close()


def _truncated(original: bytes) -> bytes:
    return original[: len(original) // 2]


def _unknown_architecture(original: bytes) -> bytes:
    return original.replace(b"llama", b"lamma")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_truncated, "not within the file bounds"),
        (_unknown_architecture, "unknown model architecture: 'lamma'"),
        (lambda _: b"", "cannot load"),
        (lambda _: b"not a model at all", "invalid magic"),
    ],
    ids=["truncated", "unknown architecture", "empty", "not a GGUF"],
)
def test_a_model_that_cannot_be_loaded_is_one_sentence(tmp_path: Path, spoil: object, reason: str) -> None:
    assert callable(spoil)
    path = tmp_path / "spoilt.gguf"
    path.write_bytes(spoil(MODEL.read_bytes()))
    with pytest.raises(InvalidInput) as caught:
        engine.load(path)
    (fault,) = caught.value.faults
    assert fault.where == str(path)
    assert reason in fault.what
    assert "\n" not in fault.what


def test_a_missing_model_and_an_absurd_context_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such model file"):
        engine.load(tmp_path / "nothing.gguf")
    with pytest.raises(InvalidInput, match="context: must be at least 8 tokens, not 2"):
        engine.load(MODEL, context=2)


def test_an_interrupt_waits_for_the_end_of_a_call() -> None:
    steps = []

    def call() -> None:
        with deferred_interrupts():
            signal.raise_signal(signal.SIGINT)
            steps.append("inside")
        steps.append("after")

    with pytest.raises(KeyboardInterrupt):
        call()
    assert steps == ["inside"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_stops_scoring(model: engine.Engine) -> None:
    windows = np.tile(model.tokenize(TEXT[:1000])[:64], (20000, 1))
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in model.score_windows(windows):
            pass
    assert time.monotonic() - began < 20  # all of it would take minutes
    timer.join()
