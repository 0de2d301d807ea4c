"""The estimate of passes back is their time, where each of their parts takes the same time whenever it is done."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raq_client.curvature.fisher import FisherCollection, FisherSums
from raq_client.curvature.layers import Watch
from raq_client.curvature.network import Network
from raq_client.curvature.passes import WINDOWS_AT_ONCE, pass_back
from raq_client.curvature.shapes import shape_of
from raq_client.estimates.passing_back import passing_back
from raq_client.models.model_file import ModelFile, open_model
from raq_solver.errors import InvalidInput
from support.tiny_models import CASES, write_tiny

CONTEXT, VOCABULARY = 6, 24
READING, RECURRENT, ATTENTION, PRODUCT, HEAD = 5.0, 2.0, 3.0, 0.25, 11.0


class _Clock:
    """A clock that is moved on by what it is told of."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def during(self, seconds: Callable[..., float], work: Callable[..., Any]) -> Callable[..., Any]:
        """The work, which takes so many seconds."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self.now += seconds(*arguments)
            return work(*arguments, **named)

        return timed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()

    def of_block(_network: Network, _stream: np.ndarray, weights: Any, *_: object) -> float:
        return ATTENTION if weights.get("ssm_out.weight") is None else RECURRENT

    def watched(self: FisherSums, name: str, matrix: int, inputs: np.ndarray) -> Watch:
        return made.during(lambda *_: PRODUCT, watch_of(self, name, matrix, inputs))

    watch_of = FisherSums.watch_of
    monkeypatch.setattr(FisherSums, "watch_of", watched)
    monkeypatch.setattr(Network, "block", made.during(of_block, Network.block))
    monkeypatch.setattr(Network, "block_weights", made.during(lambda *_: READING, Network.block_weights))
    monkeypatch.setattr(Network, "head_weights", made.during(lambda *_: HEAD, Network.head_weights))
    return made


def _model(folder: Path, case: str) -> ModelFile:
    return open_model(write_tiny(folder / "small.gguf", replace(CASES[case], vocabulary=VOCABULARY)))


def _windows(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, (count, CONTEXT)).astype(np.int32)


@pytest.mark.parametrize("case", ["llama", "qwen35"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_group_of_windows_takes_what_is_said(case: str, count: int, clock: _Clock, tmp_path: Path) -> None:
    model = _model(tmp_path, case)
    windows = _windows(count)
    found = passing_back(model, windows, [FisherCollection(model, CONTEXT)], clock=clock)
    network = Network(model, shape_of(model), CONTEXT)
    began = clock()
    network.logits(windows[0], slice(None))  # what is compared with libllama
    pass_back(network, windows, [FisherCollection(model, CONTEXT)])
    # Here the head takes the time of reading it: once for the comparison, where it is left out, and once for these
    # windows; the estimate has it for each window.
    clock.now += HEAD * (count - 2)
    assert found.pace.seconds == pytest.approx(clock() - began)


def test_blocks_are_read_once_for_some_windows(clock: _Clock, tmp_path: Path) -> None:
    model = _model(tmp_path, "llama")
    collections = [FisherCollection(model, CONTEXT)]
    before = [
        passing_back(model, _windows(count), collections, clock=clock).pace.before
        for count in (1, WINDOWS_AT_ONCE, WINDOWS_AT_ONCE + 1)
    ]
    assert before[0] == before[1]
    assert before[2] - before[1] == pytest.approx(2 * READING * shape_of(model).blocks)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    tiny = replace(CASES["llama"], vocabulary=VOCABULARY, architecture="unheard-of")
    model = open_model(write_tiny(tmp_path / "small.gguf", tiny))
    with pytest.raises(InvalidInput, match="this is unheard-of"):
        passing_back(model, _windows(1), [FisherCollection(model, CONTEXT)])
