"""Every way to allocate, on models with real weights, at the bytes of llama.cpp's mixtures: `just bench-real`.

    python tests/bench/bench_real.py --calibration FOLDER --judged FOLDER [MODEL.gguf or a name of real_models.py] …

Importance and Fisher information come from the texts of one folder, KL divergence (nats per token) is measured on those
of another, the same windows for all. With --llama-quantize the mixture is ggml's own file, and with --target-bpw (a
llama-quantize of llama.cpp's unmerged branch, PR 15550) that branch's allocation of the same size is measured too;
both get the importance file of raq. What was made stays in --cache.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from platformdirs import user_cache_path

from raq_client import engine
from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import Trial, TrialSetup
from raq_client.importance.collect import collect
from raq_client.importance.collect_fisher import DEFAULT_FISHER_WINDOWS, add_fisher
from raq_client.importance.imatrix import Importance
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_client.models.file_types import file_type
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.table import table_of
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_client.recipes.mixtures import mixture, tensor_bytes
from raq_client.refinement.tried import changed_types
from raq_solver import Limits, Problem, solve
from raq_solver.errors import InvalidInput
from raq_solver.loss_models import loss_model
from raq_solver.profile import Profile
from support.machine import header
from support.real_models import PACKAGES, real_model

MIXTURES = "Q2_K,Q3_K_M,Q4_K_M,Q5_K_M"
LOSSES = "fisher,prior,relative,residual"
WINDOWS_OF_TEXT = 8
JUDGED_WINDOWS = 4
LONGEST_TEXT = 600_000


@dataclass(frozen=True)
class Row:
    """One way at one size: bytes of tensor data, predicted loss if there is one, mean KL divergence and its error."""

    size_of: str
    way: str
    size: int
    predicted: float | None
    kl: float
    error: float


def texts_of(folder: Path) -> list[Text]:
    """The texts of a folder."""
    return [
        Text(path.stem, path.read_text(encoding="utf-8")[:LONGEST_TEXT])
        for path in sorted(folder.iterdir())
        if path.suffix == ".txt"
    ]


def importance_of(model: ModelFile, texts: list[Text], windows: int, path: Path) -> Importance:
    """Importance of the calibration texts, with Fisher information."""
    if not path.exists():
        with engine.load(model.path) as loaded:
            found = collect(loaded, texts, windows=WINDOWS_OF_TEXT)
            found = add_fisher(found, model, loaded, texts, windows, limit=WINDOWS_OF_TEXT)
        write_importance(found, path)
    return read_importance(path)


def peers(arguments: argparse.Namespace, model: Path, importance: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Files that the peers make at the size of a mixture, as far as their programs were named."""
    ggml = arguments.cache / f"{model.stem}.{name}.ggml.gguf"
    if arguments.llama_quantize is not None:
        run(arguments.llama_quantize, ["--imatrix", importance, model, ggml, name], ggml)
        yield "mixture, by ggml", ggml
    if arguments.target_bpw is not None and ggml.exists():
        tensors = open_model(ggml).tensors
        bits = 8 * sum(t.source_type.size(t.weights) for t in tensors) / sum(t.weights for t in tensors)
        target = arguments.cache / f"{model.stem}.{name}.bpw.gguf"
        run(arguments.target_bpw, ["--imatrix", importance, "--target-bpw", f"{bits:.6f}", model, target, name], target)
        yield "--target-bpw", target


def run(program: Path, arguments: list[str | Path], target: Path) -> None:
    """Run a llama-quantize, with its own libraries, unless the file is there."""
    if not target.exists():
        command = [str(program), *(str(each) for each in arguments)]
        environment = os.environ | {"LD_LIBRARY_PATH": str(program.parent)}
        subprocess.run(command, check=True, capture_output=True, env=environment)


def rows_of(arguments: argparse.Namespace, model: ModelFile) -> Iterator[Row]:
    """Everything that is measured of one model."""
    texts = texts_of(arguments.calibration)
    path = arguments.cache / f"{model.path.stem}.{arguments.fisher}.imatrix.gguf"
    importance = importance_of(model, texts, arguments.fisher, path)
    profile = measure_profile(model, importance, chosen_types(arguments.types.split(",")), cache=arguments.cache)
    judged = texts_of(arguments.judged)
    bench = TrialSetup(model, model.path, importance, judged, windows=JUDGED_WINDOWS * len(judged))
    with Trial(bench) as trial:
        for name in arguments.mixtures.split(","):
            yield from at_size(arguments, name, model, importance, path, profile, trial)


def at_size(
    arguments: argparse.Namespace,
    name: str,
    model: ModelFile,
    importance: Importance,
    importance_path: Path,
    profile: Profile,
    trial: Trial,
) -> Iterator[Row]:
    """The mixture of that name, its peers, and raq's allocations of no more bytes."""
    types = mixture(table_of(model), file_type(name), has_importance=importance is not None)
    capacity = tensor_bytes(types)
    for way, path in peers(arguments, model.path, importance_path, name):
        with engine.load(path) as file:
            kl = trial.compare(file).kl
        yield row(name, way, sum(t.source_type.size(t.weights) for t in open_model(path).tensors), None, kl)
    if arguments.llama_quantize is None:
        changed = {tensor.name: chosen for tensor, chosen in types.items() if chosen != tensor.source_type}
        yield row(name, "mixture", capacity, None, trial.run(changed).scores.kl)
    for loss in arguments.losses.split(","):
        try:
            problem = Problem(loss_model(loss)(profile), capacity)
        except InvalidInput:
            continue
        allocation, ledger = solve(problem, Limits(20)).unwrap()
        yield row(name, loss, ledger.size, ledger.loss, trial.run(changed_types(allocation, profile)).scores.kl)


def row(name: str, way: str, size: int, predicted: float | None, kl: np.ndarray) -> Row:
    """A row, its error over windows."""
    means = kl.mean(axis=1)
    return Row(name, way, size, predicted, float(means.mean()), float(means.std(ddof=1) / len(means) ** 0.5))


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(PACKAGES))
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--judged", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=user_cache_path("raq") / "bench-real")
    parser.add_argument("--mixtures", default=MIXTURES)
    parser.add_argument("--losses", default=LOSSES)
    parser.add_argument("--types", default="auto")
    parser.add_argument("--fisher", type=int, default=DEFAULT_FISHER_WINDOWS)
    parser.add_argument("--llama-quantize", type=Path)
    parser.add_argument("--target-bpw", type=Path)
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        model = open_model(real_model(name, arguments.cache) if name in PACKAGES else name)
        header(f"{model.path.stem}, {', '.join(text.name for text in texts_of(arguments.judged))}")
        print("\n| at the bytes of | what | bytes | predicted | mean KL | ratio |\n|---|---|---|---|---|---|")
        first: dict[str, float] = {}
        for each in rows_of(arguments, model):
            ratio = each.kl / first.setdefault(each.size_of, each.kl)
            predicted = "" if each.predicted is None else f"{each.predicted:.4f}"
            level = f"{each.kl:.5f} ± {each.error:.5f}"
            print(f"| {each.size_of} | {each.way} | {each.size:,} | {predicted} | {level} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
