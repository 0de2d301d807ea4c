"""`raq.toml`: default options for all commands in a folder, so that `raq-client solve` is enough.

Paths in it are relative to the file's folder. Flags override the environment, which overrides the file.
"""

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from raq_client.files.names import is_model_name
from raq_client.files.user_files import read_user_file

FILE_NAME: Final = "raq.toml"


Texts = Annotated[tuple[str, ...], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)]
"""One text or several."""
Text = Annotated[str, BeforeValidator(lambda given: str(given) if isinstance(given, int | float) else given)]
"""A text, or a bare number."""


class MemorySettings(BaseModel):
    """The keys of `[memory]` in `raq.toml`: the device that the model runs on, in the form of the flags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vram: str | None = Field(default=None, description="memory of the device, e.g. 24GiB")
    context: Text | None = Field(default=None, description="tokens of context to hold, e.g. 184k")
    kv: str | None = Field(default=None, description="type of the key-value cache, e.g. q8_0")
    overhead: str | None = Field(default=None, description="other memory use there, e.g. 3GiB")
    parallel: int | None = Field(default=None, ge=1, description="sequences at once")
    ubatch: int | None = Field(default=None, ge=1, description="tokens computed at once (n_ubatch)")
    host: Texts = Field(default=(), description="PATTERN of tensors kept on the host")
    host_memory: str | None = Field(default=None, description="memory for these tensors, e.g. 8GiB")


class Settings(BaseModel):
    """The keys of `raq.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path | None = Field(default=None, description="the model file to quantize")
    imatrix: Texts = Field(default=(), description="importance of the model's input columns; FILE, or FILE:WEIGHT")
    gram: Path | None = Field(default=None, description="Gram statistics, for rounding with error feedback")
    profile: Path | None = Field(default=None, description="a saved profile, instead of model and imatrix")
    text: tuple[Path, ...] = Field(default=(), description="texts to check on")
    budget: Text | None = Field(default=None, description="bits per weight (5.7) or the size of the file (4.2GiB)")
    server: str | None = Field(default=None, description="HOST:PORT of a raq-server; else solve in this process")
    types: tuple[str, ...] = Field(default=(), description="quant types to choose from, or auto, k, iq, legacy, all")
    rows: int | None = Field(default=None, ge=2, description="rows of each matrix to measure errors on; else all")
    loss: str | None = Field(default=None, description="loss model")
    base: str | None = Field(default=None, description="start from this: a mixture, a file or a recipe")
    architecture: str | None = Field(default=None, description="rules on kinds of tensors: default, none, or a file")
    exo: Texts = Field(default=(), description="PATTERN of tensors kept at F16")
    pin: Texts = Field(default=(), description="PATTERN=TYPE")
    floor: Texts = Field(default=(), description="PATTERN=BITS")
    ceiling: Texts = Field(default=(), description="PATTERN=BITS")
    exclude: Texts = Field(default=(), description="PATTERN=TYPE, or TYPE alone")
    tie: Texts = Field(default=(), description="PATTERN of tensors that share one type")
    at_most: Texts = Field(default=(), description="PATTERN=COUNT:BITS")
    region: Texts = Field(default=(), description="PATTERN=SIZE: these tensors together take at most SIZE")
    monotone: Texts = Field(default=(), description="PATTERN along which bits never fall")
    distinct_types: int | None = Field(default=None, ge=1, description="most quant types in the file")
    active_bytes: str | None = Field(default=None, description="most bytes read per token, e.g. 3GiB")
    experts_used: int | None = Field(default=None, ge=1, description="experts per token, if the model lacks it")
    memory: MemorySettings = Field(default=MemorySettings(), description="the device that the model runs on")

    def files(self) -> tuple[Path | str, ...]:
        """All files in the settings; importance files may have a weight."""
        return (
            *(path for path in (self.model, self.gram, self.profile) if path is not None),
            *self.imatrix,
            *self.text,
        )

    def beside(self, folder: Path) -> Self:
        """The same settings with their paths taken relative to `folder`."""
        changed = {
            name: path if is_model_name(str(path)) else folder / path
            for name in ("model", "gram", "profile")
            if (path := getattr(self, name)) is not None
        }
        changed |= {"text": tuple(folder / path for path in self.text)}
        return self.model_copy(update={**changed, "imatrix": tuple(str(folder / text) for text in self.imatrix)})


EXAMPLES: Final = {
    "model": '"model-f16.gguf"',
    "imatrix": '["imatrix.gguf"]',
    "gram": '"model.gram"',
    "profile": '"model.profile.json"',
    "text": '["held-out.txt"]',
    "budget": '"5.0"',
    "server": '"solver.example:8433"',
    "types": '["auto"]',
    "rows": "256",
    "loss": '"fisher"',
    "base": '"Q4_K_M"',
    "architecture": '"default"',
    "exo": '["blk.0.attn_v.weight"]',
    "pin": '["output.weight=Q6_K"]',
    "floor": '["blk.0.*=Q4_K"]',
    "ceiling": '["blk.*.ffn_up.weight=5.5"]',
    "exclude": '["Q2_K"]',
    "tie": '["blk.*.attn_{q,k}.weight"]',
    "at_most": '["blk.*.ffn_down.weight=8:Q5_K"]',
    "region": '["blk.{0..15}.*=3GiB"]',
    "monotone": '["blk.*.attn_v.weight"]',
    "distinct_types": "6",
    "active_bytes": '"3GiB"',
    "experts_used": "8",
    "vram": '"24GiB"',
    "context": '"32k"',
    "kv": '"q8_0"',
    "overhead": '"1GiB"',
    "parallel": "1",
    "ubatch": "512",
    "host": '["token_embd.weight"]',
    "host_memory": '"8GiB"',
}
"""An example value for every key, as it is written in TOML; those of `[memory]` too."""


def read_settings(folder: Path) -> Settings:
    """The settings of a folder; empty if it has no settings file.

    Raises InvalidInput with every unknown key (and its nearest known one) and every wrong value.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return Settings()
    return read_user_file(path, Settings, "settings").beside(folder)
