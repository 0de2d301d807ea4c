"""What is read back from manifests: the parts of `run`, `ladder` and `recipe build` that a model card shows."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from raq_client.files.user_files import read_user_file


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class EstimateRecord(_Record):
    """A measured value with its standard errors; an error is None if there were too few tokens or windows."""

    value: float
    token_error: float | None = None
    window_error: float | None = None
    error: float | None = None

    @property
    def largest_error(self) -> float | None:
        """The larger of the errors that are known."""
        return max((one for one in (self.error, self.token_error, self.window_error) if one is not None), default=None)


class SummaryRecord(_Record):
    """Figures of a check over some windows, in nats per token where they are divergences."""

    windows: int | None = None
    tokens: int
    kl: EstimateRecord
    kl_quantiles: dict[str, float | None] = Field(default_factory=dict)
    top1_agreement: EstimateRecord
    ratio: EstimateRecord | None = None


class CheckRecord(_Record):
    """The report of a check; the keys of `texts` are the names of its texts."""

    context: int
    overall: SummaryRecord
    texts: dict[str, Any]


class AgainstRecord(_Record):
    """llama.cpp's mixture, measured on the same text; `mixture_bytes` of tensor data.

    What older manifests do not have is None.
    """

    mixture: str
    mixture_bytes: int
    mixture_kl: float
    mixture_file_bytes: int | None = None
    mixture_check: SummaryRecord | None = None


class MixtureRecord(SummaryRecord):
    """A mixture of llama.cpp, measured as the steps of a ladder are; `file_bytes` of its file."""

    name: str
    file_bytes: int
    bits_per_weight: float


class PlanRecord(_Record):
    """A plan: sizes in bytes of tensor data, losses in nats per token."""

    bytes: int
    bits_per_weight: float | None = None
    loss: float | None = None
    loss_source: str | None = None
    termination: str | None = None
    allocation: dict[str, str] | None = None


class StepRecord(_Record):
    """A step of a ladder; `file` is None for one that was not written."""

    name: str
    bytes: int
    bits_per_weight: float
    predicted_loss: float | None = None
    allocation: dict[str, str]
    file: str | None = None
    kl: EstimateRecord | None = None
    kl_quantiles: dict[str, float | None] = Field(default_factory=dict)
    top1_agreement: EstimateRecord | None = None
    ratio: EstimateRecord | None = None
    tokens: int | None = None
    windows: int | None = None


class OutputRecord(_Record):
    """A file that a build wrote."""

    sha256: str


class ManifestRecord(_Record):
    """A manifest of `run --manifest`, of `ladder` (ladder.json), or of `recipe build`.

    `inputs` are SHA-256 by path; `outputs` too, or records of them.
    """

    format: Literal["raq-manifest-1", "raq-build-1"]
    command: tuple[str, ...]
    versions: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str | OutputRecord]
    origins: dict[str, str] = Field(default_factory=dict)
    plan: PlanRecord | None = None
    allocation: dict[str, str] | None = None
    check: CheckRecord | None = None
    against: AgainstRecord | None = None
    steps: tuple[StepRecord, ...] = ()
    mixtures: tuple[MixtureRecord, ...] = ()
    texts: tuple[str, ...] = ()
    context: int | None = None


def read_manifest(path: Path) -> ManifestRecord:
    """The manifest in a JSON file. Raises InvalidInput if it is none, with every fault."""
    return read_user_file(path, ManifestRecord, "a manifest of run, ladder or recipe build")
