"""A journal of evaluations: one line each, so that an interrupted measurement goes on where it stopped."""

import json
from collections.abc import Sequence
from pathlib import Path

from raq_client.sensitivities.sensitivity_fit import Evaluation


class Journal:
    """Evaluations by the tensors they perturbed, in a file of lines, or in memory when there is no file.

    The first line names the tensors that the model uses. A line cut short by a crash is measured again.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._evaluations: dict[tuple[str, ...], Evaluation] = {}
        self.tensors: tuple[str, ...] | None = None
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            read = json.loads(line)
            if "uses" in read:
                self.tensors = tuple(read["uses"])
            else:
                found = Evaluation(tuple(read["tensors"]), tuple(read["errors"]), read["kl"], read["kl_error"])
                self._evaluations[found.tensors] = found
        except (ValueError, KeyError, TypeError):
            return

    def get(self, tensors: tuple[str, ...]) -> Evaluation | None:
        """What was found when exactly these tensors were perturbed."""
        return self._evaluations.get(tensors)

    def use(self, tensors: Sequence[str]) -> None:
        """Note which tensors the model uses."""
        self.tensors = tuple(tensors)
        self._write({"uses": list(tensors)})

    def add(self, found: Evaluation) -> None:
        """Remember an evaluation, in the file at once."""
        self._evaluations[found.tensors] = found
        self._write(
            {
                "tensors": list(found.tensors),
                "errors": list(found.errors),
                "kl": found.kl,
                "kl_error": found.kl_error,
            }
        )

    def _write(self, line: dict[str, object]) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
