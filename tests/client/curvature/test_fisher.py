"""Fisher information is what the definition gives when weights are moved one by one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chisquare

from raq_client import engine
from raq_client.curvature import fisher, layers, passes
from raq_client.curvature import network as network_module
from raq_client.curvature.fisher import FisherSums, collect_fisher
from raq_client.curvature.information import Fisher
from raq_client.curvature.layers import Watch
from raq_client.curvature.network import BlockWeights, Network, capped, unwatched
from raq_client.curvature.passes import add_windows
from raq_client.curvature.shapes import shape_of
from raq_client.engine.windows import Text
from raq_client.importance.collect_fisher import add_fisher, chosen_windows
from raq_client.importance.imatrix import Importance
from raq_client.models.model_file import ModelFile, open_model
from raq_solver.errors import InvalidInput
from support.engine_models import TEXT
from support.tiny_models import CASES, EXPERTS, GEMMA_NORMS, Tiny, write_tiny

VOCABULARY = 24
TOKENS = np.array([3, 17, 8, 3, 21, 11], np.int32)
STEP = 0.01
Logits = Callable[[np.ndarray], np.ndarray]


def _small(tiny: Tiny, tmp_path: Path) -> ModelFile:
    return open_model(write_tiny(tmp_path / "small.gguf", replace(tiny, vocabulary=VOCABULARY, groups=1, blocks=2)))


def _network(model: ModelFile) -> Network:
    return Network(model, shape_of(model), TOKENS.size)


def _by_definition(logits: Logits, weights: np.ndarray, wanted: np.ndarray | None = None) -> np.ndarray:
    """F of each `wanted` weight: the variance of the logits' derivatives under the model's own labels, over 2 T.

    Labels of different tokens are independent, and the mean of their derivatives is 0.
    """
    shares = softmax(logits(weights).astype(np.float64), axis=1)
    found = np.zeros(weights.shape)
    for place in np.argwhere(np.ones(weights.shape, bool) if wanted is None else wanted):
        ends = []
        for step in (STEP, -STEP):
            moved = weights.copy()
            moved[tuple(place)] += step
            ends.append(logits(moved).astype(np.float64))
        slope = (ends[0] - ends[1]) / (2 * STEP)
        variance = (shares * slope**2).sum(axis=1) - (shares * slope).sum(axis=1) ** 2
        found[tuple(place)] = variance.sum() / (2 * len(shares))
    return found


def _logits_with(network: Network, name: str, matrix: int | None = None) -> tuple[Logits, np.ndarray]:
    """The logits as a function of one matrix of a block, and that matrix."""
    block, role = int(name.split(".")[1]), name.split(".", 2)[2]
    stream = network.embed(TOKENS)
    for before in range(block):
        stream = network.block(stream, network.block_weights(before), unwatched)
    own = network.block_weights(block)
    after = [network.block_weights(later) for later in range(block + 1, network.shape.blocks)]
    head, gain = network.head_weights()
    whole = own.need(role)

    def logits(weights: np.ndarray) -> np.ndarray:
        changed = weights
        if matrix is not None:
            changed = whole.copy()
            changed[matrix] = weights
        x = network.block(stream, BlockWeights(block, {**own.values, role: changed}), unwatched)
        for later in after:
            x = network.block(x, later, unwatched)
        return capped(network.final(x, gain) @ head.T, network.shape)

    return logits, whole if matrix is None else whole[matrix]


@pytest.fixture
def every_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a label drawn for each token, window n has label n % V at token n // V alone, by its likelihood.

    Over T V windows, squares of gradients add up to their exact expectation.
    """

    def one_label(logits: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        shares = softmax(logits, axis=1)
        token, label = divmod(number, VOCABULARY)
        gradient = np.zeros_like(shares)
        gradient[token] = shares[token]
        gradient[token, label] -= 1
        return gradient * np.sqrt(shares[token, label]), shares

    monkeypatch.setattr(passes, "_label_gradient", one_label)


def _expected_squares(network: Network, model: ModelFile, name: str) -> Fisher:
    """What the code under test gives where it meets every label."""
    sums = FisherSums(model, TOKENS.size)
    add_windows(network, np.tile(TOKENS, (TOKENS.size * VOCABULARY, 1)), sums)
    return sums.found()[name]


@pytest.mark.parametrize(
    ("case", "name", "matrix"),
    [
        ("llama", "blk.0.attn_k.weight", None),
        ("gemma2", "blk.1.attn_v.weight", None),
        pytest.param("granite", "blk.1.attn_k.weight", None, marks=pytest.mark.exhaustive),
        ("qwen35", "blk.0.ssm_beta.weight", None),
        pytest.param("qwen35", "blk.0.ssm_alpha.weight", None, marks=pytest.mark.exhaustive),
        ("qwen3moe", "blk.1.ffn_down_exps.weight", 1),
    ],
)
@pytest.mark.usefixtures("every_label")
def test_sums_are_what_moving_every_weight_gives(case: str, name: str, matrix: int | None, tmp_path: Path) -> None:
    """For a row and a column, each of which takes all of its weights."""
    model = _small(CASES[case], tmp_path)
    network = _network(model)
    logits, weights = _logits_with(network, name, matrix)
    rows, columns = (np.arange(size)[3::7][:1] for size in weights.shape)
    wanted = np.zeros(weights.shape, bool)
    wanted[rows] = wanted[:, columns] = True
    expected = _by_definition(logits, weights, wanted)
    found = _expected_squares(network, model, name)
    np.testing.assert_allclose(found.rows[matrix or 0][rows], expected[rows].sum(axis=1), rtol=0.01)
    np.testing.assert_allclose(found.columns[matrix or 0][columns], expected[:, columns].sum(axis=0), rtol=0.01)


def _by_moving_inputs(network: Network, name: str, matrix: int | None, monkeypatch: pytest.MonkeyPatch) -> float:
    """What rounding the inputs of one matrix costs, by F of each input and Q8_0 as gguf-py writes it."""
    logits, weights = _logits_with(network, name, matrix)
    own: list[np.ndarray] = []
    change = np.zeros((1, 1), np.float32)

    def moving(x: np.ndarray, of: np.ndarray, watch: Watch) -> np.ndarray:
        if not np.array_equal(of, weights):
            return layers.product(x, of, watch)
        own[:] = [np.array(x)]
        return layers.product(x + change, of, watch)

    def at(inputs: np.ndarray) -> np.ndarray:
        nonlocal change
        change = inputs - before
        return logits(weights)

    monkeypatch.setattr(network_module, "product", moving)
    logits(weights)
    if not own:  # an expert that no token reached
        return 0.0
    before = own[0]
    rounded = gguf.dequantize(gguf.quantize(before, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0)
    return float((_by_definition(at, before) * np.square(rounded - before)).sum())


@pytest.mark.parametrize(
    ("case", "name"), [("llama", "blk.0.attn_output.weight"), ("qwen3moe", "blk.1.ffn_down_exps.weight")]
)
@pytest.mark.usefixtures("every_label")
def test_costs_of_rounded_inputs_are_what_moving_every_input_gives(
    case: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _small(CASES[case], tmp_path)
    network = _network(model)
    found = _expected_squares(network, model, name).inputs
    assert found is not None
    experts = model.tensor(name).matrices
    expected = sum(
        _by_moving_inputs(network, name, None if experts == 1 else each, monkeypatch) for each in range(experts)
    )
    np.testing.assert_allclose(found, [expected, 0], rtol=0.02)  # no row has 256


@pytest.mark.usefixtures("every_label")
def test_the_embedding_is_looked_up_in(tmp_path: Path) -> None:
    model = _small(CASES["gemma"], tmp_path)
    network = _network(model)
    blocks = [network.block_weights(block) for block in range(network.shape.blocks)]
    head, gain = network.head_weights()
    distinct, places = np.unique(TOKENS, return_inverse=True)

    def logits(rows: np.ndarray) -> np.ndarray:
        x = rows[places] * np.float32(network.shape.embedding_scale)
        for block in blocks:
            x = network.block(x, block, unwatched)
        return capped(network.final(x, gain) @ head.T, network.shape)

    expected = _by_definition(logits, network.embed(distinct) / np.float32(network.shape.embedding_scale))
    sums = FisherSums(model, TOKENS.size)
    sums.add_head = lambda *_: None  # it is tied, and this is about the other way in
    add_windows(network, np.tile(TOKENS, (TOKENS.size * VOCABULARY, 1)), sums)
    found = sums.found()["token_embd.weight"]
    assert not np.delete(found.rows[0], distinct).any()
    np.testing.assert_allclose(found.rows[0][distinct], expected.sum(axis=1), rtol=0.01)
    np.testing.assert_allclose(found.columns[0], expected.sum(axis=0), rtol=0.01)


def test_labels_are_drawn_as_the_model_says() -> None:
    logits = np.tile(np.array([2.0, 0.0, -1.0, 1.0], np.float32), (500, 1))
    counts = np.zeros(4)
    for number in range(20):
        gradient, shares = passes._label_gradient(logits, number)
        np.testing.assert_allclose(shares, softmax(logits, axis=1), rtol=1e-5)
        drawn = np.isclose(shares - gradient, 1.0, atol=1e-5)
        np.testing.assert_allclose(shares - gradient, drawn, atol=1e-5)
        assert (drawn.sum(axis=1) == 1).all()
        np.testing.assert_array_equal(passes._label_gradient(logits, number)[0], gradient)
        counts += drawn.sum(axis=0)
    assert chisquare(counts, counts.sum() * shares[0].astype(float) / shares[0].astype(float).sum()).pvalue > 1e-3


CAPPED = Tiny("gemma3", {"final_logit_softcapping": 3.0}, head_norms="each", norms=GEMMA_NORMS)


@pytest.mark.parametrize("tiny", [CASES["llama"], CASES["granitemoe"], CAPPED], ids=["plain", "scaled", "capped"])
def test_the_head_is_exact_after_one_window(tiny: Tiny, tmp_path: Path) -> None:
    model = _small(tiny, tmp_path)
    network = _network(model)
    stream = network.embed(TOKENS)
    for block in range(network.shape.blocks):
        stream = network.block(stream, network.block_weights(block), unwatched)
    matrix, gain = network.head_weights()
    inputs = network.final(stream, gain)
    expected = _by_definition(lambda weights: capped(inputs @ weights.T, network.shape), matrix)
    sums = FisherSums(model, TOKENS.size)
    add_windows(network, TOKENS[None], sums)
    found = sums.found()["output.weight"]
    np.testing.assert_allclose(found.rows[0], expected.sum(axis=1), rtol=5e-3)
    np.testing.assert_allclose(found.columns[0], expected.sum(axis=0), rtol=5e-3)


def test_a_tied_head_counts_both_ways(tmp_path: Path) -> None:
    both, apart = (tmp_path / name for name in ("both", "apart"))
    both.mkdir()
    apart.mkdir()
    tied, untied = _small(CASES["llama, tied"], both), _small(CASES["llama"], apart)
    sums = {}
    for model in (tied, untied):
        sums[model] = FisherSums(model, TOKENS.size)
        add_windows(_network(model), TOKENS[None], sums[model])
    assert "output.weight" not in sums[tied].found()
    rows = sums[tied].found()["token_embd.weight"].rows[0]
    assert (rows > 0).all()  # as output head every row counts, as embedding those of the tokens in the text
    assert np.count_nonzero(sums[untied].found()["token_embd.weight"].rows[0]) == len(set(TOKENS.tolist()))


def test_experts_count_the_tokens_sent_to_them(tmp_path: Path) -> None:
    model = _small(CASES["qwen3moe"], tmp_path)
    sums = FisherSums(model, TOKENS.size)
    add_windows(_network(model), TOKENS[None, :1].repeat(TOKENS.size, axis=1), sums)  # one token: always the same two
    found = sums.found()["blk.0.ffn_up_exps.weight"]
    assert found.rows.shape == (EXPERTS, 32)
    reached = found.rows.any(axis=1)
    np.testing.assert_array_equal(reached, found.columns.any(axis=1))
    assert reached.sum() == 2


def test_tokens_without_input_change_no_sum() -> None:
    """The matrix of gradients is made or not by how many tokens there are: both ways give the same."""
    random = np.random.default_rng(0)
    inputs, gradient = (random.normal(size=(3, size)).astype(np.float32) for size in (50, 40))
    squares = np.square(gradient.T.astype(np.float64) @ inputs)
    for tokens in (3, 40, 400):
        padded = [
            np.concatenate([each, np.zeros((tokens - 3, each.shape[1]), np.float32)]) for each in (inputs, gradient)
        ]
        rows, columns = fisher._sums_of_squares(padded[0], padded[1])
        np.testing.assert_allclose(rows, squares.sum(axis=1), rtol=1e-5)
        np.testing.assert_allclose(columns, squares.sum(axis=0), rtol=1e-5)


def _fisher(matrices: int, rows: int, columns: int) -> Fisher:
    random = np.random.default_rng(1)
    return Fisher(*(random.random((matrices, size)).astype(np.float32) for size in (rows, columns)))


def test_costs_are_the_product_of_rows_and_columns() -> None:
    known = _fisher(2, 6, 9)
    change = np.random.default_rng(2).normal(size=(6, 9)).astype(np.float32)
    for matrix in range(2):
        r, c = known.rows[matrix].astype(float), known.columns[matrix].astype(float)
        expected = (r[:, None] * c[None, :] * change.astype(float) ** 2 / r.sum()).sum(axis=1)
        costs = known.row_costs(matrix, slice(0, 6), change**2)
        np.testing.assert_allclose(costs, expected, rtol=1e-5)
        np.testing.assert_allclose(known.row_costs(matrix, [4, 1], change[[4, 1]] ** 2), expected[[4, 1]], rtol=1e-5)
    unseen = Fisher(np.zeros((1, 6), np.float32), np.zeros((1, 9), np.float32))
    assert not unseen.row_costs(0, slice(0, 6), change**2).any()


def test_gradients_that_are_no_numbers_name_the_tensor(tmp_path: Path) -> None:
    sums = FisherSums(_small(CASES["llama"], tmp_path), 2)
    watch = sums.watch_of("blk.0.attn_q.weight", 0, np.zeros((1, 1), np.float32))
    with pytest.raises(InvalidInput, match=r"blk.0.attn_q.weight: its gradient is not finite"):
        watch(*(np.full((2, 64), value, np.float32) for value in (1, np.nan, 1)))


def _require_equal(one: dict[str, Fisher], other: dict[str, Fisher]) -> None:
    assert one.keys() == other.keys()
    for name, found in one.items():
        np.testing.assert_allclose(found.rows, other[name].rows, rtol=1e-5)
        np.testing.assert_allclose(found.columns, other[name].columns, rtol=1e-5)
        np.testing.assert_array_equal(np.asarray(found.levels), np.asarray(other[name].levels))


def test_levels_are_what_each_window_alone_gives(tmp_path: Path) -> None:
    """In a model with experts and a tied embedding: also of matrices that some window does not reach."""
    model = open_model(write_tiny(tmp_path / "tiny.gguf", CASES["llama, experts"]))
    windows = np.random.default_rng(0).integers(3, 20, (3, 6)).astype(np.int32)
    network = Network(model, shape_of(model), 6)
    sums = FisherSums(model, 6)
    add_windows(network, windows, sums, first=2)
    together = sums.found(3)
    for number in range(3):
        sums.clear()
        add_windows(network, windows[number : number + 1], sums, first=2 + number)
        alone = sums.found()
        for name, found in together.items():
            expected = alone[name].rows.sum(dtype=np.float64) if name in alone else 0.0
            assert found.levels is not None
            assert found.levels[number] == pytest.approx(expected, rel=1e-6)
    for found in together.values():
        assert found.levels is not None
        assert found.levels.mean() == pytest.approx(found.rows.sum(), rel=1e-5)


def test_in_two_parts_as_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", CASES["llama, experts"])
    model = open_model(path)
    with engine.load(path, context=16, threads=1) as loaded:
        windows = loaded.tokenize(TEXT[:2000])[: 5 * 16].reshape(5, 16)
        steps: list[tuple[int, int]] = []
        whole = collect_fisher(model, loaded, windows, progress=lambda *step: steps.append(step))
        assert steps == sorted(steps)
        assert steps[-1] == (5, 5)
        monkeypatch.setattr(passes, "KEPT_BYTES", 2 * 4 * 16 * 64 * 3)  # two windows at a time
        saved: list[tuple[dict[str, Fisher], int]] = []
        again = collect_fisher(model, loaded, windows, save=lambda found, done: saved.append((dict(found), done)))
        assert [done for _, done in saved] == [2, 4, 5]
        rest = collect_fisher(model, loaded, windows, start=saved[0])
    _require_equal(whole, again)
    _require_equal(whole, rest)


def test_every_matrix_that_runs_is_known(tmp_path: Path) -> None:
    """All but the routers, short convolutions and gates of one row, which no quant type is for."""
    for case in ("llama", "qwen35moe", "phi3", "gemma3"):
        model = _small(CASES[case], tmp_path)
        sums = FisherSums(model, TOKENS.size)
        add_windows(_network(model), TOKENS[None], sums)
        matrices = {tensor.name for tensor in model.tensors if len(tensor.shape) > 1}
        routed = {name for name in matrices if "ffn_gate_inp" in name or "ssm_conv1d" in name}
        assert set(sums.found()) == matrices - routed


def test_windows_are_spread_over_texts_in_turn() -> None:
    cut = [np.arange(length)[:, None] + start for length, start in ((9, 0), (3, 100), (2, 200))]
    assert chosen_windows(cut, 6).ravel().tolist() == [0, 100, 200, 8, 102, 201]
    assert chosen_windows(cut, 2).ravel().tolist() == [0, 100]
    assert chosen_windows(cut, 9).ravel().tolist() == [0, 100, 200, 4, 101, 201, 8, 102]


def test_an_importance_gets_fisher_information_of_its_texts(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", CASES["llama"])
    model, texts = open_model(path), [Text("a", TEXT[:800]), Text("b", TEXT[800:1300])]
    before = Importance({}, ("a", "b"), 20, 16, "counted")
    with engine.load(path, context=16, threads=1) as loaded:
        saved: list[Importance] = []
        found = add_fisher(before, model, loaded, texts, 4, save=saved.append)
        more = add_fisher(found, model, loaded, texts, 10**6, limit=3)
    assert (found.fisher_windows, found.chunk_count, found.source) == (4, 20, "counted")
    assert set(found.fisher) == {tensor.name for tensor in model.tensors if len(tensor.shape) > 1}
    assert saved[-1].fisher_digest() == found.fisher_digest() != before.fisher_digest() == "none"
    assert more.fisher_windows == 6
