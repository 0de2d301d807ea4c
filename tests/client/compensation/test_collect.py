import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from raq_client import engine
from raq_client.compensation.collect import HELD_OUT_EVERY, HELD_OUT_INPUTS, collect_gram
from raq_client.compensation.gram import Gram
from raq_client.compensation.gram_file import read_gram, write_gram
from raq_client.compensation.sums import Sums
from raq_client.engine import Engine, Product
from raq_client.engine.windows import Progress, Text, cut_windows
from raq_client.importance.collect import Counting, collect
from raq_client.importance.imatrix import Importance
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_client.models.model_file import open_model
from raq_solver.errors import Fault, InvalidInput
from support.engine_models import MODEL, TEXT, write_mixture

TEXTS = [Text("one", TEXT[:9000]), Text("other", TEXT[9000:20000])]
CONTEXT = 128


@pytest.fixture(scope="module")
def loaded() -> Iterator[Engine]:
    with engine.load(MODEL, context=CONTEXT, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def gram(loaded: Engine) -> Gram:
    return collect_gram(loaded, open_model(MODEL), TEXTS, windows=8)


def _inputs(loaded: Engine, name: str, windows: np.ndarray) -> list[np.ndarray]:
    """The inputs of a product by window, scaled: the first one has half the weight of all."""
    found: list[np.ndarray] = []

    def visit(product: Product) -> None:
        found.append(product.inputs.reshape(-1, product.inputs.shape[-1]).astype(np.float64))

    for _ in loaded.observe_products(windows, lambda each: each == name, visit):
        pass
    typical = np.median(np.linalg.norm(found[0], axis=1))
    scales = []
    for rows in found:
        lengths = np.linalg.norm(rows, axis=1)
        wanted = np.maximum(1, lengths / (2 * typical))
        wanted[0] = max(wanted[0], np.sqrt(0.5 * CONTEXT))
        scales.append((wanted / lengths)[:, None])
    return [rows * scale for rows, scale in zip(found, scales, strict=True)]


@pytest.mark.parametrize("name", ["blk.0.attn_k.weight", "blk.1.ffn_down.weight", "output.weight"])
def test_a_matrix_is_the_mean_of_products_of_scaled_inputs(loaded: Engine, gram: Gram, name: str) -> None:
    windows = np.concatenate(cut_windows(loaded, TEXTS, 8))
    inputs = _inputs(loaded, name, windows)
    held_out = [each for place, each in enumerate(inputs) if place % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
    counted = np.concatenate(
        [each for place, each in enumerate(inputs) if place % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    )
    found = gram.source.matrix(gram.shared[name], 0)
    assert found.tokens == len(counted)
    np.testing.assert_allclose(found.blocks[0], counted.T @ counted / len(counted), atol=1e-6)
    np.testing.assert_array_equal(found.blocks[0], found.blocks[0].T)
    assert 0 < len(found.held_out) <= 2 * HELD_OUT_INPUTS
    everything = np.concatenate(held_out)
    mean = np.trace(everything.T @ everything) / len(everything)
    assert np.trace(found.held_out.T @ found.held_out) / len(found.held_out) == pytest.approx(mean, rel=0.2)
    directions = everything / np.linalg.norm(everything, axis=1, keepdims=True)
    for row in found.held_out[::17]:
        assert (directions @ (row / np.linalg.norm(row))).max() == pytest.approx(1, abs=1e-5)


def test_products_with_equal_inputs_share_an_entry(gram: Gram) -> None:
    shared = {name: gram.shared[name] for name in gram.shared if name.startswith("blk.0.")}
    by_role = {name.split(".")[2]: entry for name, entry in shared.items()}
    assert by_role["attn_q"] == by_role["attn_k"] == by_role["attn_v"]
    assert by_role["ffn_gate"] == by_role["ffn_up"]
    assert len({by_role[role] for role in ("attn_q", "attn_output", "ffn_gate", "ffn_down")}) == 4


def test_it_is_of_its_model_and_texts(gram: Gram) -> None:
    model = open_model(MODEL)
    assert gram.check_against(model.fingerprint(), model.tensors) is gram
    assert (gram.texts, gram.windows, gram.context) == (("one", "other"), 16, CONTEXT)


def _same(one: Gram, other: Gram) -> None:
    """To the last bit, entry by entry, so that a difference is named."""
    assert dict(one.shared) == dict(other.shared)
    assert one.entries.keys() == other.entries.keys()
    for name, entry in one.entries.items():
        assert (entry.windows, entry.widest) == (other.entries[name].windows, other.entries[name].widest)
        for index in range(entry.tokens.size):
            first, second = one.source.matrix(name, index), other.source.matrix(name, index)
            assert first.tokens == second.tokens
            np.testing.assert_array_equal(first.blocks[0], second.blocks[0])
            np.testing.assert_array_equal(first.held_out, second.held_out)
    assert one.digest() == other.digest()


def test_little_memory_takes_more_passes_and_finds_the_same(loaded: Engine, gram: Gram) -> None:
    totals = set()
    found = collect_gram(
        loaded, open_model(MODEL), TEXTS, windows=8, memory=8 << 20, progress=lambda _, total: totals.add(total)
    )
    (total,) = totals
    assert total > 16
    assert total % 16 == 0
    _same(found, gram)


def test_an_interrupted_collection_goes_on(
    loaded: Engine, gram: Gram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended in each of the passes; what it had saved is enough to end with the same statistics."""
    monkeypatch.setattr("raq_client.compensation.collect.SAVE_EVERY", 5)
    state = tmp_path / "state.gram"

    def save(found: Gram) -> Gram:
        write_gram(found, state, force=True)
        return read_gram(state)

    class EndedError(Exception):
        pass

    for most in (12, 18, 3):
        left = iter(range(most))

        def end(_done: int, _total: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise EndedError

        resume = read_gram(state) if state.exists() else None
        with pytest.raises(EndedError):
            collect_gram(
                loaded, open_model(MODEL), TEXTS, windows=8, memory=8 << 20, resume=resume, save=save, progress=end
            )
    found = collect_gram(
        loaded, open_model(MODEL), TEXTS, windows=8, memory=8 << 20, resume=read_gram(state), save=save
    )
    _same(found, gram)
    with pytest.raises(InvalidInput, match="other texts"):
        collect_gram(loaded, open_model(MODEL), TEXTS[:1], resume=read_gram(state))


def test_each_expert_has_its_own_statistics(tmp_path: Path) -> None:
    path = write_mixture(tmp_path / "mixture.gguf", 4, 2)
    with engine.load(path, context=CONTEXT, threads=1) as loaded:
        found = collect_gram(loaded, open_model(path), TEXTS, windows=8)
    name = next(name for name in found.shared if "ffn_up_exps" in name)
    tokens = found.entries[found.shared[name]].tokens
    assert tokens.size == open_model(path).tensor(name).matrices
    assert len(set(tokens.tolist())) > 1
    assert found.shared[name] == found.shared[name.replace("up", "gate")]


def test_too_little_text_is_refused(loaded: Engine) -> None:
    with pytest.raises(InvalidInput, match="none to collect"):
        collect_gram(loaded, open_model(MODEL), [])
    with pytest.raises(InvalidInput, match="windows, at least 8"):
        collect_gram(loaded, open_model(MODEL), TEXTS, windows=2)


@pytest.mark.parametrize("memory", [1 << 30, 8 << 20])
def test_importance_is_counted_in_the_same_passes(loaded: Engine, gram: Gram, memory: int) -> None:
    alone, beside = collect(loaded, TEXTS, windows=8, output_head=True), Counting(loaded, TEXTS, 8, output_head=True)
    _same(collect_gram(loaded, open_model(MODEL), TEXTS, windows=8, memory=memory, beside=beside), gram)
    assert beside.done == len(beside.windows)
    assert beside.finish().digest() == alone.digest()


class _States:
    """The files of a collection's states, and what was written into them."""

    def __init__(self, folder: Path) -> None:
        self.gram, self.importance = folder / "state.gram", folder / "state.gguf"
        self.windows: list[tuple[str, int]] = []

    def save_gram(self, found: Gram) -> Gram:
        write_gram(found, self.gram, force=True)
        growing = {found.entries[name].windows for name in found.growing}
        self.windows.append(("gram", *(growing or {found.windows})))
        return read_gram(self.gram)

    def save_importance(self, found: Importance) -> None:
        write_importance(found, self.importance, force=True)
        self.windows.append(("importance", found.chunk_count))

    def collected(self, loaded: Engine, progress: Progress | None, memory: int = 1 << 30) -> tuple[Gram, Importance]:
        """Go on from the states that are there."""
        resume = read_gram(self.gram) if self.gram.exists() else None
        begun = read_importance(self.importance) if self.importance.exists() else None
        beside = Counting(loaded, TEXTS, 8, resume=begun, save=self.save_importance)
        given = {"windows": 8, "save": self.save_gram, "resume": resume, "progress": progress, "memory": memory}
        return collect_gram(loaded, open_model(MODEL), TEXTS, beside=beside, **given), beside.finish()


def _interrupt_at(window: int) -> Progress:
    def progress(done: int, _total: int) -> None:
        if done == window:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(("memory", "ends"), [(1 << 30, (1, 3, 8, 13)), (8 << 20, (2, 17, 9, 15))])
def test_interrupted_again_and_again_both_end_with_the_same_bits(
    loaded: Engine, gram: Gram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, ends: tuple[int, ...]
) -> None:
    """Also in later passes, of which there are several with little memory; the numbers count the windows of a run."""
    for module in ("compensation", "importance"):
        monkeypatch.setattr(f"raq_client.{module}.collect.SAVE_EVERY", 5)
    states, whole = _States(tmp_path), collect(loaded, TEXTS, windows=8)
    for end in ends:
        with pytest.raises(KeyboardInterrupt):
            states.collected(loaded, _interrupt_at(end), memory)
        done = {
            name: next(n for each, n in reversed(states.windows) if each == name) for name in ("gram", "importance")
        }
        assert done["gram"] == (end - 1) % 16 + 1 <= done["importance"]
    found, importance = states.collected(loaded, None, memory)
    _same(found, gram)
    assert importance.digest() == whole.digest()


def test_a_signal_amid_a_window_or_a_save_loses_nothing(
    loaded: Engine, gram: Gram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raq_client.compensation.collect.SAVE_EVERY", 6)
    states, whole, counted = _States(tmp_path), collect(loaded, TEXTS, windows=8), Sums.add

    def amid_a_window(self: Sums, inputs: np.ndarray) -> None:
        counted(self, inputs)
        if self.tokens == 3 * CONTEXT:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Sums, "add", amid_a_window)
        with pytest.raises(KeyboardInterrupt):
            states.collected(loaded, None)
    assert states.windows == [("importance", 3), ("gram", 3)]

    def amid_a_save(self: _States, found: Gram) -> Gram:
        signal.raise_signal(signal.SIGINT)
        stored = _States.save_gram(self, found)
        signal.raise_signal(signal.SIGINT)
        return stored

    stopped = type("Stopped", (_States,), {"save_gram": amid_a_save})(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stopped.collected(loaded, None)
    assert stopped.windows == [("gram", 6), ("importance", 6)]
    found, importance = states.collected(loaded, None)
    _same(found, gram)
    assert importance.digest() == whole.digest()


def test_importance_is_kept_where_gram_statistics_have_no_room(
    loaded: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_found: Gram) -> Gram:
        raise InvalidInput(Fault("state.gram", "no room on the disk"))

    states = _States(tmp_path)
    monkeypatch.setattr(states, "save_gram", full)
    with pytest.raises(InvalidInput, match="no room"):
        states.collected(loaded, None)
    assert read_importance(states.importance).chunk_count == 16


def test_an_interrupt_before_the_first_window_leaves_no_state(loaded: Engine, tmp_path: Path) -> None:
    def begun(*_given: object) -> None:
        raise KeyboardInterrupt

    states = _States(tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Sums, "add", begun)
        with pytest.raises(KeyboardInterrupt):
            states.collected(loaded, None)
    assert list(tmp_path.iterdir()) == []


def test_importance_that_is_behind_has_all_windows_in_passes_of_its_own(loaded: Engine, gram: Gram) -> None:
    kept: list[Gram] = []
    with pytest.raises(KeyboardInterrupt):
        collect_gram(
            loaded,
            open_model(MODEL),
            TEXTS,
            windows=8,
            save=lambda state: kept.append(state) or state,
            progress=_interrupt_at(5),
        )
    beside = Counting(loaded, TEXTS, 8)
    _same(collect_gram(loaded, open_model(MODEL), TEXTS, windows=8, resume=kept[-1], beside=beside), gram)
    assert beside.done == 0
    assert beside.finish().digest() == collect(loaded, TEXTS, windows=8).digest()
