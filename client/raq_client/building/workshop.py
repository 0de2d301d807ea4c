"""The folder in which stages of builds are kept by content: importance, profiles, quantized tensors."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from raq_client.files.manifest import file_digest
from raq_client.quantizing.tensor_store import DEFAULT_MOST_BYTES, TensorStore
from raq_solver.errors import Fault, InvalidInput, raise_faults


@dataclass(frozen=True)
class Workshop:
    """Where stages are kept. `most_bytes` limits the quantized tensors; the other stages are small.

    With `cached` False, errors are measured again even if they were measured before.
    """

    folder: Path
    most_bytes: int = DEFAULT_MOST_BYTES
    cached: bool = True

    @property
    def store(self) -> TensorStore:
        """The quantized tensors."""
        return TensorStore(tensors_folder(self.folder), self.most_bytes)

    def stage(self, kind: str, parts: Iterable[str], suffix: str) -> Path:
        """The file of a stage whose result depends on these parts only; its folder is made."""
        folder = self.folder / kind
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(Fault(str(folder), f"can't be written: {error.strerror or error}")) from error
        key = hashlib.sha256(json.dumps([kind, *parts]).encode()).hexdigest()[:32]
        return folder / f"{key}{suffix}"


def default_workshop() -> Workshop:
    """The workshop in the user's cache folder."""
    return Workshop(user_cache_path("raq"))


def tensors_folder(cache: Path) -> Path:
    """The store of quantized tensors in a cache folder."""
    return cache / "tensors"


def digests_of(paths: Iterable[Path]) -> dict[Path, str]:
    """The SHA-256 of each file. Raises InvalidInput with every file that can't be read."""
    found: dict[Path, str] = {}
    faults: list[Fault] = []
    for path in dict.fromkeys(paths):
        try:
            found[path] = file_digest(path)
        except OSError as error:
            faults.append(Fault(str(path), f"can't be read: {error.strerror or error}"))
    raise_faults(faults)
    return found
