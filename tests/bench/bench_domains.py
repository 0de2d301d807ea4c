"""What calibrating for a use buys in that use and costs elsewhere: `just bench-domains`.

    python tests/bench/bench_domains.py MODEL.gguf --kind mathematics=M.imatrix.gguf,M.gram ... --judged FOLDER

For each kind of calibration text: an allocation solved on its importance at the same budget, rounded plainly by that
importance, and with error feedback by its Gram statistics. KL divergence (nats per token) by judged text, the same
windows for all, with the standard error of the mean over windows; then each kind relative to the last one given, which
is meant to be all kinds together.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from bench_compensation import LONGEST_TEXT, judged_texts, row, spread
from platformdirs import user_cache_path

from raq_client.compensation.compensate import Compensation
from raq_client.compensation.gram_file import read_gram
from raq_client.engine.loading import loaded
from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import RecordedLogits, Trial, TrialSetup
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.compensated import compensated_profile
from raq_client.quantizing.measure import measure_profile
from raq_client.quantizing.rounding import Rounding
from raq_client.refinement.tried import changed_types
from raq_solver import Limits, Problem, solve
from raq_solver.loss_models import default_loss_model
from raq_solver.profile import Profile
from support.machine import header

CACHE = user_cache_path("raq") / "measurements"


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of calibration text: its name and its statistics."""

    name: str
    imatrix: str
    gram: str

    @classmethod
    def parse(cls, text: str) -> "Kind":
        """From NAME=IMATRIX,GRAM."""
        name, _, files = text.partition("=")
        imatrix, _, gram = files.partition(",")
        return cls(name, imatrix, gram)


def allocated(profile: Profile, budget: float) -> dict:  # type: ignore[type-arg]
    """The changed types of the best allocation at `budget` bits per weight."""
    capacity = int(budget * int(profile.weights.sum()) / 8)
    outcome = solve(Problem(default_loss_model(profile)(profile), capacity), Limits(60.0)).unwrap()
    return changed_types(outcome[0], profile)


def measured(
    model: ModelFile,
    kind: Kind,
    engine: tuple,
    texts: list[Text],
    budget: float,  # type: ignore[type-arg]
) -> dict[str, np.ndarray]:
    """KL divergence by judged text and window, plain and with feedback."""
    importance = read_importance(kind.imatrix)
    gram = read_gram(kind.gram).check_against(model.fingerprint(), model.tensors)
    setup = TrialSetup(model, model.path, importance, texts, compensation=Compensation(gram))
    plain = measure_profile(model, importance, chosen_types(()), cache=CACHE)
    fed = compensated_profile(model, plain, Rounding(importance, setup.compensation), cache=CACHE)
    trial = Trial(setup, engine)
    found = {}
    for label, profile in (("plain", plain), ("feedback", fed)):
        scores = trial.run(allocated(profile, budget), compensated=label == "feedback").scores
        found[label] = np.asarray(scores.kl.mean(axis=1), np.float64).reshape(len(texts), -1)
    return found


def main() -> None:
    """Print the tables of one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--kind", action="append", required=True, type=Kind.parse, metavar="NAME=IMATRIX,GRAM")
    parser.add_argument("--judged", type=Path, required=True, help="folder of .txt files")
    parser.add_argument("--budget", type=float, default=4.0, help="bits per weight")
    parser.add_argument("--windows", type=int, default=12, help="of each text")
    arguments = parser.parse_args()
    header("Calibration by kind of text, at equal bytes")
    model = open_model(arguments.model)
    texts = judged_texts(arguments.judged, 4 * LONGEST_TEXT)
    with loaded(model.path, editable=True) as engine:
        recorded = RecordedLogits(engine, spread(engine, texts, arguments.windows))
        found = {
            kind.name: measured(model, kind, (engine, recorded), texts, arguments.budget) for kind in arguments.kind
        }
    last = arguments.kind[-1].name
    for label in ("plain", "feedback"):
        print(f"\nRounded {label}, {arguments.budget:g} bits per weight")
        row("calibrated on", [text.name for text in texts])
        row("---", ["---"] * len(texts))
        for name, by in found.items():
            means, errors = by[label].mean(axis=1), by[label].std(axis=1, ddof=1) / arguments.windows**0.5
            row(name, [f"{mean:.5f} ± {error:.5f}" for mean, error in zip(means, errors, strict=True)])
        for name, by in found.items():
            if name == last:
                continue
            # Windows are paired: the error of a ratio is that of the mean difference.
            pairs = by[label] - found[last][label]
            base = found[last][label].mean(axis=1)
            errors = pairs.std(axis=1, ddof=1) / arguments.windows**0.5 / base
            ratios = by[label].mean(axis=1) / base
            cells = [f"{ratio:.2f} ± {error:.2f}" for ratio, error in zip(ratios, errors, strict=True)]
            row(f"{name} / {last}", cells)


if __name__ == "__main__":
    main()
