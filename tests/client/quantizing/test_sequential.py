"""Rounding block after block: it comes nearer to the model, goes on after an interruption, and says what it lacks."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import raq_native
from raq_client import engine
from raq_client.compensation.collect import collect_gram
from raq_client.compensation.compensate import Compensation
from raq_client.compensation.gram import Gram
from raq_client.curvature.layers import Array, Watch
from raq_client.curvature.network import BlockWeights, Network, unwatched
from raq_client.curvature.shapes import shape_of
from raq_client.engine.windows import Text, cut_windows
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.quantizable import is_quantizable
from raq_client.quantizing import sequential
from raq_client.quantizing.quantize import blocks_of
from raq_client.quantizing.rounding import Rounding
from raq_client.quantizing.sequential import check_sequential, sequences_of, sequentially_rounded
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensor_names import OUTPUT, block_of
from raq_solver.tensors import Tensor
from support.engine_models import MODEL, TEXT, write_mixture
from support.outputs import add_outputs

CONTEXT = 64
Values = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model() -> ModelFile:
    return open_model(MODEL)


@pytest.fixture(scope="module")
def collected() -> tuple[Gram, np.ndarray]:
    """Gram statistics, and windows of the same kind of text that they have nothing of."""
    with engine.load(MODEL, context=CONTEXT, threads=1) as loaded:
        model = open_model(MODEL)
        texts = [Text("one", TEXT[:80_000])]
        gram = collect_gram(loaded, model, texts, windows=64)
        windows = cut_windows(loaded, texts, None)[0]
        return add_outputs(gram, model, loaded, windows[:8], memory=1 << 30), loaded.begun(windows[-8:])


@pytest.fixture(scope="module")
def gram(collected: tuple[Gram, np.ndarray]) -> Gram:
    return collected[0]


@pytest.fixture(scope="module")
def types(model: ModelFile) -> dict[Tensor, QuantType]:
    """Three bits for the blocks, more for the embedding; the head as it is."""
    wanted = {t: CATALOGUE["Q3_K" if block_of(t.name) >= 0 else "Q5_K"] for t in model.tensors if is_quantizable(t)}
    return {tensor: wanted[tensor] for tensor in wanted if tensor.name != OUTPUT}


def _rounding(gram: Gram) -> Rounding:
    return Rounding(None, Compensation(gram), threads=1)


def _pass(model: ModelFile, types: dict[Tensor, QuantType], gram: Gram, folder: Path, **more: object) -> Values:
    """The weights of a sequential pass."""
    rounding = _rounding(gram)
    make = more.pop("make", partial(blocks_of, model, rounding=rounding))
    blocks = sequentially_rounded(model, types, rounding, make, folder, **more)
    return {tensor.name: _values(tensor, wanted, blocks(tensor, wanted)) for tensor, wanted in types.items()}


def _values(tensor: Tensor, wanted: QuantType, blocks: Iterator[np.ndarray]) -> np.ndarray:
    return raq_native.dequantize(wanted.name, np.concatenate(list(blocks)), tensor.row_length)


def _distance(model: ModelFile, values: Values, windows: np.ndarray) -> float:
    """The mean squared change of the head's input on windows, by these weights."""
    network = Network(model, shape_of(model), windows.shape[1])
    changes = []
    for window in windows:
        embedding = values.get("token_embd.weight")
        true = network.embed(window)
        other = network.embed(window, None if embedding is None else embedding.__getitem__)
        for block in range(network.shape.blocks):
            own = network.block_weights(block)
            start = f"blk.{block}."
            changed = {
                name.removeprefix(start): each.reshape(own.need(name.removeprefix(start)).shape)
                for name, each in values.items()
                if name.startswith(start)
            }
            true = network.block(true, own, unwatched)
            other = network.block(other, BlockWeights(block, {**own.values, **changed}), unwatched)
        changes.append(np.square(network.head_inputs(true) - network.head_inputs(other)).mean())
    return float(np.mean(changes))


@pytest.fixture(scope="module")
def found(
    model: ModelFile, types: dict[Tensor, QuantType], gram: Gram, tmp_path_factory: pytest.TempPathFactory
) -> Values:
    return _pass(model, types, gram, tmp_path_factory.mktemp("sequential") / "rounded")


def test_the_model_is_nearer_on_text_that_was_not_counted(
    model: ModelFile, types: dict[Tensor, QuantType], collected: tuple[Gram, np.ndarray], found: Values
) -> None:
    gram, others = collected
    apart = {t.name: _values(t, q, blocks_of(model, t, q, _rounding(gram))) for t, q in types.items()}
    assert _distance(model, found, others) < 0.9 * _distance(model, apart, others)


def test_without_errors_there_is_no_drift(model: ModelFile, gram: Gram, tmp_path: Path) -> None:
    types = {
        tensor: CATALOGUE["F32"] for tensor in model.tensors if block_of(tensor.name) == 1 and len(tensor.shape) > 1
    }
    for name, values in _pass(model, types, gram, tmp_path / "rounded").items():
        assert np.array_equal(values, model.weights(model.tensor(name)))


def test_an_interrupted_pass_goes_on_with_the_same_bits(
    model: ModelFile, types: dict[Tensor, QuantType], gram: Gram, found: Values, tmp_path: Path
) -> None:
    folder = tmp_path / "rounded"

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == shape_of(model).blocks
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        _pass(model, types, gram, folder, passed=stop)
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(kept) == 1 + sum(block_of(tensor.name) in (0, 1) for tensor in types)

    again = _pass(model, types, gram, folder)
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in folder.iterdir()}.items()
    for name, values in found.items():
        assert np.array_equal(again[name], values), name


def test_a_head_of_its_own_is_corrected_too(model: ModelFile, gram: Gram, tmp_path: Path) -> None:
    head = model.tensor(OUTPUT)
    types = {
        tensor: CATALOGUE["Q2_K"] for tensor in model.tensors if block_of(tensor.name) == 0 and is_quantizable(tensor)
    }
    wanted = CATALOGUE["Q8_0"]
    found = _pass(model, {**types, head: wanted}, gram, tmp_path / "rounded")
    apart = _values(head, wanted, blocks_of(model, head, wanted, _rounding(gram)))
    own = model.weights(head)
    # Its inputs have drifted, so it moves further from its own weights than rounding alone moves it.
    assert np.square(found[OUTPUT] - own).sum() > 4 * np.square(apart - own).sum()


def test_each_stage_sees_the_rounded_tensors_before_it(
    model: ModelFile, types: dict[Tensor, QuantType], gram: Gram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[tuple[str, bool]] = []
    block = Network.block

    def watched(self: Network, stream: Array, weights: BlockWeights, watch_of: object, *more: object) -> Array:
        own = self.block_weights(weights.block)

        def watch(name: str, matrix: int, inputs: Array) -> Watch:
            role = name.removeprefix(f"blk.{weights.block}.")
            passes.append(
                (role, weights.values[role] is not None and np.array_equal(weights.values[role], own.values[role]))
            )
            return watch_of(name, matrix, inputs)  # type: ignore[operator]

        return block(self, stream, weights, watch, *more)

    monkeypatch.setattr(Network, "block", watched)
    few = {tensor: wanted for tensor, wanted in types.items() if block_of(tensor.name) == 0}
    _pass(model, few, replace(gram, sequences=gram.sequences[:8]), tmp_path / "rounded")
    seen = set(passes)
    for role in ("attn_q.weight", "attn_output.weight", "ffn_up.weight"):
        assert (role, True) in seen
        assert (role, False) in seen
    last = passes.index(("attn_output.weight", True))
    assert ("attn_v.weight", False) not in passes[:last]


def test_what_is_missing_is_said(model: ModelFile, gram: Gram) -> None:
    lost = {
        "give --gram FILE": None,
        "the tokens of its windows": replace(gram, sequences=None),
        "statistics of outputs": replace(gram, outputs=frozenset()),
        "4 windows": replace(gram, sequences=gram.sequences[:4]),
        "tokens that": replace(gram, sequences=gram.sequences + 4000),
    }
    for message, given in lost.items():
        with pytest.raises(InvalidInput, match=message):
            check_sequential(model, given)
    check_sequential(model, gram)


def test_at_most_64_windows_pass_through_spread_over_all(gram: Gram) -> None:
    assert gram.sequences is not None
    few, many = (replace(gram, sequences=each) for each in (gram.sequences[:8], np.repeat(gram.sequences, 2, axis=0)))
    assert np.array_equal(sequences_of(few), gram.sequences[:8])
    assert np.array_equal(sequences_of(many), gram.sequences)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFile, Gram, np.ndarray]:
    """A model with experts, its statistics, and windows that they have nothing of."""
    path = write_mixture(tmp_path_factory.mktemp("experts") / "experts.gguf", experts=4, used=2)
    with engine.load(path, context=CONTEXT, threads=1) as loaded:
        model = open_model(path)
        texts = [Text("one", TEXT[:80_000])]
        gram = collect_gram(loaded, model, texts, windows=64)
        windows = cut_windows(loaded, texts, None)[0]
        return model, add_outputs(gram, model, loaded, windows[:8], memory=1 << 30), loaded.begun(windows[-8:])


def test_experts_are_corrected_too(
    experts: tuple[ModelFile, Gram, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, gram, others = experts
    gram = replace(gram, sequences=gram.sequences[:24])
    types = {t: CATALOGUE["Q2_K"] for t in model.tensors if "_exps" in t.name and block_of(t.name) < 2}
    monkeypatch.setattr(sequential, "EXPERT_BYTES", 0)  # one expert at a time
    found = _pass(model, types, gram, tmp_path / "rounded")
    # Nothing else is rounded, so nothing else can take back what the experts before it have done.
    apart = {t.name: _values(t, q, blocks_of(model, t, q, _rounding(gram))) for t, q in types.items()}
    assert _distance(model, found, others) < 0.95 * _distance(model, apart, others)

    monkeypatch.undo()
    for name, values in _pass(model, types, gram, tmp_path / "again").items():
        assert np.array_equal(values, found[name]), name


def test_inputs_of_an_expert_are_paired_by_the_routes_of_the_model(
    experts: tuple[ModelFile, Gram, np.ndarray],
) -> None:
    model, _, windows = experts
    network = Network(model, shape_of(model), windows.shape[1])
    weights = network.block_weights(0)
    stream = network.embed(windows[0])
    routes = sequential.Routes()
    seen: dict[int, list[int]] = {}

    def watch_of(name: str, matrix: int, inputs: Array) -> Watch:
        seen.setdefault(matrix, []).append(len(inputs))
        return unwatched(name, matrix, inputs)

    network.block(stream, weights, watch_of, routes.first)
    first, seen = dict(seen), {}
    other = stream + np.random.default_rng(0).normal(0, stream.std(), stream.shape).astype(np.float32)
    network.block(other, weights, watch_of)
    assert seen != first  # left to itself the other stream goes elsewhere
    seen = {}
    network.block(other, weights, watch_of, routes.again)
    assert seen == first
