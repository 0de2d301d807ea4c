import signal
from pathlib import Path

import numpy as np
import pytest

from raq_client import engine
from raq_client.engine import Engine, Product
from raq_client.engine.windows import Text
from raq_client.importance.collect import Tally, collect
from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.imatrix_file import read_importance
from raq_solver.errors import InvalidInput
from support.engine_models import MODEL, TEXT, write_mixture, write_tied
from support.paths import DATA

CALIBRATION = Text("calibration", (DATA / "gsm8k.calibration.txt").read_text())


def _differences(found: Importance, expected: Importance) -> np.ndarray:
    """Relative differences of all values; counts are equal."""
    assert set(found.entries) == set(expected.entries)
    for name, entry in expected.entries.items():
        np.testing.assert_array_equal(found.entries[name].counts, entry.counts)
    return np.concatenate([abs(found.entries[name].sums / entry.sums - 1) for name, entry in expected.entries.items()])


@pytest.mark.slow
def test_added_as_llama_imatrix_adds_every_value_is_its_value() -> None:
    """Its float32 sums are reproduced to 1e-4; ours of float64 tell how far both are from what was to be added."""
    witness = read_importance(DATA / "wiki-math-4M.gsm8k.imatrix.gguf")
    rounded, exact = Tally(None, "float32"), Tally(None)

    def add(product: Product) -> None:
        rounded.add(product)
        exact.add(product)

    with engine.load(MODEL, threads=2) as model:
        windows = model.tokenize(CALIBRATION.content)[: 100 * 512].reshape(100, 512)
        for _ in model.observe_products(windows, lambda name: name.startswith("blk."), add, least_tokens=16):
            pass
    assert _differences(Importance(rounded.entries(), (), 100, 512), witness).max() < 1e-4
    assert _differences(Importance(exact.entries(), (), 100, 512), witness).max() < 5e-4


@pytest.mark.slow
@pytest.mark.parametrize(("size", "tolerance"), [("4M", 1e-4), ("18M", 5e-4)])
@pytest.mark.parametrize(("domain", "file"), [("gsm8k", "gsm8k.train.part.txt"), ("wiki", "wikitext2.train.part.txt")])
def test_both_models_and_texts_against_llama_imatrix(
    shared_data: Path, size: str, tolerance: float, domain: str, file: str
) -> None:
    """Added in the same order, what is left are the activations of another build of libllama: more in deeper layers.

    On the larger model 18 of 49,152 values are further off than 1e-4.
    """
    text = Text(file, (shared_data / "text" / file).read_text())
    model = shared_data / "models" / f"wiki-math-{size}-f16.gguf"
    found = collect(model, [text], windows=100, sums="float32", threads=1)
    witness = read_importance(shared_data / "imatrix" / f"wiki-math-{size}.{domain}.imatrix.gguf")
    differences = _differences(found, witness)
    assert differences.max() < tolerance
    assert np.quantile(differences, 0.999) < 1e-4
    assert (found.chunk_count, found.chunk_size) == (witness.chunk_count, witness.chunk_size)


def test_inputs_are_summed_beside_their_squares() -> None:
    inputs = np.random.default_rng(0).normal(1, 1, size=(1, 1, 20, 8)).astype(np.float32)
    experts = np.random.default_rng(1).integers(0, 3, size=(20, 2)).astype(np.int32)
    for sums in ("float64", "float32"):
        tally = Tally(None, sums)
        tally.add(Product("plain", (1, 1), inputs, None))
        tally.add(Product("plain", (1, 1), inputs, None))
        tally.add(Product("experts", (1, 3), inputs.reshape(1, 20, 1, 8), experts))
        entries = tally.entries()
        means = entries["plain"].means
        assert means is not None
        np.testing.assert_allclose(means, inputs[0, 0].mean(axis=0)[None], rtol=1e-6)
        sent = entries["experts"].plain_sums
        assert sent is not None
        np.testing.assert_allclose(sent.reshape(3, 8).sum(axis=0), 2 * inputs[0, 0].sum(axis=0), rtol=1e-5)
    before = Importance({"plain": Entry(np.ones(8, np.float32), np.ones(1, np.float32))})
    grown = Tally(before)
    grown.add(Product("plain", (1, 1), inputs, None))
    assert grown.entries()["plain"].plain_sums is None


def test_experts_count_the_tokens_sent_to_them(tmp_path: Path) -> None:
    path = write_mixture(tmp_path / "mixture.gguf", experts=4, used=2)
    found = collect(path, [Text("text", TEXT[:8000])], context=128, windows=6, threads=1).entries
    tokens = 6 * 128
    for layer in range(4):
        router = found[f"blk.{layer}.ffn_gate_inp.weight"]
        gate, up, down = (found[f"blk.{layer}.ffn_{role}_exps.weight"] for role in ("gate", "up", "down"))
        assert router.counts.tolist() == [tokens]
        assert gate.counts.shape == (4,)
        assert gate.counts.sum() == 2 * tokens
        np.testing.assert_array_equal(gate.counts, up.counts)
        np.testing.assert_array_equal(gate.counts, down.counts)
        np.testing.assert_array_equal(gate.sums, up.sums)
        # every token's input went to two experts, and the router saw the same input once
        np.testing.assert_allclose(gate.sums.reshape(4, -1).sum(axis=0), 2 * router.sums, rtol=1e-5)
        assert down.sums.shape == (4 * 512,)


def test_stacks_of_matrices_share_one_count() -> None:
    """Plain products of a stack: matrix j meets the batch rows j, j + 3, ...; the count is per matrix."""
    inputs = np.random.default_rng(0).normal(size=(1, 6, 20, 8)).astype(np.float32)
    tally = Tally(None)
    tally.add(Product("stack", (1, 3), inputs, None))
    entry = tally.entries()["stack"]
    squares = np.square(inputs[0].astype(float)).sum(axis=1)
    np.testing.assert_allclose(entry.sums.reshape(3, 8), squares[:3] + squares[3:], rtol=1e-6)
    assert entry.counts.tolist() == [40]
    with pytest.raises(InvalidInput, match="has 8 columns, 24 were counted before"):
        tally.add(Product("stack", (1, 1), inputs, None))


def test_an_interrupted_collection_goes_on_where_it_was_saved() -> None:
    texts = [Text("a", TEXT[:6000]), Text("b", TEXT[6000:11000])]
    whole = collect(MODEL, texts, context=64, threads=1)
    saved: list[Importance] = []

    def stop(done: int, _total: int) -> None:
        if done == 53:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(MODEL, texts, context=64, threads=1, save=saved.append, progress=stop)
    assert [each.chunk_count for each in saved] == [50, 53], "what was counted until then is saved too"
    steps: list[tuple[int, int]] = []
    resumed = collect(
        MODEL, texts, context=64, threads=1, resume=saved[-1], progress=lambda done, of: steps.append((done, of))
    )
    assert resumed.digest() == whole.digest()
    assert (resumed.chunk_count, resumed.datasets) == (whole.chunk_count, ("a", "b"))
    assert steps[0] == (54, whole.chunk_count)


def test_the_output_head_is_counted_on_request() -> None:
    texts = [Text("a", TEXT[:2000])]
    with engine.load(MODEL, context=64, threads=1) as model:
        without = collect(model, texts)
        with_it = collect(model, texts, output_head=True)
    assert set(with_it.entries) - set(without.entries) == {"output.weight"}
    assert "token_embd.weight" not in with_it.entries


def test_a_signal_amid_a_window_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while libllama runs, and Python would raise it as soon as that returns, before the window is noted."""
    texts = [Text("a", TEXT[:2000])]
    whole = collect(MODEL, texts, context=64, threads=1)
    saved: list[Importance] = []
    counted = Tally.add

    def interrupted(self: Tally, product: Product) -> None:
        counted(self, product)
        if product.name == "blk.1.attn_q.weight" and self.entries()[product.name].counts == 64 * 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Tally, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect(MODEL, texts, context=64, threads=1, save=saved.append)
    assert [each.chunk_count for each in saved] == [5]
    resumed = collect(MODEL, texts, context=64, threads=1, resume=saved[0])
    assert resumed.digest() == whole.digest()


def test_a_signal_before_the_first_window_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_self: Tally, _product: Product) -> None:
        raise KeyboardInterrupt

    saved: list[Importance] = []
    monkeypatch.setattr(Tally, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(MODEL, [Text("a", TEXT[:2000])], context=64, threads=1, save=saved.append)
    assert saved == []


def test_the_head_of_a_tied_model_is_its_embedding(tmp_path: Path) -> None:
    texts = [Text("a", TEXT[:2000])]
    with engine.load(write_tied(tmp_path / "tied.gguf"), context=64, threads=1) as model:
        without, with_it = collect(model, texts), collect(model, texts, output_head=True)
    assert set(with_it.entries) - set(without.entries) == {"token_embd.weight"}
    head = with_it.entries["token_embd.weight"]
    assert head.sums.size == 256
    assert head.counts.tolist() == with_it.entries["blk.0.attn_q.weight"].counts.tolist()


def test_bad_requests_are_refused() -> None:
    with pytest.raises(InvalidInput, match="there is none to collect from"):
        collect(MODEL, [])
    other = Importance({}, chunk_count=1000, chunk_size=512, source="old.gguf")
    with pytest.raises(InvalidInput) as caught:
        collect(MODEL, [Text("a", TEXT[:2000])], context=64, resume=other)
    assert [fault.where for fault in caught.value.faults] == ["old.gguf", "old.gguf"]


def test_what_would_count_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="context: must be at least 16 tokens, not 8: shorter inputs are not"):
        collect(MODEL, [CALIBRATION], context=8, windows=2, threads=1)
    monkeypatch.setattr(Engine, "observe_products", lambda *_: iter(range(1, 3)))  # a model of other names
    with pytest.raises(InvalidInput, match=r"wiki-math-4M-f16.gguf: nothing was counted"):
        collect(MODEL, [CALIBRATION], context=16, windows=2, threads=1)
