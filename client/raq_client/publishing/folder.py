"""The folder of a release: models, plans, importance, manifests, card, picture, and a Modelfile for Ollama.

It is laid out as LM Studio's folder of models: org/name/FILE. Nothing in it names a folder of this machine.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Final

from raq_client.files.atomic_file import atomic_file
from raq_client.files.manifest import file_digest
from raq_client.files.names import without_folders
from raq_client.files.reading import parse_json, read_text
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_client.models.model_file import ModelFile, open_model
from raq_client.publishing.card import CARD, About, card, picture_of
from raq_client.publishing.picture import draw, marks_of
from raq_client.publishing.release import Quant, Release
from raq_client.publishing.rendering import template
from raq_solver.errors import Fault, InvalidInput, raise_faults

Report = Callable[[str, int], None]
"""Called with the name and size of every model file that was compared with its manifest."""
_SAMPLING: Final = (
    ("temperature", "general.sampling.temp"),
    ("top_k", "general.sampling.top_k"),
    ("top_p", "general.sampling.top_p"),
    ("min_p", "general.sampling.min_p"),
)
"""Parameters of Ollama, and the metadata in which a model recommends them."""


@dataclass(frozen=True)
class Folder:
    """A folder that is ready to be uploaded: its path, and the names of its files."""

    path: Path
    files: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum((self.path / name).stat().st_size for name in self.files)


def make_folder(release: Release, about: About, root: Path, *, force: bool, progress: Report) -> Folder:
    """Write the release below `root`, in the folder of its repository.

    Models and importance are linked, or copied where the file system has no links; what is there already with the same
    content stays. Raises InvalidInput if a model is not what its manifest describes, or names a folder of this machine,
    and, before anything is written, if a file is there with other content and without `force`.
    """
    assert about.repo is not None, "a folder is that of a repository"
    path = root / about.repo
    _verify(release, progress)
    models = {file.name: file for quant in release.quants for file in quant.files}
    linked = models | {file.name: file for file in release.importance if not _names_folders(file)}
    cleaned = {file.name: file for file in release.importance if file.name not in linked}
    texts = dict(_texts(release, about))
    _check_names([*linked, *cleaned, *texts])
    _make(path)
    _refuse_others(path, linked, texts, force=force)
    for name, source in linked.items():
        _link(source, path / name)
    for name, source in cleaned.items():
        found = read_importance(source)
        plain = replace(found, datasets=tuple(PurePath(each).name for each in found.datasets))
        write_importance(plain, path / name, force=True)
    for name, text in texts.items():
        _write(path / name, text.encode())
    return Folder(path, tuple(sorted((*linked, *cleaned, *texts))))


def _verify(release: Release, progress: Report) -> None:
    """Raise InvalidInput with every file that is not what its manifest describes, or names folders of this machine."""
    faults = []
    for quant in release.quants:
        for file in quant.files:
            if file_digest(file) != quant.digests[file.name]:
                faults.append(Fault(str(file), "has changed since its manifest was written; quantize it again"))
            progress(file.name, file.stat().st_size)
        faults += [
            Fault(
                str(quant.files[0]), f"its metadata {key} holds {text!r}; quantize it again, with this version of raq"
            )
            for key, text in _folders_in(open_model(quant.files[0]))
        ]
    raise_faults(faults)


def _folders_in(model: ModelFile) -> Iterator[tuple[str, str]]:
    """The texts of a quantized model's own metadata that name a folder of the machine where it was made."""
    for key in model.metadata:
        value = model.value(key) if key.startswith(("quantize.", "raq.")) else None
        if isinstance(value, str) and without_folders(value) != value:
            yield key, value


def _names_folders(importance: Path) -> bool:
    found = open_model(importance, kind="imatrix").value("imatrix.datasets")
    return any(without_folders(str(text)) != text for text in found or ()) if isinstance(found, list) else False


def _texts(release: Release, about: About) -> Iterator[tuple[str, str]]:
    """The text files of the folder by name."""
    yield CARD, card(release, about)
    if marks := marks_of(release):
        yield picture_of(Path(CARD)).name, draw(marks)
    model = release.first_model()
    for quant in release.quants:
        yield f"{quant.name}.plan.json", _json({"allocation": dict(quant.allocation)})
        name = "Modelfile" if len(release.quants) == 1 else f"Modelfile.{quant.name}"
        yield name, _modelfile(quant, model)
    for path in release.manifests:
        name = path.name if path.name.endswith("manifest.json") else f"{path.stem}.manifest.json"
        yield name, _json(_plain(parse_json(read_text(path, "a manifest"), str(path), "a manifest"), _known(release)))


def _modelfile(quant: Quant, model: ModelFile) -> str:
    found = {name: model.value(key) for name, key in _SAMPLING}
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
    return template("Modelfile.jinja").render(quant=quant, parameters={name: f"{v:g}" for name, v in numbers.items()})


def _known(release: Release) -> Mapping[str, str]:
    """The paths of a release's inputs and outputs as its manifests write them, and the names that are published."""
    paths = (path for record in release.manifests.values() for path in (*record.inputs, *record.outputs))
    return {path: PurePath(path).name for path in sorted(paths, key=len, reverse=True)}


def _plain(value: Any, known: Mapping[str, str]) -> Any:
    """Plain data without folders: files by their names, in keys too."""
    if isinstance(value, dict):
        return {_plain(key, known): _plain(each, known) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, known) for each in value]
    if not isinstance(value, str):
        return value
    for path, name in known.items():
        value = value.replace(path, name)
    return without_folders(value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _check_names(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    raise_faults([Fault(name, "two files of the release have this name; rename one") for name in twice])


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the folder can't be made: {error.strerror}; name another with --folder"
        raise InvalidInput(Fault(str(path), what)) from error


def _refuse_others(path: Path, linked: Mapping[str, Path], texts: Mapping[str, str], *, force: bool) -> None:
    """Raise InvalidInput, without `force`, with every file that is there with other content."""
    if force:
        return
    there = [name for name, source in linked.items() if (path / name).exists() and not _is_same(source, path / name)]
    there += [name for name, text in texts.items() if (path / name).exists() and not _holds(path / name, text.encode())]
    what = "is there with other content; name another folder, or replace it with --force"
    raise_faults([Fault(str(path / name), what) for name in there])


def _is_same(source: Path, there: Path) -> bool:
    if source.samefile(there):
        return True
    return source.stat().st_size == there.stat().st_size and file_digest(source) == file_digest(there)


def _holds(path: Path, data: bytes) -> bool:
    with suppress(OSError):
        return hashlib.sha256(data).hexdigest() == file_digest(path)
    return False


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where that can't be."""
    if target.exists() and _is_same(source, target):
        return
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)  # resolved: a link to a link of the hub's cache would hang in the air
    except OSError:
        size = source.stat().st_size
        with atomic_file(target, force=True, needed=size) as file, source.open("rb") as read:
            shutil.copyfileobj(read, file)


def _write(path: Path, data: bytes) -> None:
    if not _holds(path, data):
        with atomic_file(path, force=True, needed=len(data)) as file:
            file.write(data)
