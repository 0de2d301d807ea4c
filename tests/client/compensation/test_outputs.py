from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import raq_native
from raq_client import engine
from raq_client.compensation.collect import collect_gram
from raq_client.compensation.compensate import Compensation
from raq_client.compensation.gram import Gram, InMemory, curvature_entry, output_entry
from raq_client.compensation.gram_file import read_gram, write_gram
from raq_client.compensation.outputs import OutputsCollection, OutputSums, without_outputs
from raq_client.compensation.sums import HELD_OUT_EVERY, HELD_OUT_INPUTS
from raq_client.compensation.weighed import WeighedInputs
from raq_client.curvature.fisher import FisherSums, collect_fisher
from raq_client.curvature.information import Fisher
from raq_client.curvature.layers import Watch
from raq_client.curvature.passes import HeadPass, add_windows, network_for
from raq_client.engine import Engine
from raq_client.engine.windows import Text, cut_windows
from raq_client.estimates.stages import gram_size
from raq_client.evaluation.in_memory import RecordedLogits
from raq_client.models.model_file import ModelFile, open_model
from raq_client.quantizing.quantize import blocks_of
from raq_client.quantizing.rounding import Rounding
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensor_names import OUTPUT
from support.engine_models import TEXT, write_tied
from support.outputs import CONTEXT, add_outputs

NAME = "blk.1.attn_k.weight"
EMBEDDING = "token_embd.weight"


@pytest.fixture(scope="module")
def gram(loaded: Engine, model: ModelFile, inputs: Gram, windows: np.ndarray) -> Gram:
    return add_outputs(inputs, model, loaded, windows, memory=1 << 30)


class _Recorded(FisherSums):
    """Keeps, by window, the gradients at one product's outputs and at the embedding's rows, and what the head has."""

    def __init__(self, model: ModelFile) -> None:
        super().__init__(model, CONTEXT)
        self.gradients: list[np.ndarray] = []
        self.lookups: list[np.ndarray] = []
        self.heads: list[tuple[np.ndarray, np.ndarray]] = []

    def add_lookup(self, _name: str, _tokens: np.ndarray, gradient: np.ndarray) -> None:
        self.lookups.append(np.array(gradient))

    def add_head(self, _name: str, head: HeadPass) -> None:
        self.heads.append((np.array(head.inputs), np.array(head.shares)))

    def watch_of(self, name: str, matrix: int, _inputs: np.ndarray) -> Watch:
        def watch(_inputs: np.ndarray, gradient: np.ndarray, _at_inputs: np.ndarray) -> None:
            if name == NAME:
                self.gradients.append(np.array(gradient))

        return watch


def test_an_entry_is_the_mean_of_products_of_gradients(
    loaded: Engine, model: ModelFile, gram: Gram, windows: np.ndarray
) -> None:
    recorded = _recorded(model, loaded, windows)
    held_out = HELD_OUT_EVERY - 1
    counted = np.concatenate([each for place, each in enumerate(recorded.gradients) if place != held_out])
    found = gram.source.matrix(output_entry(NAME), 0)
    assert found.tokens == len(counted) == 8 * CONTEXT
    scale = float(np.abs(found.blocks[0]).max())
    np.testing.assert_allclose(found.blocks[0], counted.T @ counted / len(counted), atol=1e-5 * scale)
    np.testing.assert_allclose(found.held_out, recorded.gradients[held_out], atol=1e-5)


def _recorded(model: ModelFile, engine: Engine, windows: np.ndarray) -> _Recorded:
    network, begun = network_for(model, engine, windows)
    recorded = _Recorded(model)
    for first in range(0, len(begun), 4):
        add_windows(network, begun[first : first + 4], recorded, first=first)
    return recorded


def _counted(parts: Sequence[np.ndarray]) -> np.ndarray:
    """What the windows have together, but for the one that is held out."""
    return np.concatenate([each for place, each in enumerate(parts) if place != HELD_OUT_EVERY - 1])


def _spread(inputs: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The inputs of the head times the standard deviations of the labels, all together."""
    return inputs * np.sqrt((shares * (1 - shares)).sum(axis=1, keepdims=True))


def test_the_embedding_has_the_gradients_at_its_rows_and_the_head_the_spread_of_labels(
    loaded: Engine, model: ModelFile, gram: Gram, windows: np.ndarray
) -> None:
    recorded = _recorded(model, loaded, windows)
    for name, parts in ((EMBEDDING, recorded.lookups), (OUTPUT, [_spread(*each) for each in recorded.heads])):
        assert gram.shared[name] == curvature_entry(name)
        found, counted = gram.source.matrix(curvature_entry(name), 0), _counted(parts)
        expected = counted.T @ counted / len(counted)
        np.testing.assert_allclose(found.blocks[0], expected, atol=1e-5 * float(np.abs(expected).max()))
        np.testing.assert_allclose(found.held_out, parts[HELD_OUT_EVERY - 1], rtol=1e-3, atol=1e-5)


def test_an_embedding_that_is_the_head_has_both(windows: np.ndarray, tmp_path: Path) -> None:
    path = write_tied(tmp_path / "tied.gguf")
    model = open_model(path)
    with engine.load(path, context=CONTEXT, threads=1) as loaded:
        inputs = collect_gram(loaded, model, [Text("one", TEXT[:9000])], windows=8)
        assert inputs.shared[EMBEDDING] == EMBEDDING
        gram = add_outputs(inputs, model, loaded, windows, memory=1 << 30)
        recorded = _recorded(model, loaded, windows)
    found = gram.source.matrix(curvature_entry(EMBEDDING), 0)
    both = np.concatenate([_counted(recorded.lookups), _counted([_spread(*each) for each in recorded.heads])])
    assert found.tokens == len(both)
    expected = both.T @ both / len(both)
    np.testing.assert_allclose(found.blocks[0], expected, atol=1e-5 * float(np.abs(expected).max()))
    assert len(found.held_out) == 2 * CONTEXT
    assert EMBEDDING not in gram.entries  # the inputs of the head, which nothing uses any more


@pytest.mark.parametrize("name", [EMBEDDING, OUTPUT])
def test_feedback_by_curvature_brings_the_model_nearer(loaded: Engine, model: ModelFile, gram: Gram, name: str) -> None:
    tensor, wanted = model.tensor(name), CATALOGUE["Q3_K"]
    others = cut_windows(loaded, [Text("other", TEXT[20_000:40_000])], 12)[0]
    recorded = RecordedLogits(loaded, others)
    found = []
    for rounding in (Rounding(None, Compensation(gram)), Rounding()):
        stored = np.concatenate(list(blocks_of(model, tensor, wanted, rounding)))
        values = {name: raq_native.dequantize(wanted.name, stored, tensor.row_length)[None]}
        with loaded.weights().replaced(values, lambda each: model.stored(model.tensor(each))):
            found.append(float(recorded.compare().kl.mean()))
    assert found[0] < 0.9 * found[1]


def test_every_matrix_of_the_blocks_has_outputs(model: ModelFile, gram: Gram) -> None:
    expected = {t.name for t in model.tensors if t.name.startswith("blk.") and len(t.shape) > 1}
    assert gram.outputs == expected
    assert gram.check_against(model.fingerprint(), model.tensors) is gram
    assert {gram.entries[output_entry(name)].windows for name in gram.outputs} == {9}


@pytest.mark.parametrize("saves", [1, 2])
def test_an_interrupted_collection_ends_with_the_same_bits(
    loaded: Engine, model: ModelFile, inputs: Gram, gram: Gram, windows: np.ndarray, tmp_path: Path, saves: int
) -> None:
    class Ended(Exception):
        pass

    state, left = tmp_path / "state.gram", iter(range(saves - 1))

    def save(found: Gram) -> Gram:
        assert found.unfinished
        write_gram(found, state, force=True)
        if next(left, None) is None:
            raise Ended
        return read_gram(state)

    with pytest.raises(Ended):
        add_outputs(inputs, model, loaded, windows, memory=1 << 30, save=save)
    begun = read_gram(state)
    assert {begun.entries[name].windows for name in begun.growing} == {4 * saves}
    # The width of its blocks stays: it is not chosen again, by less memory.
    again = add_outputs(replace(begun, unfinished=False), model, loaded, windows, memory=1000)
    assert again.digest() == gram.digest()


def test_a_state_without_curvature_is_passed_back_again(
    loaded: Engine, model: ModelFile, inputs: Gram, gram: Gram, windows: np.ndarray
) -> None:
    entries = {name: entry for name, entry in gram.entries.items() if not name.endswith(".curvature")}
    outputs = {name: [gram.source.matrix(name, 0)] for name in entries if name not in inputs.entries}
    source = InMemory(outputs, inputs.source)
    entries = {**inputs.entries, **entries}
    older = replace(gram, entries=entries, shared=inputs.shared, source=source, known_digest="")
    again = add_outputs(older, model, loaded, windows, memory=1 << 30)
    assert again.digest() == gram.digest()
    # What can't be ended leaves nothing of what was begun.
    assert without_outputs(older).digest() == inputs.digest()


def test_memory_bounds_the_width_of_blocks(model: ModelFile) -> None:
    tensors = [tensor for tensor in model.tensors if tensor.name == "blk.0.ffn_up.weight"]
    sums = OutputSums(tensors, [], 256, 8, WeighedInputs([], {}, ()))
    empty = Gram({}, {}, InMemory({}), (), 8, CONTEXT, "")
    matrix = sums.added_to(empty, 8).source.matrix(output_entry("blk.0.ffn_up.weight"), 0)
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
