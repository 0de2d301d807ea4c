"""The model card of a release: front matter, table of files, how to use and to verify them, how they were made."""

import json
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from raq_client.files.atomic_file import atomic_file
from raq_client.hub.names import HUB, parse_hub_name
from raq_client.models.model_file import ModelFile
from raq_client.publishing.picture import draw, marks_of
from raq_client.publishing.release import Figure, Landmark, Measured, Quant, Release
from raq_client.publishing.rendering import template
from raq_solver.errors import Fault, InvalidInput

CARD: Final = "README.md"
_REPO: Final = re.compile(r"[\w.-]+/[\w.-]+")
_UNITS: Final = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


@dataclass(frozen=True, slots=True)
class About:
    """What a card says that no file knows.

    `base_model` is the repository `org/name` that was quantized, `by` who did it, `repo` where the files are to be
    (None: on this disk only). Raises InvalidInput for a repository that is not written `org/name`.
    """

    base_model: str
    by: str | None = None
    repo: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        for option, name in (("--base-model", self.base_model), ("the repository", self.repo)):
            if name is not None and not _REPO.fullmatch(name):
                raise InvalidInput(Fault(option, f"{name!r} is not the name of a repository; write org/name"))

    @property
    def quantized_by(self) -> str | None:
        """Who quantized: as stated, else the owner of the repository."""
        return self.by or (self.repo.partition("/")[0] if self.repo else None)


def base_model_of(release: Release, given: str | None) -> str:
    """The repository of the model that was quantized: as given, else where its file was downloaded from.

    Raises InvalidInput if that is not known, or if files were made from several.
    """
    if given is not None:
        return given.removeprefix(HUB)
    repos = sorted({parse_hub_name(origin).repo for origin in release.origins})
    if len(repos) == 1:
        return repos[0]
    what = (
        f"the files come from {', '.join(repos)}" if repos else "the manifests do not say from which repository it is"
    )
    raise InvalidInput(Fault("--base-model", f"is needed: {what}; name it as org/name"))


def picture_of(path: Path) -> Path:
    """The picture of a card: beside it, under its name."""
    return path.with_suffix(".svg")


def card(release: Release, about: About, picture: str = picture_of(Path(CARD)).name) -> str:
    """The model card as Markdown with front matter, without paths of this machine; `picture` is the picture's name."""
    model = release.first_model()
    quants = release.quants
    return template("card.md.jinja").render(
        front=_front_matter(release, about, model),
        title=f"{about.base_model.partition('/')[2]} in GGUF, by raq",
        about=about,
        quants=quants,
        rows=[_row(quant) for quant in quants],
        mixtures=[_mixture_row(mark) for mark in release.landmarks],
        same_importance=bool(release.importance),
        measured=_conditions(release),
        picture=quote(picture) if marks_of(release) else None,
        proven=all(quant.proven for quant in quants),
        split=[quant for quant in quants if len(quant.files) > 1],
        context=model.architecture_value("context_length"),
        commands=[shlex.join(command) for command in release.commands],
        versions=", ".join(f"{name} {version}" for name, version in release.versions.items()),
    )


def write_card(release: Release, about: About, path: Path, *, force: bool) -> tuple[Path, ...]:
    """Write the card and, beside it, the picture of what was measured; the files written.

    Raises InvalidInput if one of them exists, unless `force`.
    """
    picture = picture_of(path)
    written = {path: card(release, about, picture.name)}
    if marks := marks_of(release):
        written[picture] = draw(marks)
    for each, text in written.items():
        with atomic_file(each, force=force) as file:
            file.write(text.encode())
    return tuple(written)


def _front_matter(release: Release, about: About, model: ModelFile) -> list[str]:
    """The lines of the front matter. Values are JSON texts, which YAML reads as they are."""
    licence = about.license or model.value("general.license")
    lines = [f"base_model: {json.dumps(about.base_model)}", "base_model_relation: quantized"]
    lines += [f"quantized_by: {json.dumps(about.quantized_by)}"] if about.quantized_by else []
    lines += [f"license: {json.dumps(licence)}"] if isinstance(licence, str) else []
    tags = ["gguf", "raq", "llama.cpp", "quantized", *(["imatrix"] if release.importance else [])]
    return [*lines, "library_name: gguf", "pipeline_tag: text-generation", f"tags: {json.dumps(tags)}"]


def _row(quant: Quant) -> tuple[str, ...]:
    """The cells of a file's row."""
    file = quant.files[0].name if len(quant.files) == 1 else f"{quant.name} ({len(quant.files)} files)"
    found = ["not measured"] * 4 if quant.measured is None else _cells(quant.measured)
    return (f"`{file}`", _size(quant.size), f"{quant.bits_per_weight:.3f}", *found)


def _mixture_row(mark: Landmark) -> tuple[str, ...]:
    """The cells of a row of one of llama.cpp's mixtures."""
    found = [f"{mark.kl:.5f}", "", "", ""] if mark.measured is None else _cells(mark.measured)
    size = "" if mark.size is None else _size(mark.size)
    return (f"llama.cpp's {mark.name}", size, f"{mark.bits_per_weight:.3f}", *found)


def _cells(found: Measured) -> Sequence[str]:
    """What was measured."""
    return (
        _figure(found.kl, 5),
        "–" if found.kl_thousandth is None else f"{found.kl_thousandth:.4f}",
        _figure(Figure(100 * found.same_top.value, 100 * found.same_top.error), 2),
        "–" if found.perplexity_ratio is None else _figure(found.perplexity_ratio, 4),
    )


def _figure(figure: Figure, digits: int) -> str:
    """A value with its standard error, where that is known.

    >>> _figure(Figure(0.01234, 0.0005), 4), _figure(Figure(1.0, math.nan), 2)
    ('0.0123 ± 0.0005', '1.00')
    """
    error = "" if math.isnan(figure.error) else f" ± {figure.error:.{digits}f}"
    return f"{figure.value:.{digits}f}{error}"


def _size(size: int) -> str:
    """A size of a file for people.

    >>> _size(2_916_480), _size(999)
    ('2.92 MB', '999 bytes')
    """
    unit, name = next(((unit, name) for unit, name in _UNITS if size >= unit), (1, "bytes"))
    return f"{size} bytes" if unit == 1 else f"{size / unit:.3g} {name}"


def _conditions(release: Release) -> list[str]:
    """On what the files were measured, once for each way in which they were."""
    found = (quant.measured for quant in release.quants if quant.measured is not None)
    return list(dict.fromkeys(_condition(measured) for measured in found))


def _condition(measured: Measured) -> str:
    text = f"{', '.join(measured.texts) or 'a text'}, {measured.tokens:,} tokens scored"
    if measured.windows is None or measured.context is None:
        return text
    return f"{text} in {measured.windows:,} windows of {measured.context:,} tokens"
