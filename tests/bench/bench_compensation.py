"""What error feedback is worth at equal bytes: `just bench-compensation`.

    python tests/bench/bench_compensation.py MODEL.gguf --imatrix FILE --gram FILE --judged FOLDER

First every block tensor in one type, plain and with feedback, KL divergence (nats per token) by text of the folder, the
same windows for both. Then, at the bytes of llama.cpp's mixtures, raq's allocation three ways: solved on plain errors,
rounded plainly, rounded with feedback, and solved on the errors with feedback.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from platformdirs import user_cache_path

from raq_client.compensation.compensate import Compensation
from raq_client.compensation.gram_file import read_gram
from raq_client.engine import Engine
from raq_client.engine.loading import loaded
from raq_client.engine.windows import Text, cut_windows
from raq_client.evaluation.in_memory import RecordedLogits, Trial, TrialSetup
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.file_types import file_type
from raq_client.models.model_file import open_model
from raq_client.models.quantizable import fitting_type, is_quantizable
from raq_client.models.table import table_of
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.compensated import compensated_profile
from raq_client.quantizing.measure import measure_profile
from raq_client.quantizing.rounding import Rounding
from raq_client.recipes.mixtures import mixture, tensor_bytes
from raq_client.refinement.tried import changed_types
from raq_solver import Limits, Problem, solve
from raq_solver.loss_models import default_loss_model
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensor_names import block_of
from raq_solver.tensors import Tensor
from support.machine import header

LONGEST_TEXT = 60_000


@dataclass(frozen=True, eq=False)
class Bench:
    """A trial on the same number of windows of each text."""

    trial: Trial
    texts: Sequence[Text]

    def kl(self, types: dict[str, QuantType], *, compensated: bool) -> np.ndarray:
        """Mean KL divergence by text."""
        found = self.trial.run(types, compensated=compensated).scores.kl.mean(axis=1)
        return np.asarray(found, np.float64).reshape(len(self.texts), -1).mean(axis=1)


def judged_texts(folder: Path, longest: int = LONGEST_TEXT) -> list[Text]:
    """The beginnings of the texts of a folder, named by their files."""
    return [Text(path.stem, path.read_text(encoding="utf-8")[:longest]) for path in sorted(folder.glob("*.txt"))]


def spread(engine: Engine, texts: Sequence[Text], each: int) -> np.ndarray:
    """`each` windows of every text, evenly spread."""
    cut = cut_windows(engine, texts, None)
    short = [text.name for text, windows in zip(texts, cut, strict=True) if len(windows) < each]
    if short:
        sys.exit(f"fewer than {each} windows of {engine.context} tokens: {', '.join(short)}")
    return np.concatenate([windows[np.linspace(0, len(windows) - 1, each).round().astype(int)] for windows in cut])


def row(label: str, values: Sequence[object]) -> None:
    """Print a row of a table."""
    print(f"| {label} | " + " | ".join(str(each) for each in values) + " |", flush=True)


def by_type(bench: Bench, tensors: Sequence[Tensor], types: Sequence[str]) -> Iterator[float]:
    """A row for each type, or its substitute where rows do not divide: KL divergence over plain, by text."""
    row("type", [*(text.name for text in bench.texts), "geometric mean", "plain KL"])
    row("---", ["---"] * (len(bench.texts) + 2))
    for name in types:
        fitting = {tensor: fitting_type(CATALOGUE[name], tensor.row_length) for tensor in tensors}
        chosen = {tensor.name: each for tensor, each in fitting.items() if each is not None}
        fits = sum(tensor.weights for tensor, each in fitting.items() if each == CATALOGUE[name])
        share = fits / sum(tensor.weights for tensor in tensors)
        plain, fed = (bench.kl(chosen, compensated=each) for each in (False, True))
        ratios = fed / plain
        mean = float(np.exp(np.log(ratios).mean()))
        label = name if share == 1 else f"{name} ({share:.0%} of the weights)"
        row(label, [*(f"{each:.3f}" for each in ratios), f"**{mean:.3f}**", f"{plain.mean():.5f}"])
        yield mean


def by_size(bench: Bench, plain: Profile, fed: Profile, mixtures: dict[str, tuple[int, dict[str, QuantType]]]) -> None:
    """A row for each mixture: KL divergence of the mixture, and of raq's allocations three ways."""
    row(
        "bytes of",
        ["mixture", "raq, plain", "same, with feedback", "solved on feedback", "to the mixture", "predicted"],
    )
    row("---", ["---"] * 6)
    for name, (capacity, types) in mixtures.items():
        outcomes = [
            solve(Problem(default_loss_model(profile)(profile), capacity), Limits(60.0)).unwrap()
            for profile in (plain, fed)
        ]
        own, other = (changed_types(allocation, plain) for allocation, _ in outcomes)
        found = [
            bench.kl(types, compensated=False),
            bench.kl(own, compensated=False),
            bench.kl(own, compensated=True),
            bench.kl(other, compensated=True),
        ]
        means = [float(each.mean()) for each in found]
        row(name, [*(f"{each:.5f}" for each in means), f"{means[3] / means[0]:.2f}", f"{outcomes[1][1].loss:.5f}"])


def main() -> None:
    """Print the tables of one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--imatrix", required=True)
    parser.add_argument("--gram", type=Path, required=True)
    parser.add_argument("--judged", type=Path, required=True, help="folder of .txt files")
    parser.add_argument("--types", default="Q3_K,Q4_K,Q5_K,IQ4_XS,IQ3_S,IQ2_S")
    parser.add_argument("--mixtures", default="Q3_K_M,Q4_K_M")
    parser.add_argument("--windows", type=int, default=4, help="of each text")
    arguments = parser.parse_args()
    header("Error feedback at equal bytes")
    model, importance = open_model(arguments.model), read_importance(arguments.imatrix)
    gram = read_gram(arguments.gram).check_against(model.fingerprint(), model.tensors)
    texts = judged_texts(arguments.judged)
    setup = TrialSetup(model, model.path, importance, texts, compensation=Compensation(gram))
    started = time.monotonic()
    with loaded(model.path, editable=True) as engine:
        recorded = RecordedLogits(engine, spread(engine, texts, arguments.windows))
        bench = Bench(Trial(setup, (engine, recorded)), texts)
        if arguments.types:
            quantizable = [t for t in model.tensors if is_quantizable(t, model.architecture)]
            tensors = [tensor for tensor in quantizable if block_of(tensor.name) >= 0]
            means = list(by_type(bench, tensors, arguments.types.split(",")))
            print(f"\nGeometric mean over the types: {np.exp(np.log(means).mean()):.3f}\n")
        if arguments.mixtures:
            cache = user_cache_path("raq") / "measurements"
            plain = measure_profile(model, importance, chosen_types(()), cache=cache)
            fed = compensated_profile(model, plain, Rounding(importance, setup.compensation), cache=cache)
            table = table_of(model)
            mixtures = {}
            for name in arguments.mixtures.split(","):
                chosen = mixture(table, file_type(name), has_importance=True)
                changed = {tensor.name: each for tensor, each in chosen.items() if each != tensor.source_type}
                mixtures[name] = tensor_bytes(chosen), changed
            by_size(bench, plain, fed, mixtures)
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
