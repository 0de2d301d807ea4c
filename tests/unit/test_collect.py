from pathlib import Path

import numpy as np
import pytest
from engine_models import DATA, MODEL, SHARED, TEXT, write_mixture

from raq_client import engine
from raq_client.collect import Tally, collect
from raq_client.engine import Product
from raq_client.imatrix import Importance
from raq_client.imatrix_files import read_importance
from raq_client.perplexity import Text
from raq_solver.errors import InvalidInput

CALIBRATION = Text("calibration", (DATA / "gsm8k.calibration.txt").read_text())


def _largest_difference(found: Importance, expected: Importance) -> float:
    assert set(found.entries) == set(expected.entries)
    for name, entry in expected.entries.items():
        np.testing.assert_array_equal(found.entries[name].counts, entry.counts)
    return max(float(abs(found.entries[name].sums / entry.sums - 1).max()) for name, entry in expected.entries.items())


def test_what_is_collected_is_what_llama_imatrix_counts() -> None:
    """Its file is a witness to 1e-4 only where sums are added as it adds them: float32, token after token."""
    witness = read_importance(DATA / "wiki-math-4M.gsm8k.imatrix.gguf")
    in_its_way: dict[str, np.ndarray] = {}

    def add(product: Product) -> None:
        sums = in_its_way.setdefault(product.name, np.zeros(product.inputs.shape[-1], np.float32))
        for row in np.square(product.inputs[0, 0]):
            sums += row

    def visit(product: Product) -> None:
        tally.add(product)
        if product.name.endswith(("attn_k.weight", "ffn_down.weight")):
            add(product)

    tally = Tally(None)
    with engine.load(MODEL, threads=2) as model:
        windows = model.tokenize(CALIBRATION.content)[: 100 * 512].reshape(100, 512)
        for _ in model.observe_products(windows, lambda name: name.startswith("blk."), visit, least_tokens=16):
            pass
    found = Importance(tally.entries(), (), 100, 512)
    assert _largest_difference(found, witness) < 5e-4
    assert len(in_its_way) == 8
    for name, sums in in_its_way.items():
        np.testing.assert_allclose(sums, witness.entries[name].sums, rtol=1e-4)
        exact = found.entries[name].sums
        assert abs(sums - witness.entries[name].sums).mean() <= abs(exact - witness.entries[name].sums).mean()


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs the larger data beside the repository")
@pytest.mark.parametrize("size", ["4M", "18M"])
@pytest.mark.parametrize(("domain", "file"), [("gsm8k", "gsm8k.train.part.txt"), ("wiki", "wikitext2.train.part.txt")])
def test_both_models_and_texts_against_llama_imatrix(size: str, domain: str, file: str) -> None:
    text = Text(file, (SHARED / "text" / file).read_text())
    found = collect(SHARED / "models" / f"wiki-math-{size}-f16.gguf", [text], windows=100, threads=2)
    witness = read_importance(SHARED / "imatrix" / f"wiki-math-{size}.{domain}.imatrix.gguf")
    assert _largest_difference(found, witness) < 6e-4
    typical = [np.median(abs(found.entries[name].sums / witness.entries[name].sums - 1)) for name in witness.entries]
    assert max(typical) < 6e-5
    assert (found.chunk_count, found.chunk_size) == (witness.chunk_count, witness.chunk_size)


def test_experts_count_the_tokens_sent_to_them(tmp_path: Path) -> None:
    path = write_mixture(tmp_path / "mixture.gguf", experts=4, used=2)
    found = collect(path, [Text("text", TEXT[:8000])], context=128, windows=6, threads=2).entries
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
    texts = [Text("a", TEXT[:9000]), Text("b", TEXT[9000:20000])]
    whole = collect(MODEL, texts, context=64, threads=2)
    saved: list[Importance] = []

    def stop(done: int, _total: int) -> None:
        if done == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(MODEL, texts, context=64, threads=2, save=saved.append, progress=stop)
    assert saved[-1].chunk_count == 50
    steps: list[tuple[int, int]] = []
    resumed = collect(
        MODEL, texts, context=64, threads=2, resume=saved[-1], progress=lambda done, of: steps.append((done, of))
    )
    assert _largest_difference(resumed, whole) < 1e-6
    assert (resumed.chunk_count, resumed.datasets) == (whole.chunk_count, ("a", "b"))
    assert steps[0] == (51, whole.chunk_count)


def test_the_output_head_is_counted_on_request() -> None:
    texts = [Text("a", TEXT[:2000])]
    with engine.load(MODEL, context=64, threads=2) as model:
        without = collect(model, texts)
        with_it = collect(model, texts, output_head=True)
    assert set(with_it.entries) - set(without.entries) == {"output.weight"}
    assert "token_embd.weight" not in with_it.entries


def test_bad_requests_are_refused() -> None:
    with pytest.raises(InvalidInput, match="there is none to collect from"):
        collect(MODEL, [])
    other = Importance({}, chunk_count=1000, chunk_size=512, source="old.gguf")
    with pytest.raises(InvalidInput) as caught:
        collect(MODEL, [Text("a", TEXT[:2000])], context=64, resume=other)
    assert [fault.where for fault in caught.value.faults] == ["old.gguf", "old.gguf"]
