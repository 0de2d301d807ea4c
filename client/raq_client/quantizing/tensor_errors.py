"""The measured errors of one tensor, and a file of them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from raq_client.files.cache_file import CacheFile


@dataclass(frozen=True, slots=True)
class TensorErrors:
    """Relative output errors of one tensor by type name, and its `energy` Σ h W² in squared activation units.

    `sampling_errors` are standard errors, if the errors are estimates from a sample of rows. With Fisher information,
    `fisher_losses` are nats per token by type name, and `fisher_energy` is the cost of setting all weights to 0, both
    to second order.
    """

    errors: Mapping[str, float]
    energy: float
    sampling_errors: Mapping[str, float] = field(default_factory=dict)
    fisher_losses: Mapping[str, float] = field(default_factory=dict)
    fisher_energy: float | None = None


class Store:
    """Measured tensors in a JSON Lines file, or in memory if there is no file."""

    def __init__(self, path: Path | None) -> None:
        self._file = CacheFile(path)
        self._known: dict[str, TensorErrors] = {}
        for read in self._file.objects():
            with suppress(KeyError):  # a line of an older form: that tensor is measured again
                self._known[read["tensor"]] = TensorErrors(
                    **{each.name: read[each.name] for each in fields(TensorErrors)}
                )

    def get(self, name: str) -> TensorErrors | None:
        """The stored errors of a tensor, or None."""
        return self._known.get(name)

    def add(self, name: str, found: TensorErrors) -> None:
        """Store the errors of a tensor and append them to the file."""
        self._known[name] = found
        self._file.add({"tensor": name} | asdict(found))
