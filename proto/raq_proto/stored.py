"""What a service says of the profiles it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """A stored profile. `digest` is its name, `weights` what budgets in bits per weight refer to, `size_bytes` that of
    its message; `used` is when it was last put, got or solved for, to the hour.
    """

    digest: str
    tensors: int
    weights: int
    quant_types: tuple[str, ...]
    provenance: Mapping[str, str]
    size_bytes: int
    created: datetime
    used: datetime
