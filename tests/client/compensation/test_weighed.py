"""Inputs weighed by gradients: half of each metric, of windows that feedback is not tested on."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raq_client.cli.collect_gram import Gathering, GramOptions
from raq_client.compensation.gram import Gram, weighed_entry
from raq_client.compensation.gram_file import read_gram, write_gram
from raq_client.compensation.outputs import OutputsCollection, held_out_windows, without_outputs
from raq_client.compensation.sums import HELD_OUT_EVERY
from raq_client.compensation.weighed import WeighedInputs, weighed_bytes
from raq_client.curvature.layers import Watch
from raq_client.curvature.passes import GradientSums, add_windows, network_for
from raq_client.engine import Engine
from raq_client.models.model_file import ModelFile
from raq_client.planning.memory_budget import parse_size
from support.outputs import TEXTS, add_outputs

SHARED = tuple(f"blk.1.attn_{part}.weight" for part in "qkv")


@pytest.fixture(autouse=True)
def _few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens for each column are enough here."""
    monkeypatch.setattr("raq_client.compensation.weighed.LEAST_TOKENS", 2)


class _Recorded(GradientSums):
    """Keeps the window, the inputs and the gradient of each of the products with the same inputs."""

    def __init__(self) -> None:
        self.found: list[tuple[int, np.ndarray, np.ndarray]] = []
        self._window = 0

    def begin(self, window: int) -> None:
        self._window = window

    def watch_of(self, name: str, matrix: int, _inputs: np.ndarray) -> Watch:
        def watch(inputs: np.ndarray, gradient: np.ndarray, _at_inputs: np.ndarray) -> None:
            if name in SHARED:
                self.found.append((self._window, np.array(inputs, np.float64), np.array(gradient, np.float64)))

        return watch


def test_a_metric_is_half_of_inputs_and_half_of_inputs_by_their_gradients(
    loaded: Engine, model: ModelFile, inputs: Gram, windows: np.ndarray
) -> None:
    found = add_outputs(inputs, model, loaded, windows, memory=1 << 30)
    network, begun = network_for(model, loaded, windows)
    recorded = _Recorded()
    for first in range(0, len(begun), 4):
        add_windows(network, begun[first : first + 4], recorded, first=first)
    assert len(recorded.found) == len(SHARED) * len(windows)
    by_gradients = np.zeros((256, 256))
    for window, rows, gradient in recorded.found:
        if window != HELD_OUT_EVERY - 1:  # its inputs are what feedback is tested on
            by_gradients += (rows * np.square(gradient).sum(axis=1, keepdims=True)).T @ rows
    entry = found.shared[SHARED[0]]
    before, after = (gram.source.matrix(entry, 0) for gram in (inputs, found))
    alone = before.blocks[0].astype(np.float64)
    expected = (alone + by_gradients * np.trace(alone) / np.trace(by_gradients)) / 2
    np.testing.assert_allclose(after.blocks[0], expected, atol=1e-5 * float(np.abs(expected).max()))
    np.testing.assert_array_equal(after.held_out, before.held_out)
    assert after.tokens == before.tokens
    assert weighed_entry(entry) not in found.entries


def test_matrices_with_few_tokens_are_left_as_they_are(
    loaded: Engine, model: ModelFile, inputs: Gram, windows: np.ndarray
) -> None:
    found = add_outputs(inputs, model, loaded, windows, memory=1 << 30)
    # 512 tokens are counted: two for each of 256 columns, one for each of 512.
    for name, same in (("blk.1.attn_q.weight", False), ("blk.1.ffn_down.weight", True)):
        one, other = (gram.source.matrix(gram.shared[name], 0).blocks[0] for gram in (found, inputs))
        assert np.array_equal(one, other) == same


class Ended(Exception): ...


def _begun(state: Path, loaded: Engine, model: ModelFile, inputs: Gram, windows: np.ndarray) -> Gram:
    """The state of a collection that ended after its first windows."""

    def save(gram: Gram) -> Gram:
        write_gram(gram, state)
        raise Ended

    with pytest.raises(Ended):
        add_outputs(inputs, model, loaded, windows, memory=1 << 30, save=save)
    return read_gram(state)


def test_an_interrupted_collection_ends_with_the_same_bits(
    loaded: Engine, model: ModelFile, inputs: Gram, windows: np.ndarray, tmp_path: Path
) -> None:
    whole = add_outputs(inputs, model, loaded, windows, memory=1 << 30)
    begun = _begun(tmp_path / "m.partial.gram", loaded, model, inputs, windows)
    assert weighed_entry(begun.shared[SHARED[0]]) in begun.growing
    again = add_outputs(replace(begun, unfinished=False), model, loaded, windows, memory=1 << 30)
    assert again.digest() == whole.digest()
    assert without_outputs(begun).entries.keys() == inputs.entries.keys()


@pytest.mark.parametrize("least", [1, 3])
def test_what_is_continued_weighs_the_inputs_that_it_began_with(
    least: int, loaded: Engine, model: ModelFile, inputs: Gram, windows: np.ndarray, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Not those that have enough tokens by now, as with other options, nor less memory."""
    begun = _begun(tmp_path / "m.partial.gram", loaded, model, inputs, windows)
    monkeypatch.setattr("raq_client.compensation.weighed.LEAST_TOKENS", least)
    outputs = OutputsCollection(begun, model, len(windows), memory=1000)
    assert outputs.lacking == 0
    growing = outputs._growing.weighed.sums
    assert set(growing) == {name for name in begun.entries if name.endswith(".weighed")}


def test_windows_that_feedback_is_tested_on_are_known_by_their_tokens(
    loaded: Engine, inputs: Gram, windows: np.ndarray
) -> None:
    begun = loaded.begun(windows)
    assert held_out_windows(inputs, begun) == {HELD_OUT_EVERY - 1}
    assert held_out_windows(inputs, begun[::-1]) == {len(windows) - HELD_OUT_EVERY}


def test_without_the_memory_inputs_are_not_weighed(
    loaded: Engine, model: ModelFile, inputs: Gram, windows: np.ndarray
) -> None:
    assert OutputsCollection(inputs, model, 8, memory=1 << 30).lacking == 0
    outputs_alone = 17 << 20
    least = OutputsCollection(inputs, model, 8, memory=outputs_alone).lacking
    assert least > outputs_alone
    assert OutputsCollection(inputs, model, 8, memory=least).lacking == 0
    found = add_outputs(inputs, model, loaded, windows, memory=least - 1)
    entry = found.shared[SHARED[0]]
    one, other = (gram.source.matrix(entry, 0) for gram in (found, inputs))
    np.testing.assert_array_equal(one.blocks[0], other.blocks[0])


def test_the_note_names_a_memory_that_is_enough(
    loaded: Engine, inputs: Gram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(memory: int) -> str:
        gathering = Gathering(loaded, TEXTS, tmp_path / "m.gram", GramOptions(None, 16, memory))
        monkeypatch.setattr(gathering, "_inputs", inputs)
        assert gathering.outputs()
        return capsys.readouterr().err

    note = said(18 << 20)
    size = re.search(r"not weighed by gradients, which takes --gram-memory (\d+MiB) or more", note)
    assert size is not None
    assert parse_size(size[1]) > 18 << 20
    assert said(parse_size(size[1])) == ""


def test_the_memory_is_that_of_the_sums(model: ModelFile, inputs: Gram) -> None:
    tensors = [tensor for tensor in model.tensors if tensor.name in inputs.shared and tensor.name.startswith("blk.")]
    assert {tensor.row_length for tensor in tensors} == {256, 512}
    sums = WeighedInputs(tensors, inputs.shared, ()).sums
    assert len(sums) < len(tensors)
    expected = sum(block.nbytes for parts in sums.values() for part in parts for block in part.blocks)
    assert weighed_bytes(tensors, inputs.shared) == expected
