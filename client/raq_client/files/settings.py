"""`raq.toml`: what a project's commands take for granted, so that `raq-client solve --budget 5.7` is enough.

Paths in it are relative to the file's folder. Flags win over the environment, the environment over the file.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from raq_client.files.profile_file import faults_of
from raq_solver.errors import Fault, InvalidInput, near_misses

FILE_NAME: Final = "raq.toml"


Texts = Annotated[tuple[str, ...], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)]
"""One text or several."""


class Settings(BaseModel):
    """The keys of `raq.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path | None = Field(default=None, description="the model file to quantize")
    imatrix: Texts = Field(default=(), description="importance of the model's input columns; FILE, or FILE:WEIGHT")
    profile: Path | None = Field(default=None, description="a saved profile, instead of model and imatrix")
    text: tuple[Path, ...] = Field(default=(), description="texts to check on")
    server: str | None = Field(default=None, description="HOST:PORT of a raq-server; without it solve here")
    types: tuple[str, ...] = Field(default=(), description="quant types to choose from")
    rows: int | None = Field(default=None, ge=2, description="rows of each matrix to measure errors on; else all")
    loss: str | None = Field(default=None, description="loss model")
    base: str | None = Field(default=None, description="what to start from: a mixture, a file or a recipe")
    architecture: str | None = Field(default=None, description="rules on kinds of tensors: default, none, or a file")
    pin: tuple[str, ...] = Field(default=(), description="PATTERN=TYPE")
    floor: tuple[str, ...] = Field(default=(), description="PATTERN=BITS")
    ceiling: tuple[str, ...] = Field(default=(), description="PATTERN=BITS")
    exclude: tuple[str, ...] = Field(default=(), description="PATTERN=TYPE, or TYPE alone")
    tie: tuple[str, ...] = Field(default=(), description="PATTERN of tensors that share one type")

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
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(Fault(str(path), f"can't be read: {error}")) from error
    faults = [
        Fault(f"{path}: {key}", f"no such key{near_misses(key, Settings.model_fields)}")
        for key in content
        if key not in Settings.model_fields
    ]
    try:
        settings = Settings.model_validate({k: v for k, v in content.items() if k in Settings.model_fields})
    except ValidationError as error:
        raise InvalidInput([*faults, *faults_of(error, str(path), "a value for this key")]) from None
    if faults:
        raise InvalidInput(faults)
    return settings.beside(folder)
