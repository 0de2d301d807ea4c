"""Read the importance of one or several domains, given as `FILE` or `FILE:WEIGHT`.

Files without weights are added up as if collected in one run; files with weights are blended, so that a domain counts
by its weight and not by the length of its text.
"""

from collections.abc import Sequence
from pathlib import Path

from raq_client.importance.combining import blend, merge
from raq_client.importance.imatrix import DEFAULT_CHUNK_SIZE, Importance
from raq_client.importance.imatrix_file import read_importance
from raq_solver.errors import Fault, InvalidInput, raise_faults


def read_domains(texts: Sequence[str], *, chunk_size: int = DEFAULT_CHUNK_SIZE) -> Importance:
    """The combined importance of these files; `chunk_size` is that of .dat files, as for `read_importance`.

    Raises InvalidInput with the faults of all files, if only some have weights, or if the files are not of one model.
    """
    named = [named_file(text) for text in texts]
    parts: list[Importance] = []
    faults: list[Fault] = []
    for path, _ in named:
        try:
            parts.append(read_importance(path, chunk_size=chunk_size))
        except InvalidInput as error:
            faults += error.faults
    weights = [weight for _, weight in named if weight is not None]
    if 0 < len(weights) < len(named):
        faults.append(
            Fault("importance", "some files have weights and some not; give all of them FILE:WEIGHT, or none")
        )
    raise_faults(faults)
    if weights:
        return blend(list(zip(parts, weights, strict=True)))
    return parts[0] if len(parts) == 1 else merge(parts)


def read_parts(paths: Sequence[Path]) -> tuple[Importance, ...]:
    """Read several importance files without combining them. Raises InvalidInput with the faults of all."""
    parts: list[Importance] = []
    faults: list[Fault] = []
    for path in paths:
        try:
            parts.append(read_importance(path))
        except InvalidInput as error:
            faults += error.faults
    raise_faults(faults)
    return tuple(parts)


def named_file(text: str) -> tuple[Path, float | None]:
    """Split `FILE:WEIGHT` into path and weight. A colon in the name of an existing file belongs to the name.

    >>> named_file("code.gguf:0.7")[1], named_file("code.gguf")[1]
    (0.7, None)
    """
    stem, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), None
    try:
        return Path(stem), float(weight)
    except ValueError:
        return Path(text), None
