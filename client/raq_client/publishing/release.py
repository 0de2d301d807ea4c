"""A release: quantized files of one model, with what their manifests say of them and what was measured."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from raq_client.files.names import without_folders
from raq_client.files.reading import check_readable
from raq_client.models.model_file import ModelFile, is_gguf, open_model, read_header, shard_stem
from raq_client.publishing.records import (
    CheckRecord,
    EstimateRecord,
    ManifestRecord,
    StepRecord,
    SummaryRecord,
    read_manifest,
)
from raq_solver.errors import Fault, InvalidInput, raise_faults

_THOUSANDTH: Final = "0.999"
_PROVEN: Final = "optimal"


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value and its standard error, NaN if unknown."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What a check found, against the original: divergences in nats per token, agreement as a share.

    `windows` of `context` tokens each were run, `tokens` of them scored; None where a manifest does not say.
    """

    texts: tuple[str, ...]
    tokens: int
    windows: int | None
    context: int | None
    kl: Figure
    kl_thousandth: float | None
    same_top: Figure
    perplexity_ratio: Figure | None


@dataclass(frozen=True)
class Quant:
    """A quantized model: its file or shards, SHA-256 by name, and its types.

    `size` in bytes of all files, `bits_per_weight` of tensor data; `predicted` in nats per token.
    """

    files: tuple[Path, ...]
    digests: Mapping[str, str]
    size: int
    bits_per_weight: float
    weights: int
    allocation: Mapping[str, str]
    proven: bool
    predicted: float | None
    measured: Measured | None

    @property
    def name(self) -> str:
        """The file's name without its ending; that of the whole model if it is split."""
        first = self.files[0].name
        return (shard_stem(first) if len(self.files) > 1 else first).removesuffix(".gguf")


@dataclass(frozen=True, slots=True)
class Landmark:
    """A mixture of llama.cpp measured on the same text: bits per weight of tensor data, KL divergence in nats.

    `size` of its file in bytes and all that was `measured` are None where a manifest says no more.
    """

    name: str
    bits_per_weight: float
    kl: float
    size: int | None = None
    measured: Measured | None = None


@dataclass(frozen=True)
class Release:
    """The files of a release, smallest first, and how they came about.

    `manifests` are as read, by their paths; `importance` are the importance files that were inputs and are still there.
    """

    quants: tuple[Quant, ...]
    landmarks: tuple[Landmark, ...]
    commands: tuple[tuple[str, ...], ...]
    versions: Mapping[str, str]
    origins: tuple[str, ...]
    importance: tuple[Path, ...]
    manifests: Mapping[Path, ManifestRecord]

    def first_model(self) -> ModelFile:
        """The smallest file, opened for its metadata."""
        return open_model(self.quants[0].files[0])


def read_release(paths: Sequence[Path]) -> Release:
    """The release that these manifests describe.

    Raises InvalidInput if a manifest is none, describes no file, or if one of its files is missing.
    """
    manifests = {path: read_manifest(path) for path in dict.fromkeys(paths)}
    found = [(quant, record) for path, record in manifests.items() for quant in _quants(path, record)]
    named: dict[str, Path] = {}
    for quant, _ in found:
        for file in quant.files:
            other = named.setdefault(file.name, file)
            if other != file:
                raise InvalidInput(
                    Fault(str(file), f"has the name of {other}, which is to be published too; rename one")
                )
    quants = {quant.files[0]: quant for quant, _ in found}
    landmarks = {mark.name: mark for quant, record in found for mark in _landmarks(quant, record)}
    records = list(manifests.values())
    return Release(
        quants=tuple(sorted(quants.values(), key=lambda quant: (quant.size, quant.name))),
        landmarks=tuple(sorted(landmarks.values(), key=lambda mark: mark.bits_per_weight)),
        commands=tuple(dict.fromkeys(_command(record) for record in records)),
        versions={name: version for record in records for name, version in record.versions.items()},
        origins=tuple(dict.fromkeys(origin for record in records for origin in record.origins.values())),
        importance=tuple(
            dict.fromkeys(each for path, record in manifests.items() for each in _importance(path, record))
        ),
        manifests=manifests,
    )


def _quants(path: Path, record: ManifestRecord) -> Iterator[Quant]:
    """The quantized models of a manifest."""
    if record.steps:
        for step in record.steps:
            if step.file is not None:
                yield _quant(path, record, [step.file], step.allocation, step.predicted_loss, _of_step(record, step))
        return
    allocation = record.allocation or (record.plan.allocation if record.plan is not None else None)
    if not record.outputs or allocation is None:
        raise InvalidInput(Fault(str(path), "describes no quantized file; give the manifest of run, ladder or a build"))
    predicted = None if record.plan is None else record.plan.loss
    check = record.check
    measured = None if check is None else _measured(check.overall, _texts_of(check), check.context)
    yield _quant(path, record, list(record.outputs), allocation, predicted, measured)


def _quant(
    path: Path,
    record: ManifestRecord,
    names: Sequence[str],
    allocation: Mapping[str, str],
    predicted: float | None,
    measured: Measured | None,
) -> Quant:
    files = tuple(_located(path, name) for name in names)
    missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    raise_faults([Fault(name, f"is not there any more; {path} describes it") for name in missing])
    model = open_model(files[0])
    digests = {file.name: _digest(record, name) for name, file in zip(names, files, strict=True)}
    weights = sum(tensor.weights for tensor in model.tensors)
    return Quant(
        files=files,
        digests=digests,
        size=sum(file.stat().st_size for file in files),
        bits_per_weight=8 * sum(tensor.size for tensor in model.tensors) / weights,
        weights=weights,
        allocation=allocation,
        proven=record.plan is not None and record.plan.termination == _PROVEN,
        predicted=predicted,
        measured=measured,
    )


def _digest(record: ManifestRecord, name: str) -> str:
    """The SHA-256 that a manifest states of an output."""
    found = record.outputs[name]
    return found if isinstance(found, str) else found.sha256


def _located(manifest: Path, name: str) -> Path:
    """The file of a manifest: where it says, from the current folder or from its own, else beside the manifest."""
    places = (Path(name), manifest.parent / name, manifest.parent / PurePath(name).name)
    return next((place for place in places if place.is_file()), places[0])


def _measured(summary: SummaryRecord, texts: tuple[str, ...], context: int | None) -> Measured:
    return Measured(
        texts=texts,
        tokens=summary.tokens,
        windows=summary.windows,
        context=context,
        kl=_figure(summary.kl),
        kl_thousandth=summary.kl_quantiles.get(_THOUSANDTH),
        same_top=_figure(summary.top1_agreement),
        perplexity_ratio=None if summary.ratio is None else _figure(summary.ratio),
    )


def _texts_of(check: CheckRecord) -> tuple[str, ...]:
    return tuple(map(_plain_name, check.texts))


def _of_step(record: ManifestRecord, step: StepRecord) -> Measured | None:
    if step.kl is None or step.top1_agreement is None or step.tokens is None:
        return None
    summary = SummaryRecord(
        windows=step.windows,
        tokens=step.tokens,
        kl=step.kl,
        kl_quantiles=step.kl_quantiles,
        top1_agreement=step.top1_agreement,
        ratio=step.ratio,
    )
    return _measured(summary, tuple(map(_plain_name, record.texts)), record.context)


def _figure(record: EstimateRecord) -> Figure:
    error = record.largest_error
    return Figure(record.value, math.nan if error is None else error)


def _landmarks(quant: Quant, record: ManifestRecord) -> Iterator[Landmark]:
    if (beside := record.against) is not None:
        texts, context = ((), None) if record.check is None else (_texts_of(record.check), record.check.context)
        found = None if beside.mixture_check is None else _measured(beside.mixture_check, texts, context)
        bits = 8 * beside.mixture_bytes / quant.weights
        yield Landmark(beside.mixture, bits, beside.mixture_kl, beside.mixture_file_bytes, found)
    for each in record.mixtures:
        found = _measured(each, tuple(map(_plain_name, record.texts)), record.context)
        yield Landmark(each.name, each.bits_per_weight, each.kl.value, each.file_bytes, found)


def _importance(path: Path, record: ManifestRecord) -> Iterator[Path]:
    """The inputs that are importance files in GGUF; the older format can't be told from other files."""
    for name in record.inputs:
        file = _located(path, name)
        if file.is_file() and is_gguf(file):
            check_readable(file)
            kind = read_header(file).metadata.get("general.type")
            if kind is not None and kind.decode() == "imatrix":
                yield file


def _command(record: ManifestRecord) -> tuple[str, ...]:
    """A command as anyone can run it in a folder that holds its files."""
    known = sorted((*record.inputs, *record.outputs), key=len, reverse=True)
    words = []
    for word in record.command[1:]:
        for name in known:
            word = word.replace(name, _plain_name(name))  # noqa: PLW2901 - one file after the other
        words.append(without_folders(word))
    return ("raq-client", *words)


def _plain_name(name: str) -> str:
    return PurePath(name).name
