"""Collect Gram statistics: run text through a model and sum x xᵀ of the inputs of every product.

Inputs are scaled to unit length, so that a few long ones do not decide. Two kinds on which a model depends stay longer:
the first of a window, which is an attention sink (`FIRST_SHARE`), and massive ones (`MASSIVE`).
One window in `HELD_OUT_EVERY` is not counted; some of its inputs are kept as they are, to test compensation on.
Memory is bounded: entries are summed in groups that fit, each in a run of its own over all windows.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from raq_client.compensation.gram import Gram, InMemory, column_blocks, spread
from raq_client.compensation.sums import HELD_OUT_EVERY, HELD_OUT_INPUTS, Sums, SumsSource, entry_of
from raq_client.engine import Engine, NotFiniteError, Product
from raq_client.engine.interrupts import deferred_interrupts
from raq_client.engine.windows import Progress, Text
from raq_client.importance.collect import LEAST_TOKENS, SAVE_EVERY, Counting, all_windows, rows_by_matrix
from raq_client.models.model_file import ModelFile
from raq_client.models.quantizable import is_quantizable
from raq_solver.errors import Fault, InvalidInput

DEFAULT_MEMORY: Final = 4 << 30
"""Default bound on the memory of the sums, bytes."""
FIRST_SHARE: Final = 0.5
"""Weight of the first input of a window, as a share of the weight of all others. Most heads of most models attend to
the first token, whatever it is (Xiao and others, arXiv 2309.17453); its inputs have a direction of their own, which
counts for nothing among 511 others. On SmolLM2 at Q4_0 error feedback then multiplied the error of its keys and values
by up to 5, and left 0.87 of the KL divergence of plain rounding; with a share of 0.1 it left 0.57, with 0.5 0.55."""
MASSIVE: Final = 2.0
"""An input longer than this many typical ones (the median of a window) is massive, and keeps a part of its length."""
_F32_BYTES: Final = 4
_ROUNDING: Final = 1e-3  # squared lengths of unit rows differ from 1 by less


def collect_gram(
    engine: Engine,
    model: ModelFile,
    texts: Sequence[Text],
    *,
    windows: int | None = None,
    memory: int = DEFAULT_MEMORY,
    resume: Gram | None = None,
    save: Callable[[Gram], Gram] | None = None,
    progress: Progress | None = None,
    beside: Counting | None = None,
) -> Gram:
    """Run `texts` through the model, at most `windows` windows of each, and sum x xᵀ of the inputs of every product.

    `beside` is importance on the same windows, counted in the same passes where it can be: what it then lacks, its
    `finish` counts.

    `memory` bounds the bytes of the sums; the entry of one tensor is always summed at once. Every 50 windows, and on an
    interrupt, `save` is called with the state so far, which it reads from the sums as they are then, and returns it as
    it was stored; passing that as `resume` with the same texts continues from there, to the same bits.

    Raises InvalidInput if there is no text or one is shorter than two windows, if the context is too short, or if
    an input is not finite.
    """
    cut = all_windows(engine, texts, windows)
    if len(cut) < HELD_OUT_EVERY:
        what = f"{len(cut)} windows, at least {HELD_OUT_EVERY} are needed, of which one is held out; give longer texts"
        raise InvalidInput(Fault("text", what))
    names = [tensor.name for tensor in model.tensors if is_quantizable(tensor, model.architecture)]
    shared, shapes = _found_inputs(engine, cut[:1], names)
    if not shared:
        raise InvalidInput(Fault(str(model.path), "libllama multiplies none of its tensors; is it a language model?"))
    empty = Gram(
        {},
        shared,
        InMemory({}),
        tuple(text.name for text in texts),
        len(cut),
        engine.context,
        model.fingerprint(),
        unfinished=True,
        sequences=engine.begun(cut),
    )
    if resume is not None and not _continues(resume, empty):
        raise InvalidInput(Fault(resume.where, "was begun with another model, other texts or windows; remove it"))
    return _Run(engine, cut, beside, save, empty).collect(_grouped(shapes, memory, resume), resume, progress)


def _continues(resume: Gram, empty: Gram) -> bool:
    """Whether a state is of the same model, texts and windows, in the same order."""
    of = [(gram.model, gram.texts, gram.windows, gram.context) for gram in (resume, empty)]
    if of[0] != of[1] or resume.sequences is None or empty.sequences is None:
        return False
    return np.array_equal(resume.sequences, empty.sequences)


@dataclass(frozen=True, slots=True)
class _Shape:
    """The shape of an entry: number of matrices and their columns; and the `typical` length of its inputs."""

    matrices: int
    length: int
    typical: float

    @property
    def bytes(self) -> int:
        """Memory of its sums."""
        squares = sum(columns.square for columns in column_blocks(self.length))
        return _F32_BYTES * self.matrices * (squares + HELD_OUT_INPUTS * self.length)


def _found_inputs(
    engine: Engine, window: Int32[np.ndarray, "windows context"], names: Collection[str]
) -> tuple[dict[str, str], dict[str, _Shape]]:
    """Run one window: the entry of every multiplied tensor (the first with equal inputs), and the entries' shapes."""
    first: dict[bytes, str] = {}
    shared: dict[str, str] = {}
    shapes: dict[str, _Shape] = {}

    def visit(product: Product) -> None:
        state = hashlib.sha256(f"{product.stack} {product.inputs.shape}".encode())
        state.update(product.inputs.tobytes())
        if product.experts is not None:
            state.update(product.experts.tobytes())
        entry = first.setdefault(state.digest(), product.name)
        shared.setdefault(product.name, entry)
        if entry == product.name and entry not in shapes:
            matrices, columns = product.stack[0] * product.stack[1], product.inputs.shape[-1]
            lengths = np.linalg.norm(product.inputs.reshape(-1, columns), axis=1)
            shapes[entry] = _Shape(matrices, columns, float(np.median(lengths)))

    for _ in engine.observe_products(window, lambda name: name in names, visit, LEAST_TOKENS):
        pass
    return shared, shapes


def _grouped(shapes: Mapping[str, _Shape], memory: int, resume: Gram | None) -> list[dict[str, _Shape]]:
    """The entries still to be summed, in groups that fit; those begun before an interruption come first, together."""
    known = {} if resume is None else resume.entries
    begun = {name: shape for name, shape in shapes.items() if resume is not None and name in resume.growing}
    groups = [begun] if begun else []
    used = memory
    for name, shape in shapes.items():
        if name in known:
            continue
        if used + shape.bytes > memory:
            groups.append({})
            used = 0
        groups[-1][name] = shape
        used += shape.bytes
    return groups


@dataclass(eq=False)
class _Group:
    """The sums of some entries, which grow together over all windows, and the number of windows `done`."""

    shapes: Mapping[str, _Shape]
    sums: Mapping[str, Sequence[Sums]]
    done: int
    kept: int
    """Inputs that are held out in one window."""
    stored: int = field(init=False)
    """Windows that are counted in the state that was saved last."""

    def __post_init__(self) -> None:
        self.stored = self.done

    @classmethod
    def begun(cls, shapes: Mapping[str, _Shape], resume: Gram | None, windows: int) -> Self:
        """Sums over no windows, or those of a state that has them."""
        kept = -(-HELD_OUT_INPUTS // len(range(HELD_OUT_EVERY - 1, windows, HELD_OUT_EVERY)))
        if resume is None or not resume.growing >= shapes.keys():
            sums = {
                name: [Sums.empty(column_blocks(shape.length)) for _ in range(shape.matrices)]
                for name, shape in shapes.items()
            }
            return cls(shapes, sums, 0, kept)
        sums = {
            name: [Sums.going_on(resume.source.matrix(name, index)) for index in range(shape.matrices)]
            for name, shape in shapes.items()
        }
        return cls(shapes, sums, resume.entries[next(iter(shapes))].windows, kept)

    def visit(self, product: Product) -> None:
        """Count the inputs of a product in the window `done`, or hold some of them out."""
        held_out = self.done % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        for matrix, inputs in rows_by_matrix(_scaled(product, self.shapes[product.name].typical)):
            if held_out:
                self.sums[product.name][matrix].hold_out(_sample(inputs, self.kept))
            else:
                self.sums[product.name][matrix].add(inputs)

    def added_to(self, state: Gram) -> Gram:
        """The statistics with the entries of the group; until it has seen all windows they are growing."""
        entries = {name: entry_of(parts, self.done) for name, parts in self.sums.items()}
        growing = frozenset(self.sums) if self.done < state.windows else frozenset()
        source = SumsSource(self.sums, state.source, growing=bool(growing))
        return replace(state, entries={**state.entries, **entries}, source=source, growing=state.growing | growing)


@dataclass(eq=False)
class _Run:
    """A collection: the model, the windows, the importance counted beside them, what saves the state, and the state."""

    engine: Engine
    windows: Int32[np.ndarray, "windows context"]
    beside: Counting | None
    save: Callable[[Gram], Gram] | None
    state: Gram

    def collect(self, groups: Sequence[Mapping[str, _Shape]], resume: Gram | None, progress: Progress | None) -> Gram:
        """Sum one group after the other; the state is saved now and then, and on an interrupt."""
        if resume is not None:
            begun = frozenset(groups[0] if groups else ()) & resume.growing
            kept = {name: entry for name, entry in resume.entries.items() if name not in begun}
            self.state = replace(resume, entries=kept, shared=self.state.shared, growing=resume.growing - begun)
        group: _Group | None = None
        total = len(self.windows)
        try:
            for number, shapes in enumerate(groups):
                group = _Group.begun(shapes, resume, total)
                for done in self._passed(group):
                    if progress is not None:
                        progress(number * total + done, len(groups) * total)
                    if done == total or (self.save is not None and done % SAVE_EVERY == 0):
                        self._store(group)
        except (KeyboardInterrupt, SystemExit):
            if self.beside is not None:
                self.beside.keep()
            if group is not None and self.save is not None and group.stored < group.done:
                self._store(group)
            raise
        return replace(self.state, unfinished=False)

    def _store(self, group: _Group) -> None:
        """Save the statistics with what is summed of a group; they keep those of a whole group."""
        found = group.added_to(self.state)
        # Once it is written, what the state was read from has been replaced: no interrupt may come between.
        with deferred_interrupts():
            if self.save is not None:
                found = self._saved(found, self.save)
            whole = group.done == len(self.windows)
            self.state = found if whole else replace(self.state, source=found.source)
            group.stored = group.done

    def _saved(self, found: Gram, save: Callable[[Gram], Gram]) -> Gram:
        """The statistics as they were saved; where that fails, for lack of room, importance at least is kept."""
        try:
            return save(found)
        except InvalidInput:
            if self.beside is not None:
                self.beside.keep()
            raise

    def _passed(self, group: _Group) -> Iterator[int]:
        """Run the windows that are left, visit the products of the group, and count importance if it can be here.

        Yields the number of windows done.
        """
        first, counting = group.done, self.beside
        if counting is not None and not first <= counting.done < len(self.windows):
            counting = None

        def wanted(name: str) -> bool:
            return name in group.shapes or (counting is not None and counting.wanted(name))

        def visit(product: Product) -> None:
            if counting is not None and group.done == counting.done and counting.wanted(product.name):
                counting.visit(product)
            if product.name in group.shapes:
                if not np.isfinite(product.inputs).all():
                    what = f"what {product.name} is multiplied with is not finite"
                    raise NotFiniteError(Fault(str(self.engine.path), what))
                group.visit(product)

        steps = self.engine.observe_products(self.windows[first:], wanted, visit, LEAST_TOKENS)
        for _ in self.windows[first:]:
            with deferred_interrupts():  # a window is counted whole or not at all
                next(steps)
                group.done += 1
                if counting is not None:
                    counting.reached(group.done)
            if counting is not None:
                counting.keep_now_and_then()
            yield group.done
        next(steps, None)  # frees its context


def _scaled(product: Product, typical: float) -> Product:
    """The product with inputs at unit length, but for the first and for massive ones; inputs of 0 stay 0."""
    # Tokens are the last axis but one, with experts the second.
    inputs = product.inputs if product.experts is None else np.moveaxis(product.inputs, 1, -2)
    scaled = (inputs * input_scales(inputs, typical)).astype(np.float32)
    return replace(product, inputs=scaled if product.experts is None else np.moveaxis(scaled, -2, 1))


def input_scales(
    inputs: Float32[np.ndarray, "*batch tokens columns"], typical: float
) -> Float64[np.ndarray, "*batch tokens 1"]:
    """What the inputs of a window are multiplied by: to unit length, but for the first and for massive ones.

    0 for inputs of 0; `typical` is their usual length.
    """
    lengths = np.sqrt(np.square(inputs, dtype=np.float64).sum(axis=-1, keepdims=True))
    wanted = np.maximum(1, lengths / (MASSIVE * typical)) if typical > 0 else np.ones_like(lengths)
    first = wanted[..., :1, :]
    np.maximum(first, np.sqrt(FIRST_SHARE * wanted.shape[-2]), out=first)
    scales: Float64[np.ndarray, "*batch tokens 1"] = np.divide(
        wanted, lengths, out=np.zeros_like(wanted), where=lengths > 0
    )
    return scales


def _sample(rows: Float32[np.ndarray, "rows length"], count: int) -> Float32[np.ndarray, "rows length"]:
    """About `count` rows whose mean product x xᵀ estimates that of all of them."""
    places, scales = sample_places(rows, count)
    sample: Float32[np.ndarray, "rows length"] = rows[places] * scales
    return sample


def sample_places(
    rows: Float32[np.ndarray, "rows length"], count: int
) -> tuple[Int64[np.ndarray, " sample"], Float32[np.ndarray, "sample 1"]]:
    """The places of about `count` rows whose mean product x xᵀ estimates that of all, and what they are scaled by.

    Those longer than 1 are too rare to be met by chance and too long to be left out: `count` of them are kept, scaled
    to the share that the others have in the sample.
    """
    places = np.arange(len(rows))
    if len(rows) <= count:
        return places, np.ones((len(rows), 1), np.float32)
    longer = np.square(rows, dtype=np.float64).sum(axis=1) > 1 + _ROUNDING
    usual, rare = places[~longer], places[longer]
    kept, few = spread(usual, count), spread(rare, count)
    scale = np.sqrt(len(kept) / max(1, len(usual)) * len(rare) / max(1, len(few)))
    scales = np.concatenate([np.ones(len(kept)), np.full(len(few), scale)])
    return np.concatenate([kept, few]), scales[:, None].astype(np.float32)
