"""`raq.toml`: what a project's commands take for granted, so that `raq-client solve` is enough.

Paths in it are relative to the file's folder. Flags win over the environment, the environment over the file.
"""

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from raq_client.files.user_files import read_user_file

FILE_NAME: Final = "raq.toml"


Texts = Annotated[tuple[str, ...], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)]
"""One text or several."""
Text = Annotated[str, BeforeValidator(lambda given: str(given) if isinstance(given, int | float) else given)]
"""A text, or a bare number."""


class MemorySettings(BaseModel):
    """The keys of `[memory]` in `raq.toml`: the device that the model runs on, as the flags say it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vram: str | None = Field(default=None, description="memory of the device, as 24GiB")
    context: Text | None = Field(default=None, description="tokens of context to hold, as 184k")
    kv: str | None = Field(default=None, description="type of the key-value cache, as q8_0")
    overhead: str | None = Field(default=None, description="what else takes memory there, as 3GiB")
    parallel: int | None = Field(default=None, ge=1, description="sequences at once")
    ubatch: int | None = Field(default=None, ge=1, description="tokens computed at once (n_ubatch)")
    host: Texts = Field(default=(), description="PATTERN of tensors kept on the host")
    host_memory: str | None = Field(default=None, description="what they may take there, as 8GiB")


class Settings(BaseModel):
    """The keys of `raq.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path | None = Field(default=None, description="the model file to quantize")
    imatrix: Texts = Field(default=(), description="importance of the model's input columns; FILE, or FILE:WEIGHT")
    profile: Path | None = Field(default=None, description="a saved profile, instead of model and imatrix")
    text: tuple[Path, ...] = Field(default=(), description="texts to check on")
    budget: Text | None = Field(default=None, description="bits per weight (5.7) or a size (4.2GiB)")
    server: str | None = Field(default=None, description="HOST:PORT of a raq-server; without it solve here")
    types: tuple[str, ...] = Field(default=(), description="quant types to choose from, or auto, k, iq, legacy, all")
    rows: int | None = Field(default=None, ge=2, description="rows of each matrix to measure errors on; else all")
    loss: str | None = Field(default=None, description="loss model")
    base: str | None = Field(default=None, description="what to start from: a mixture, a file or a recipe")
    architecture: str | None = Field(default=None, description="rules on kinds of tensors: default, none, or a file")
    exo: Texts = Field(default=(), description="PATTERN of tensors held at F16")
    pin: Texts = Field(default=(), description="PATTERN=TYPE")
    floor: Texts = Field(default=(), description="PATTERN=BITS")
    ceiling: Texts = Field(default=(), description="PATTERN=BITS")
    exclude: Texts = Field(default=(), description="PATTERN=TYPE, or TYPE alone")
    tie: Texts = Field(default=(), description="PATTERN of tensors that share one type")
    at_most: Texts = Field(default=(), description="PATTERN=COUNT:BITS")
    region: Texts = Field(default=(), description="PATTERN=SIZE that these tensors take together")
    monotone: Texts = Field(default=(), description="PATTERN along which bits never fall")
    distinct_types: int | None = Field(default=None, ge=1, description="most quant types in the file")
    active_bytes: str | None = Field(default=None, description="most that is read per token, as 3GiB")
    experts_used: int | None = Field(default=None, ge=1, description="experts per token, if the model lacks it")
    memory: MemorySettings = Field(default=MemorySettings(), description="the device that the model runs on")

    def files(self) -> tuple[Path | str, ...]:
        """All files that are named; importance perhaps with a weight."""
        return (*(path for path in (self.model, self.profile) if path is not None), *self.imatrix, *self.text)

    def beside(self, folder: Path) -> Self:
        """The same settings with paths made relative to `folder`."""
        changed = {name: folder / path for name in ("model", "profile") if (path := getattr(self, name)) is not None}
        changed |= {"text": tuple(folder / path for path in self.text)}
        return self.model_copy(update={**changed, "imatrix": tuple(str(folder / text) for text in self.imatrix)})


def read_settings(folder: Path) -> Settings:
    """The settings of a folder; those of an empty file when it has none.

    Raises InvalidInput with every unknown key (and its nearest known one) and every wrong value.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return Settings()
    return read_user_file(path, Settings, "settings").beside(folder)
