"""A journal of evaluations, one line each, so that an interrupted measurement continues where it stopped."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from raq_client.files.cache_file import CacheFile
from raq_client.sensitivity.fit import Evaluation


class Journal:
    """Evaluations by their perturbed tensors, in a JSON Lines file, or in memory if there is no file.

    The first line contains the names of the tensors that the model uses. A line cut short by a crash is ignored.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = CacheFile(path)
        self._evaluations: dict[tuple[str, ...], Evaluation] = {}
        self.tensors: tuple[str, ...] | None = None
        for read in self._file.objects():
            with suppress(KeyError, TypeError):
                self._take(read)

    def _take(self, read: dict[str, Any]) -> None:
        if "uses" in read:
            self.tensors = tuple(read["uses"])
        else:
            found = Evaluation(tuple(read["tensors"]), tuple(read["errors"]), read["kl"], read["kl_error"])
            self._evaluations[found.tensors] = found

    def get(self, tensors: tuple[str, ...]) -> Evaluation | None:
        """The evaluation with exactly these tensors perturbed, or None."""
        return self._evaluations.get(tensors)

    def use(self, tensors: Sequence[str]) -> None:
        """Record the tensors that the model uses."""
        self.tensors = tuple(tensors)
        self._file.add({"uses": list(tensors)})

    def add(self, found: Evaluation) -> None:
        """Store an evaluation and append it to the file."""
        self._evaluations[found.tensors] = found
        self._file.add(
            {
                "tensors": list(found.tensors),
                "errors": list(found.errors),
                "kl": found.kl,
                "kl_error": found.kl_error,
            }
        )
