"""Measured KL divergence of every way to allocate, at the bytes of llama.cpp's mixtures: one table per model and text.

Text that neither calibration nor training has seen; subjects in quality_subjects.py. All rows of a size:

- llama.cpp's mixture, written by ggml's quantizer and by raq's;
- the largest single type that fits; and types raised greedily, each time where the squared error of activations falls
  most per byte (the idea of `--target-bpw`);
- the optimum of every loss model, `measured` from at most 40 runs of 8,192 tokens.

Run: pytest -m bench -s tests/bench/bench_quality.py -k 4M      (-k 18M, -k wikitext: need the larger data)
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from raq_client import engine
from raq_client.engine.windows import cut_windows
from raq_client.evaluation.in_memory import RecordedLogits
from raq_client.evaluation.report import Summary, summarize
from raq_client.models.writer import write_model
from raq_client.quantizing.quantize import Quantization, quantize_model, resolved_types
from raq_client.quantizing.rounding import Rounding
from raq_solver.allocation import Allocation
from raq_solver.errors import InvalidInput
from raq_solver.loss_models import LOSS_MODELS, activation, default_loss_model
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.solve import solve
from raq_solver.tensors import Tensor
from support.machine import header
from support.oracles import ggml
from support.quality_subjects import Subject, subject

__all__ = ["subject"]

pytestmark = [pytest.mark.bench, pytest.mark.timeout(4 * 3600)]


def test_quality(subject: Subject, tmp_path: Path) -> None:
    header(f"mean KL divergence on {subject.text.name}, wiki-math-{subject.name}")
    print(
        "\n| size of | what | bytes | bpw | mean KL | ratio | 99.9 % | same top, % |\n|---|---|---|---|---|---|---|---|"
    )
    ratios: dict[str, list[float]] = {}
    with Judge(subject, tmp_path) as judge:
        profiles = {family: subject.profile(family) for family in subject.families}
        for size in subject.sizes:
            mixture = subject.mixture(size)
            capacity = size_of(subject, mixture)
            reference = judge.divergence(mixture)
            shown = f"| {size} "
            for what, summary, allocation in rows(subject, profiles, mixture, capacity, judge):
                against = {"": reference.kl.value}
                if size in subject.peers:
                    against[", to the published preset"], against[", to --target-bpw"] = subject.peers[size]
                for title, kl in against.items():
                    ratios.setdefault(what + title, []).append(summary.kl.value / kl)
                bytes_used = size_of(subject, allocation)
                line(f"{shown}| {what} | {bytes_used:,} | {bits(subject, bytes_used)}", summary, reference)
                shown = "| "
    for title, found in ratios.items():
        print(f"geometric mean of the ratio over {len(found)} sizes, {title}: {np.exp(np.mean(np.log(found))):.3f}")


def rows(
    subject: Subject, profiles: dict[str, Profile], mixture: Allocation, capacity: int, judge: "Judge"
) -> Iterator[tuple[str, Summary, Allocation]]:
    """Every way to allocate, with what it does."""
    yield "llama.cpp's mixture, by ggml", judge.divergence(mixture, by_ggml=True), mixture
    yield "llama.cpp's mixture", judge.divergence(mixture), mixture
    for family, profile in profiles.items():
        kind = "" if len(profiles) == 1 else f", {family}"
        default = default_loss_model(unmeasured(profile)).__name__
        for what, allocation in allocations(subject, profile, capacity):
            yield f"{what}{kind}", judge.divergence(allocation), allocation
            if what == default and subject.peers:
                yield f"{what}{kind}, by ggml", judge.divergence(allocation, by_ggml=True), allocation


def allocations(subject: Subject, profile: Profile, capacity: int) -> Iterator[tuple[str, Allocation]]:
    table = activation(profile)
    yield "one type", uniform(table, capacity)
    yield "greedy by activation error", greedy(table, capacity)
    for name, loss_model in LOSS_MODELS.items():
        try:
            problem = Problem(loss_model(profile), capacity)
        except InvalidInput:
            continue  # it does not apply
        yield name, solve(problem).unwrap()[0]


def uniform(table: LossTable, capacity: int) -> Allocation:
    """The largest single type that fits; a tensor that can't have it takes its best that is no larger."""
    best: tuple[int, np.ndarray] | None = None
    index = np.arange(len(table.tensors))
    for column in range(len(table.quant_types)):
        bits = table.sizes[:, column].sum()
        offered = np.where(np.isfinite(table.losses), table.sizes, -1)
        wanted = np.where(np.isfinite(table.losses[:, column]), column, offered.argmax(axis=1))
        size = int(table.sizes[index, wanted].sum())
        if bits and size <= capacity and (best is None or size > best[0]):
            best = size, wanted
    assert best is not None, "one of the types fits"
    return _allocation(table, best[1])


def greedy(table: LossTable, capacity: int) -> Allocation:
    """From the smallest types upwards, each time the change that takes most loss away per byte, while it fits."""
    index = np.arange(len(table.tensors))
    picks = np.where(np.isfinite(table.losses), table.sizes, np.iinfo(np.int64).max).argmin(axis=1)
    while True:
        grown = table.sizes - table.sizes[index, picks][:, None]
        saved = table.losses[index, picks][:, None] - table.losses
        room = capacity - int(table.sizes[index, picks].sum())
        rate = np.where((saved > 0) & (grown > 0) & (grown <= room), saved / np.maximum(grown, 1), 0.0)
        row, column = divmod(int(rate.argmax()), rate.shape[1])
        if rate[row, column] <= 0:
            return _allocation(table, picks)
        picks[row] = column


@dataclass(eq=False)
class Judge:
    """Writes allocations and compares them with the original on the subject's text; equal ones only once."""

    subject: Subject
    folder: Path
    known: dict[tuple[bool, tuple[tuple[str, str], ...]], Summary] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.baseline = engine.load(self.subject.model.path)
        self.windows = cut_windows(self.baseline, [self.subject.text], self.subject.windows)[0]
        self.recorded = RecordedLogits(self.baseline, self.windows)
        return self

    def __exit__(self, *_: object) -> None:
        self.baseline.close()

    def divergence(self, allocation: Allocation, *, by_ggml: bool = False) -> Summary:
        """How far the written file is from the original."""
        key = by_ggml, tuple(sorted(allocation.types.items()))
        if key not in self.known:
            path = self.folder / "candidate.gguf"
            (write_by_ggml if by_ggml else write_by_raq)(self.subject, allocation, path)
            with engine.load(path) as candidate:
                self.known[key] = summarize(self.recorded.compare(candidate), candidate.context)
        return self.known[key]


def write_by_raq(subject: Subject, allocation: Allocation, path: Path) -> None:
    quantize_model(Quantization(subject.model, allocation, path, Rounding(subject.importance)), force=True)


def write_by_ggml(subject: Subject, allocation: Allocation, path: Path) -> None:
    """The file that llama-quantize would write with the same importance."""
    model = subject.model
    types = resolved_types(model, allocation, subject.importance)

    def blocks(tensor: Tensor, wanted: QuantType) -> Iterator[np.ndarray]:
        if wanted == tensor.source_type:
            yield model.stored(tensor)
            return
        weights = np.ascontiguousarray(model.weights(tensor)).reshape(-1, tensor.row_length)
        importance = subject.importance.rows(tensor)
        yield ggml.quantize(wanted.name, weights, None if importance is None else importance[0])

    write_model(path, model, {tensor.name: wanted for tensor, wanted in types.items()}, blocks, force=True)


def unmeasured(profile: Profile) -> Profile:
    """The profile without its sensitivities: what no run of the model is needed for."""
    nothing = np.full(len(profile.tensors), np.nan)
    return replace(profile, sensitivities=nothing, sensitivity_errors=nothing.copy())


def size_of(subject: Subject, allocation: Allocation) -> int:
    return sum(CATALOGUE[allocation.types[t.name]].size(t.weights) for t in subject.model.tensors)


def bits(subject: Subject, size: int) -> str:
    return f"{8 * size / sum(tensor.weights for tensor in subject.model.tensors):.2f}"


def line(start: str, summary: Summary, reference: Summary) -> None:
    kl = f"{summary.kl.value:.6f} ± {summary.kl.error:.6f}"
    ratio = summary.kl.value / reference.kl.value
    print(
        f"{start} | {kl} | {ratio:.2f} | {summary.kl_quantiles[0.999]:.4f} "
        f"| {100 * summary.top1_agreement.value:.2f} |",
        flush=True,
    )


def _allocation(table: LossTable, picks: np.ndarray) -> Allocation:
    return Allocation({name: table.quant_types[pick] for name, pick in zip(table.tensors, picks, strict=True)})
