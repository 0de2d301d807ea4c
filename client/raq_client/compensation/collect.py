"""Collect Gram statistics: run text through a model and sum x xᵀ of the inputs of every product.

Inputs are scaled to unit length, so that a few long ones do not decide. Two kinds on which a model depends stay longer:
the first of a window, which is an attention sink (`FIRST_SHARE`), and massive ones (`MASSIVE`).
One window in `HELD_OUT_EVERY` is not counted; some of its inputs are kept as they are, to test compensation on.
Memory is bounded: entries are summed in groups that fit, each in a run of its own over all windows.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from raq_client.compensation.gram import (
    Entry,
    Gram,
    InMemory,
    MatrixGram,
    column_blocks,
    curvature_entry,
    output_entry,
    spread,
)
from raq_client.compensation.sums import HELD_OUT_EVERY, HELD_OUT_INPUTS, Sums
from raq_client.engine import Engine, NotFiniteError, Product
from raq_client.engine.interrupts import deferred_interrupts
from raq_client.engine.windows import Progress, Text
from raq_client.importance.collect import LEAST_TOKENS, SAVE_EVERY, Counting, all_windows, rows_by_matrix
from raq_client.models.model_file import ModelFile
from raq_client.models.quantizable import is_quantizable
from raq_solver.errors import Fault, InvalidInput
from raq_solver.tensor_names import OUTPUT, TOKEN_EMBEDDING

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

    `memory` bounds the bytes of the sums; the entry of one tensor is always summed at once. Every 50 windows `save` is
    called with the state so far, and returns it as it was stored, so that it need not be kept in memory; passing it as
    `resume` with the same texts continues from there.

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
    named = tuple(text.name for text in texts)
    empty = Gram(
        {},
        {},
        InMemory({}),
        named,
        len(cut),
        engine.context,
        model.fingerprint(),
        unfinished=True,
        sequences=engine.begun(cut),
    )
    if resume is not None and not _continues(resume, empty):
        raise InvalidInput(Fault(resume.where, "was begun with another model, other texts or windows; remove it"))
    try:
        found = _Run(engine, cut, empty, beside).collect(_grouped(shapes, memory, resume), resume, save, progress)
    except (KeyboardInterrupt, SystemExit):
        if beside is not None:
            beside.keep()
        raise
    return replace(found, shared=shared)


def _continues(resume: Gram, empty: Gram) -> bool:
    """Whether a state is of the same model, texts and windows, in the same order."""
    of = [(gram.model, gram.texts, gram.windows, gram.context) for gram in (resume, empty)]
    if of[0] != of[1] or resume.sequences is None or empty.sequences is None:
        return False
    return np.array_equal(resume.sequences, empty.sequences)


def _with(state: Gram, now: Mapping[str, Sequence[MatrixGram]], windows: int) -> Gram:
    """The statistics with the entries of a group, counted in `windows` windows."""
    more = {name: Entry.of(parts, windows) for name, parts in now.items()}
    return replace(state, entries={**state.entries, **more}, source=InMemory(now, state.source))


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
    begun: dict[str, _Shape] = {}
    left = dict(shapes)
    if resume is not None:
        for name, entry in resume.entries.items():
            shape = left.pop(name, None)
            if shape is not None and entry.windows < resume.windows:
                begun[name] = shape
    groups: list[dict[str, _Shape]] = [begun] if begun else []
    used = memory
    for name, shape in left.items():
        if used + shape.bytes > memory:
            groups.append({})
            used = 0
        groups[-1][name] = shape
        used += shape.bytes
    return groups


@dataclass(frozen=True, eq=False)
class _Run:
    """A collection: the model, the windows, the empty statistics to fill, and the importance counted beside them."""

    engine: Engine
    windows: Int32[np.ndarray, "windows context"]
    empty: Gram
    beside: Counting | None

    def collect(
        self,
        groups: Sequence[Mapping[str, _Shape]],
        resume: Gram | None,
        save: Callable[[Gram], Gram] | None,
        progress: Progress | None,
    ) -> Gram:
        state = self.empty
        if resume is not None:
            outputs = {output_entry(name) for name in resume.outputs} | set(
                map(curvature_entry, (TOKEN_EMBEDDING, OUTPUT))
            )
            kept = {n: e for n, e in resume.entries.items() if n in outputs or e.windows == resume.windows}
            state = replace(state, entries=kept, source=resume.source, outputs=resume.outputs)
        for number, group in enumerate(groups):
            begun = resume if number == 0 and resume is not None and set(group) <= set(resume.entries) else None
            for done, found in self._group(group, begun):
                if progress is not None:
                    progress(number * len(self.windows) + done, len(groups) * len(self.windows))
                finished = done == len(self.windows)
                if finished or (save is not None and done % SAVE_EVERY == 0):
                    now = _with(state, found(), done)
                    stored = now if save is None else save(now)
                    # The file that `state` was read from has been replaced: from now on it is read from the new one.
                    state = stored if finished else replace(state, source=stored.source)
        return replace(state, unfinished=False)

    def _group(
        self, group: Mapping[str, _Shape], begun: Gram | None
    ) -> Iterator[tuple[int, Callable[[], dict[str, list[MatrixGram]]]]]:
        """Sum a group over all windows; yields the number of windows done, and a function for the means so far."""
        sums = {
            name: [
                Sums.empty(column_blocks(shape.length)) if begun is None else Sums.of(begun.source.matrix(name, index))
                for index in range(shape.matrices)
            ]
            for name, shape in group.items()
        }
        first = 0 if begun is None else begun.entries[next(iter(group))].windows
        held_out = len(range(HELD_OUT_EVERY - 1, len(self.windows), HELD_OUT_EVERY))
        at = first

        def visit(product: Product) -> None:
            if not np.isfinite(product.inputs).all():
                what = f"what {product.name} is multiplied with is not finite"
                raise NotFiniteError(Fault(str(self.engine.path), what))
            for matrix, inputs in rows_by_matrix(_scaled(product, group[product.name].typical)):
                if at % HELD_OUT_EVERY == HELD_OUT_EVERY - 1:
                    sums[product.name][matrix].hold_out(_sample(inputs, -(-HELD_OUT_INPUTS // held_out)))
                else:
                    sums[product.name][matrix].add(inputs)

        def found() -> dict[str, list[MatrixGram]]:
            return {name: [each.found() for each in parts] for name, parts in sums.items()}

        for at in self._passed(first, group, visit):
            yield at, found

    def _passed(self, first: int, group: Collection[str], visit: Callable[[Product], None]) -> Iterator[int]:
        """Run the windows from `first` on, visit the products of these weights, and count importance if it can be here.

        Yields the number of windows done.
        """
        beside = self.beside
        if beside is None or not first <= beside.done < len(self.windows):
            for done in self.engine.observe_products(self.windows[first:], group.__contains__, visit, LEAST_TOKENS):
                yield first + done
            return
        counting, at = beside, first

        def wanted(name: str) -> bool:
            return name in group or counting.wanted(name)

        def visit_both(product: Product) -> None:
            if at == counting.done and counting.wanted(product.name):
                counting.visit(product)
            if product.name in group:
                visit(product)

        steps = self.engine.observe_products(self.windows[first:], wanted, visit_both, LEAST_TOKENS)
        for _ in self.windows[first:]:
            with deferred_interrupts():  # a window is counted whole or not at all
                next(steps)
                at += 1
                counting.done = max(counting.done, at)
            if at == counting.done:
                counting.keep_now_and_then()
            yield at
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
