"""The registry: benchmarks by name, each with its domain, licence, source and form; bundles of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from raq_client.files.user_files import parse_user_text, read_user_file
from raq_solver.errors import Fault, InvalidInput, near_misses, raise_faults

Form = Literal["question-answer", "gsm8k", "humaneval", "reasoning-gym"]
_FIRM: Final = ConfigDict(extra="forbid", frozen=True)


class UrlSource(BaseModel):
    """A file of JSON lines at an address that holds the revision."""

    model_config = _FIRM
    kind: Literal["url"]
    url: str = Field(pattern=r"^https?://.*\{revision\}")
    revision: str = Field(pattern="^[0-9a-f]{40,64}$", description="a commit, whole: a branch or a tag may move")


class PackageSource(BaseModel):
    """A file inside an installed Python package; the revision is the package's version."""

    model_config = _FIRM
    kind: Literal["package"]
    package: str
    file: str


class GeneratorSource(BaseModel):
    """Rows of a generator of reasoning-gym; the revision is that package's version."""

    model_config = _FIRM
    kind: Literal["generator"]
    generator: str
    seed: int
    size: int = Field(ge=1)
    config: dict[str, int | float | bool | str] = {}


class FileSource(BaseModel):
    """A file of JSON lines of the user's own."""

    model_config = _FIRM
    kind: Literal["file"]
    file: Path


Source = Annotated[UrlSource | PackageSource | GeneratorSource | FileSource, Field(discriminator="kind")]


class Benchmark(BaseModel):
    """One benchmark."""

    model_config = _FIRM
    title: str
    domain: str
    licence: str
    form: Form
    source: Source


class _Registry(BaseModel):
    model_config = _FIRM
    bundles: dict[str, tuple[str, ...]] = {}
    benchmarks: dict[str, Benchmark] = {}


@dataclass(frozen=True)
class Registry:
    """Benchmarks and bundles by name; `folder` is where files of the user's own are."""

    benchmarks: dict[str, Benchmark]
    bundles: dict[str, tuple[str, ...]]
    folder: Path

    def select(self, names: Sequence[str]) -> tuple[str, ...]:
        """The benchmarks that these names of benchmarks, bundles or domains stand for, each once, in order.

        Raises InvalidInput for every unknown name, with the nearest known ones.
        """
        domains: dict[str, list[str]] = {}
        for key, each in self.benchmarks.items():
            domains.setdefault(each.domain, []).append(key)
        known = {**domains, **self.bundles, **{key: [key] for key in self.benchmarks}}
        what = "no benchmark, bundle or domain"
        raise_faults([Fault(name, f"{what}{near_misses(name, known)}") for name in names if name not in known])
        return tuple(dict.fromkeys(key for name in names for key in known[name]))


def read_registry(own: Path | None = None) -> Registry:
    """The registry of raq, with the benchmarks of a file of the user's own in front.

    Raises InvalidInput for a faulty file, and for a bundle of unknown benchmarks.
    """
    text = files("raq_client.benchmarks").joinpath("registry.toml").read_text(encoding="utf-8")
    ours = parse_user_text(text, _Registry, "registry.toml", "a registry of benchmarks")
    theirs = _Registry() if own is None else read_user_file(own, _Registry, "a registry of benchmarks")
    registry = Registry(
        {**ours.benchmarks, **theirs.benchmarks},
        {**ours.bundles, **theirs.bundles},
        Path() if own is None else own.parent,
    )
    for name, keys in registry.bundles.items():
        for key in keys:
            if key not in registry.benchmarks:
                what = f"names {key}, which is no benchmark{near_misses(key, registry.benchmarks)}"
                raise InvalidInput(Fault(f"bundle {name}", what))
    return registry
