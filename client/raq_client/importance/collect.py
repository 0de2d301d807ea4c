"""Collect importance in process: the sums of llama-imatrix, through libllama's eval callback.

Definitions are llama-imatrix's: a text is tokenized once and cut into windows without overlap, the first token of a
window is replaced by the begin token if the vocabulary adds one, all positions of a window count. Included are weights
named `blk.…` (and `output.weight` on request) that are multiplied with at least 16 inputs in one call, and all expert
weights. An expert's sums include only the tokens routed to it. Sums are float64 by default; llama-imatrix adds float32
to float32 token by token, with a relative error of up to 5e-4 after 51,200 tokens, which is available on request.
Besides the squares, the inputs themselves are summed.
Source: tools/imatrix of llama.cpp commit 0c1e57098.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int32, Shaped

from raq_client.engine import DEFAULT_CONTEXT, Engine, NotFiniteError, Product
from raq_client.engine.interrupts import deferred_interrupts
from raq_client.engine.loading import loaded
from raq_client.engine.windows import Progress, Text, cut_windows
from raq_client.importance.combining import added
from raq_client.importance.imatrix import Entry, Importance
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.tensor_names import OUTPUT, TOKEN_EMBEDDING

LEAST_TOKENS = 16
"""Least number of inputs of a counted product: llama-imatrix ignores smaller batches."""
SAVE_EVERY = 50
"""Windows whose sums are added up before they are rounded to float32 and added to those before, and between two calls
of `save`. Whoever counts them, and where, ends with the same bits."""


def _add_rows_exactly(sums: Shaped[np.ndarray, " columns"], rows: Float32[np.ndarray, "rows columns"]) -> None:
    sums += rows.sum(axis=0, dtype=np.float64)


def _add_rows_one_by_one(sums: Shaped[np.ndarray, " columns"], rows: Float32[np.ndarray, "rows columns"]) -> None:
    for row in rows:
        sums += row


Sums = Literal["float64", "float32"]
"""Precision of the sums: float64, or float32 added token by token as in llama-imatrix."""
_ADDERS: Final = {"float64": _add_rows_exactly, "float32": _add_rows_one_by_one}
_SQUARES: Final = ".squares"
_COUNTS: Final = ".inputs"
_PLAIN: Final = ".sum"
_BEFORE: Final = ".before"


class Tally:
    """Running sums of squares, sums and counts for every weight, beginning with those of `start`.

    If `start` has no sums of inputs (only squares), none are kept. In float64, windows are summed in groups, which end
    with `end_group`; in float32 every row is added to all those before, as in llama-imatrix.
    """

    def __init__(self, start: Importance | None, sums: Sums = "float64") -> None:
        self._kind, self._add_rows = np.dtype(sums), _ADDERS[sums]
        self._before: dict[str, Entry] = {} if start is None else dict(start.entries)
        self._squares: dict[str, Shaped[np.ndarray, " values"]] = {}
        self._counts: dict[str, Float64[np.ndarray, " matrices"]] = {}
        self._plain: dict[str, Shaped[np.ndarray, " values"] | None] = {}
        if sums == "float32":
            for name, entry in self._before.items():
                self._squares[name], self._counts[name] = entry.sums.copy(), entry.counts.astype(np.float64)
                self._plain[name] = None if entry.plain_sums is None else entry.plain_sums.copy()
            self._before = {}
        elif start is not None:
            self._go_on(start.growing)

    def _go_on(self, growing: Mapping[str, Float64[np.ndarray, " values"]]) -> None:
        """Take up the group that `growing` gave: its own sums, and those before it."""
        for name in [name.removesuffix(_SQUARES) for name in growing if name.endswith(_SQUARES)]:
            self._squares[name], self._counts[name] = growing[name + _SQUARES].copy(), growing[name + _COUNTS].copy()
            plain = growing.get(name + _PLAIN)
            self._plain[name] = None if plain is None else plain.copy()
            before = [growing.get(name + part + _BEFORE) for part in (_SQUARES, _COUNTS, _PLAIN)]
            sums, counts, plain = (None if each is None else each.astype(np.float32) for each in before)
            self._before.pop(name, None)
            if sums is not None and counts is not None:
                self._before[name] = Entry(sums, counts, plain)

    def growing(self) -> dict[str, Float64[np.ndarray, " values"]]:
        """What `entries` rounds: the exact sums of the group so far, and those before it; nothing between groups.

        Sums in float32 are exact as they are.
        """
        found: dict[str, Float64[np.ndarray, " values"] | None] = {}
        for name, squares in self._squares.items() if self._kind == np.float64 else ():
            found |= {name + _SQUARES: squares, name + _COUNTS: self._counts[name], name + _PLAIN: self._plain[name]}
            if (before := self._before.get(name)) is not None:
                parts = zip((_SQUARES, _COUNTS, _PLAIN), (before.sums, before.counts, before.plain_sums), strict=True)
                found |= {name + part + _BEFORE: values for part, values in parts}
        return {name: values.astype(np.float64) for name, values in found.items() if values is not None}

    def end_group(self) -> None:
        """Round the sums of this group to float32, as they are saved, and add them to those before."""
        if self._kind == np.float64:
            self._before = self.entries()
            self._squares, self._counts, self._plain = {}, {}, {}

    def add(self, product: Product) -> None:
        """Add the inputs of one product."""
        matrices, columns = product.stack[0] * product.stack[1], product.inputs.shape[-1]
        flat = self._squares.setdefault(product.name, np.zeros(matrices * columns, self._kind))
        counts = self._counts.setdefault(product.name, np.zeros(matrices if product.experts is not None else 1))
        plain = self._plain.setdefault(product.name, np.zeros(matrices * columns, self._kind))
        known = self._before.get(product.name)
        for counted in (flat.size, flat.size if known is None else known.sums.size):
            if counted != matrices * columns:
                what = f"has {matrices * columns} columns, {counted} were counted before"
                raise InvalidInput(Fault(product.name, what))
        for matrix, rows in rows_by_matrix(product):
            part = slice(matrix * columns, (matrix + 1) * columns)
            self._add_rows(flat[part], np.square(rows))
            if plain is not None:
                self._add_rows(plain[part], rows)
            if product.experts is not None:
                counts[matrix] += len(rows)
        if product.experts is None:
            counts += product.inputs.size // columns // matrices

    def entries(self) -> dict[str, Entry]:
        """The sums and counts in the form of an importance file."""
        found = dict(self._before)
        for name, squares in self._squares.items():
            group = Entry(
                squares.astype(np.float32),
                self._counts[name].astype(np.float32),
                None if (plain := self._plain[name]) is None else plain.astype(np.float32),
            )
            found[name] = added(found[name], group) if name in found else group
        return found


def rows_by_matrix(product: Product) -> Iterator[tuple[int, Float32[np.ndarray, "rows columns"]]]:
    """Yield (matrix, its inputs) in the order in which llama-imatrix counts them."""
    inputs, experts = product.inputs, product.experts
    if experts is None:
        for outer in range(inputs.shape[0]):
            for inner in range(inputs.shape[1]):
                matrix = (outer % product.stack[0]) * product.stack[1] + inner % product.stack[1]
                yield matrix, inputs[outer, inner]
        return
    shared = inputs.shape[2] == 1  # all chosen experts of a token share one input
    for expert in np.unique(experts):
        choice, token = np.nonzero(expert == experts.T)
        yield int(expert), inputs[0][token, 0 if shared else choice]


def collect(
    model: Path | str | Engine,
    texts: Sequence[Text],
    *,
    context: int = DEFAULT_CONTEXT,
    windows: int | None = None,
    output_head: bool = False,
    sums: Sums = "float64",
    threads: int = 0,
    library: Path | str | None = None,
    resume: Importance | None = None,
    save: Callable[[Importance], None] | None = None,
    progress: Progress | None = None,
) -> Importance:
    """Run `texts` through the model and sum the squared inputs of every weight; at most `windows` per text.

    Every 50 windows, and on an interrupt, `save` is called with the importance so far; passing that as `resume` with
    the same texts continues from there, to the same bits. `output_head` includes the output head, at
    no cost, also where that is the token embedding. With `sums="float32"` rounding errors are the same as in
    llama-imatrix.

    Raises InvalidInput if there is no text or one is shorter than two windows, if the model can't be loaded, if
    `resume` has another window length or more windows than the texts, or if an input is not finite.
    """
    if isinstance(model, Engine):
        return Counting(model, texts, windows, output_head, sums, resume, save).finish(progress)
    with loaded(model, context=context, threads=threads, library=library) as opened:
        return Counting(opened, texts, windows, output_head, sums, resume, save).finish(progress)


class Counting:
    """Importance as it is counted, on windows that pass through `model` here or for another purpose.

    Arguments are those of `collect`, and it raises what `collect` raises. `done` windows are counted so far.
    """

    def __init__(
        self,
        model: Engine,
        texts: Sequence[Text],
        limit: int | None = None,
        output_head: bool = False,  # noqa: FBT001, FBT002 - collect's own
        sums: Sums = "float64",
        resume: Importance | None = None,
        save: Callable[[Importance], None] | None = None,
    ) -> None:
        self.windows = all_windows(model, texts, limit)
        self.done = self._kept = _windows_before(resume, model.context, len(self.windows))
        self._model, self._output_head, self._save = model, output_head, save
        self._texts, self._tally = tuple(text.name for text in texts), Tally(resume, sums)

    def wanted(self, name: str) -> bool:
        """Whether the products of this weight are counted."""
        return is_counted(name, output_head=self._output_head)

    def visit(self, product: Product) -> None:
        """Count a product of the window `done`; whoever has run the whole window calls `reached`."""
        count_product(self._model, product, self._tally)

    def reached(self, windows: int) -> None:
        """So many windows were run. Every 50 windows a group ends; no interrupt may come while it does."""
        if windows > self.done:
            self.done = windows
            if windows % SAVE_EVERY == 0:
                self._tally.end_group()

    def keep(self) -> None:
        """Save what is counted so far, if anything is."""
        if self._save is not None and self.done:
            self._save(replace(self._importance(), growing=self._tally.growing()))
            self._kept = self.done

    def keep_now_and_then(self) -> None:
        """Save it after every 50 windows; to be called after each window."""
        if self.done % SAVE_EVERY == 0 and self.done > self._kept:
            self.keep()

    def finish(self, progress: Progress | None = None) -> Importance:
        """Count the windows that are left. Every 50 windows, and on an interrupt, the state is saved."""
        if self.done < len(self.windows):
            try:
                self._count(progress)
            except (KeyboardInterrupt, SystemExit):
                self.keep()
                raise
        found = self._importance()
        require_entries(found, self._model.path)
        return found

    def _count(self, progress: Progress | None) -> None:
        left = self.windows[self.done :]
        steps = count_windows(self._model, left, self._tally, output_head=self._output_head)
        for _ in left:
            with deferred_interrupts():  # a window is counted whole or not at all
                next(steps)
                self.reached(self.done + 1)
            if progress is not None:
                progress(self.done, len(self.windows))
            self.keep_now_and_then()
        next(steps, None)  # frees its context

    def _importance(self) -> Importance:
        source = f"collected from {self._model.path.name}"
        return Importance(self._tally.entries(), self._texts, self.done, self._model.context, source)


def all_windows(model: Engine, texts: Sequence[Text], limit: int | None) -> Int32[np.ndarray, "windows context"]:
    """The windows of all texts, one after the other, at most `limit` of each.

    Raises InvalidInput if there is no text or one is shorter than two windows, or if windows are too short to count.
    """
    if not texts:
        raise InvalidInput(Fault("text", "there is none to collect from; name at least one text file"))
    if model.context < LEAST_TOKENS:
        what = f"must be at least {LEAST_TOKENS} tokens, not {model.context}: shorter inputs are not counted"
        raise InvalidInput(Fault("context", what))
    return np.concatenate(cut_windows(model, texts, limit))


def require_entries(found: Importance, model: Path) -> None:
    """Raise InvalidInput if nothing was counted."""
    if not found.entries:
        what = "nothing was counted: libllama multiplies no tensor of it that is named blk.…; is it a language model?"
        raise InvalidInput(Fault(str(model), what))


def count_group(model: Engine, windows: Int32[np.ndarray, "windows context"], *, output_head: bool) -> dict[str, Entry]:
    """The sums of at most SAVE_EVERY windows, as they are added to those of the windows before.

    Raises InvalidInput as `count_windows` does.
    """
    tally = Tally(None)
    steps = count_windows(model, windows, tally, output_head=output_head)
    for _ in windows:
        with deferred_interrupts():
            next(steps)
    next(steps, None)  # frees its context
    return tally.entries()


def count_windows(
    model: Engine, windows: Int32[np.ndarray, "windows context"], tally: Tally, *, output_head: bool
) -> Iterator[int]:
    """Run windows through the model and add their products to `tally`; yields the number done after each.

    Raises InvalidInput if libllama fails, or if an input is not finite.
    """
    return model.observe_products(
        windows,
        lambda name: is_counted(name, output_head=output_head),
        lambda product: count_product(model, product, tally),
        LEAST_TOKENS,
    )


def is_counted(name: str, *, output_head: bool) -> bool:
    """Whether importance has an entry of a weight with this name."""
    # A model without a head of its own multiplies with its embedding instead; looking rows up is no product.
    return name.startswith("blk.") or (output_head and name in {OUTPUT, TOKEN_EMBEDDING})


def count_product(model: Engine, product: Product, tally: Tally) -> None:
    """Add a product's inputs to `tally`. Raises InvalidInput if one is not finite."""
    if not np.isfinite(product.inputs).all():
        raise NotFiniteError(Fault(str(model.path), f"what {product.name} is multiplied with is not finite"))
    tally.add(product)


def _windows_before(resume: Importance | None, context: int, windows: int) -> int:
    if resume is None:
        return 0
    where, faults = resume.source or "the importance to resume from", []
    if resume.chunk_size != context:
        faults.append(Fault(where, f"was counted in windows of {resume.chunk_size} tokens, not {context}"))
    if resume.chunk_count > windows:
        faults.append(Fault(where, f"holds {resume.chunk_count} windows, the texts have only {windows}"))
    raise_faults(faults)
    return resume.chunk_count
