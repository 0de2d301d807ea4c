"""Importance as units: groups of windows, each with an importance file of its own beside the lines.

One process adds up the same groups in the same order, each rounded to float32, so that the bits are the same. Fisher
information is of groups of its own windows.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from jaxtyping import Int32

from raq_client.curvature.fisher import FisherSums
from raq_client.curvature.information import Fisher, InformedWindow, joined
from raq_client.curvature.network import Network
from raq_client.curvature.passes import network_for, passes, windows_at_once
from raq_client.curvature.shapes import shape_of
from raq_client.engine import DEFAULT_CONTEXT, Engine
from raq_client.engine.loading import loaded
from raq_client.engine.tokenizer import vocabulary_of
from raq_client.engine.windows import Text, cut_texts
from raq_client.importance.collect import SAVE_EVERY, count_group, require_entries
from raq_client.importance.collect_fisher import (
    DEFAULT_FISHER_WINDOWS,
    chosen_windows,
    informed_windows,
    with_fisher,
)
from raq_client.importance.combining import merge
from raq_client.importance.imatrix import Importance
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_client.models.model_file import ModelFile, open_model
from raq_client.progress import Notes, silent
from raq_client.units.costs import running_cost
from raq_client.units.journal import work_folder
from raq_client.units.unit import Line, Unit
from raq_solver.errors import Fault, InvalidInput

_VERSION: Final = "collect 2"
"""Changed whenever the same key would mean other sums."""
_PASSES: Final = 8
"""Runs of the model that a window of Fisher information costs: forward and back, each block twice, with NumPy."""
_COUNTED: Final = "windows"
_FISHER: Final = "fisher"
_REFUSED: Final = "refused"


@dataclass(frozen=True, eq=False)
class CollectJob:
    """Collecting the importance of the model at `path` on `texts`, for `output`.

    `limit` and `output_head` are as for `importance.collect.collect`, `fisher` the windows of Fisher information; None:
    the usual number, or none where it can't be had.
    """

    loads_model: ClassVar[bool] = True
    path: Path
    texts: tuple[Text, ...]
    output: Path
    context: int = DEFAULT_CONTEXT
    limit: int | None = None
    output_head: bool = False
    fisher: int | None = None
    threads: int = 0
    library: Path | None = None

    @cached_property
    def _model(self) -> ModelFile:
        return open_model(self.path)

    @cached_property
    def key(self) -> str:
        """A digest of model, texts, and what sums depend on."""
        ways = f"{self.context} {self.limit} {self.output_head} {self.fisher}"
        state = hashlib.sha256(f"{_VERSION} {self._model.fingerprint()} {ways}".encode())
        for each in self.texts:
            state.update(each.digest())
        return state.hexdigest()

    @cached_property
    def _cut(self) -> list[Int32[np.ndarray, "windows context"]]:
        """The windows of each text. Raises InvalidInput naming every text that has fewer than two."""
        with vocabulary_of(self._model.path, self.library) as vocabulary:
            return cut_texts(vocabulary, self.context, self.texts, self.limit)

    @property
    def windows(self) -> int:
        """The number of windows that are counted."""
        return sum(map(len, self._cut))

    @cached_property
    def _refusal(self) -> InvalidInput | None:
        """Why there can be no Fisher information of this model; None if there can."""
        try:
            shape_of(self._model)
        except InvalidInput as error:
            return error
        return None

    @cached_property
    def fisher_windows(self) -> int:
        """The number of windows of which Fisher information is collected."""
        wanted = DEFAULT_FISHER_WINDOWS if self.fisher is None else self.fisher
        if wanted == 0 or (self.fisher is None and self._refusal is not None):
            return 0
        return len(chosen_windows(self._cut, wanted))

    @cached_property
    def _informed_windows(self) -> tuple[InformedWindow, ...]:
        return informed_windows(self._cut, self.texts, self.fisher_windows) if self.fisher_windows else ()

    @cached_property
    def _groups(self) -> dict[str, tuple[str, range]]:
        """What is collected of which windows, by the names of the units, in the order in which they are added."""
        found = {}
        sizes = {_COUNTED: (self.windows, SAVE_EVERY)}
        if self.fisher_windows:
            sizes[_FISHER] = self.fisher_windows, windows_at_once(shape_of(self._model), self.context)
        for kind, (total, size) in sizes.items():
            for first in range(0, total, size):
                group = range(first, min(first + size, total))
                found[f"{kind} {group.start}:{group.stop}"] = kind, group
        return found

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """A unit for each group of windows."""
        run = running_cost(sum(tensor.weights for tensor in self._model.tensors), self.context)
        each = {_COUNTED: run, _FISHER: _PASSES * run}
        return tuple(Unit(name, each[kind] * len(group)) for name, (kind, group) in self._groups.items())

    def run(self, unit: Unit) -> Line:
        """Collect a group of windows, and write it to the work folder; the SHA-256 of the file.

        Where Fisher information can't be had and was not asked for by number, the line has the faults.
        """
        path = self._part(unit.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return self._written(unit, path)

    def again(self, unit: Unit) -> Line:
        """The line of a group, collected again."""
        with tempfile.TemporaryDirectory() as folder:
            return self._written(unit, Path(folder) / "again.gguf")

    def finish(self, lines: Mapping[str, Line], notes: Notes = silent) -> Importance:
        """The importance from the lines and files of all groups.

        A file that the disk has lost is made again, with a note. Raises InvalidInput if nothing was counted.
        """
        faults = self._refusal.faults if self.fisher is None and self._refusal is not None else ()
        counted: Importance | None = None
        fisher: dict[str, Fisher] = {}
        done = 0
        for name, (kind, group) in self._groups.items():
            refused = lines[name].get(_REFUSED)
            if refused is not None:
                faults = tuple(Fault(where, what) for where, what in refused)
                continue
            part = self._sound(name, lines[name], notes)
            if kind == _COUNTED:
                counted = part if counted is None else merge([counted, part])
            else:
                fisher = joined(fisher, done, part.fisher, len(group))
                done = group.stop
        assert counted is not None, "every text has two windows at least"
        for fault in faults:
            notes(f"note: no Fisher information: {fault}")
        names, path = tuple(text.name for text in self.texts), self._model.path
        found = Importance(counted.entries, names, self.windows, self.context, f"collected from {path.name}")
        return found if faults else with_fisher(found, fisher, self._informed_windows[:done])

    def unopened(self, threads: int) -> "CollectJob":
        """The same job with nothing loaded."""
        return replace(self, threads=threads)

    def close(self) -> None:
        """Free the model, if it is loaded; a further unit loads it again."""
        self._stack.close()
        for opened in ("_stack", "_engine", "_network"):
            self.__dict__.pop(opened, None)

    @cached_property
    def _stack(self) -> ExitStack:
        return ExitStack()

    @cached_property
    def _engine(self) -> Engine:
        opened = loaded(self.path, context=self.context, threads=self.threads, library=self.library)
        return self._stack.enter_context(opened)

    @cached_property
    def _network(self) -> tuple[Network, Int32[np.ndarray, "windows context"]]:
        return network_for(self._model, self._engine, chosen_windows(self._cut, self.fisher_windows))

    def _written(self, unit: Unit, path: Path) -> Line:
        kind, group = self._groups[unit.name]
        try:
            found = self._counted(group) if kind == _COUNTED else self._informed(group)
        except InvalidInput as error:
            if kind == _COUNTED or self.fisher is not None:
                raise
            return {_REFUSED: [[fault.where, fault.what] for fault in error.faults]}
        write_importance(found, path, force=True)
        return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def _counted(self, group: range) -> Importance:
        windows = np.concatenate(self._cut)[group.start : group.stop]
        entries = count_group(self._engine, windows, output_head=self.output_head)
        found = Importance(entries, chunk_count=len(group), chunk_size=self.context)
        require_entries(found, self._model.path)
        return found

    def _informed(self, group: range) -> Importance:
        network, windows = self._network
        sums = FisherSums(self._model, self.context)
        for _ in passes(network, windows[: group.stop], sums, first=group.start):
            pass
        found = sums.found(len(group))
        informed = self._informed_windows[group.start : group.stop]
        return with_fisher(Importance({}, chunk_size=self.context), found, informed)

    def _part(self, name: str) -> Path:
        return work_folder(self.output) / self.key[:32] / f"{name.replace(' ', '-').replace(':', '-')}.gguf"

    def _sound(self, name: str, line: Line, notes: Notes) -> Importance:
        path = self._part(name)
        for _ in range(2):
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"]:
                return read_importance(path)
            notes(f"note: {path} is not as it was written; collecting it again")
            self.run(Unit(name, 0))
        what = "is not what was written, twice: check the disk, remove the folder, and run all parts again"
        raise InvalidInput(Fault(str(path), what))
