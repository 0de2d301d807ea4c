from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from raq_client import engine
from raq_client.compensation.collect import collect_gram
from raq_client.compensation.gram import Gram, output_entry
from raq_client.compensation.outputs import OutputsCollection, OutputSums
from raq_client.compensation.sums import HELD_OUT_EVERY, HELD_OUT_INPUTS
from raq_client.curvature.fisher import FisherSums, collect_fisher
from raq_client.curvature.information import Fisher
from raq_client.curvature.layers import Watch
from raq_client.curvature.passes import add_windows, network_for
from raq_client.engine import Engine
from raq_client.engine.windows import Text, cut_windows
from raq_client.estimates.stages import gram_size
from raq_client.models.model_file import ModelFile, open_model
from raq_solver.errors import InvalidInput
from support.engine_models import MODEL, TEXT
from support.outputs import add_outputs

CONTEXT = 64
NAME = "blk.1.attn_k.weight"


@pytest.fixture(scope="module")
def loaded() -> Iterator[Engine]:
    with engine.load(MODEL, context=CONTEXT, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def model() -> ModelFile:
    return open_model(MODEL)


@pytest.fixture(scope="module")
def windows(loaded: Engine) -> np.ndarray:
    return cut_windows(loaded, [Text("one", TEXT[:9000])], 9)[0]


@pytest.fixture(scope="module")
def inputs(loaded: Engine, model: ModelFile) -> Gram:
    return collect_gram(loaded, model, [Text("one", TEXT[:9000])], windows=8)


@pytest.fixture(scope="module")
def gram(loaded: Engine, model: ModelFile, inputs: Gram, windows: np.ndarray) -> Gram:
    return add_outputs(inputs, model, loaded, windows, memory=1 << 30)


class _Recorded(FisherSums):
    """Keeps the gradients at one product's outputs by window."""

    def __init__(self, model: ModelFile) -> None:
        super().__init__(model, CONTEXT)
        self.gradients: list[np.ndarray] = []

    def watch_of(self, name: str, matrix: int, _inputs: np.ndarray) -> Watch:
        def watch(_inputs: np.ndarray, gradient: np.ndarray) -> None:
            if name == NAME:
                self.gradients.append(np.array(gradient))

        return watch


def test_an_entry_is_the_mean_of_products_of_gradients(
    loaded: Engine, model: ModelFile, gram: Gram, windows: np.ndarray
) -> None:
    network, begun = network_for(model, loaded, windows)
    recorded = _Recorded(model)
    for first in range(0, len(begun), 4):
        add_windows(network, begun[first : first + 4], recorded, first=first)
    held_out = HELD_OUT_EVERY - 1
    counted = np.concatenate([each for place, each in enumerate(recorded.gradients) if place != held_out])
    found = gram.source.matrix(output_entry(NAME), 0)
    assert found.tokens == len(counted) == 8 * CONTEXT
    scale = float(np.abs(found.blocks[0]).max())
    np.testing.assert_allclose(found.blocks[0], counted.T @ counted / len(counted), atol=1e-5 * scale)
    np.testing.assert_allclose(found.held_out, recorded.gradients[held_out], atol=1e-5)


def test_every_matrix_of_the_blocks_has_outputs(model: ModelFile, gram: Gram) -> None:
    expected = {t.name for t in model.tensors if t.name.startswith("blk.") and len(t.shape) > 1}
    assert gram.outputs == expected
    assert gram.check_against(model.fingerprint(), model.tensors) is gram
    assert {gram.entries[output_entry(name)].windows for name in gram.outputs} == {9}


def test_an_interrupted_collection_ends_with_the_same(
    loaded: Engine, model: ModelFile, inputs: Gram, gram: Gram, windows: np.ndarray
) -> None:
    class Ended(Exception):
        pass

    states: list[Gram] = []

    def save(state: Gram) -> Gram:
        states.append(state)
        if len(states) == 2:
            raise Ended
        return state

    with pytest.raises(Ended):
        add_outputs(inputs, model, loaded, windows, memory=1 << 30, save=save)
    assert [state.unfinished for state in states] == [True, True]
    begun = replace(states[-1], unfinished=False)
    # The width of its blocks stays: it is not chosen again, by less memory.
    again = add_outputs(begun, model, loaded, windows, memory=1000)
    one, other = (each.source.matrix(output_entry(NAME), 0) for each in (gram, again))
    np.testing.assert_allclose(one.blocks[0], other.blocks[0], rtol=1e-4, atol=1e-6 * np.abs(one.blocks[0]).max())
    np.testing.assert_array_equal(one.held_out, other.held_out)


def test_memory_bounds_the_width_of_blocks(model: ModelFile) -> None:
    tensors = [tensor for tensor in model.tensors if tensor.name == "blk.0.ffn_up.weight"]
    sums = OutputSums(tensors, 256, 8)
    ((name, (matrix,)),) = sums.found()
    assert name == "blk.0.ffn_up.weight"
    assert [len(block) for block in matrix.blocks] == [256, 256]


def test_what_can_not_be_collected_is_refused(
    loaded: Engine, model: ModelFile, inputs: Gram, windows: np.ndarray
) -> None:
    with pytest.raises(InvalidInput, match="at least 8 are needed"):
        add_outputs(inputs, model, loaded, windows[:7], memory=1 << 30)
    with pytest.raises(InvalidInput, match=r"more than --gram-memory 1,000; give more"):
        add_outputs(inputs, model, loaded, windows, memory=1000)


def test_the_estimated_size_is_that_of_the_entries(model: ModelFile, inputs: Gram, gram: Gram) -> None:
    for found, outputs in ((inputs, False), (gram, True)):
        entries = found.entries.values()
        values = sum(len(e.tokens) * (sum(b.packed for b in e.blocks) + HELD_OUT_INPUTS * e.length) for e in entries)
        assert gram_size(model, outputs=outputs) == 4 * values


def test_fisher_information_comes_from_the_same_passes(
    loaded: Engine, model: ModelFile, inputs: Gram, gram: Gram, windows: np.ndarray
) -> None:
    """Also where one of them was begun before: it leaves out what it has counted."""
    alone = collect_fisher(model, loaded, windows)
    begun: list[tuple[dict[str, Fisher], int]] = []
    collect_fisher(model, loaded, windows[:4], save=lambda found, done: begun.append((dict(found), done)))
    for start in (({}, 0), begun[0]):
        outputs = OutputsCollection(inputs, model, len(windows), memory=1 << 30)
        found = collect_fisher(model, loaded, windows, start=start, beside=[outputs])
        for name, fisher in alone.items():
            np.testing.assert_array_equal(found[name].rows, fisher.rows)
            np.testing.assert_array_equal(found[name].levels, fisher.levels)
        for name in gram.outputs:
            one, other = (each.source.matrix(output_entry(name), 0) for each in (gram, outputs.gram))
            np.testing.assert_array_equal(one.blocks[0], other.blocks[0])
