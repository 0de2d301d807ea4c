"""Predicted losses against measured KL divergence, on texts of the calibration's own kinds and on others.

    python tests/bench/bench_predictions.py MODEL --imatrix FILE [--gram FILE] --own FOLDER --others FOLDER

At the bytes of some of llama.cpp's mixtures raq's allocation is tried in memory, at the whole change ΔW of the weights
and at ΔW / 4. The KL divergence of the latter × 16 is the second-order term alone, so that the difference of the two is
what higher orders add. Predictions are without the rounding of inputs, which trials in memory lack. Of the own texts
only the last LAST characters are used: give calibration texts of which no more than the beginning was counted.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

sys.path.insert(0, str(Path(__file__).parents[1]))

from platformdirs import user_cache_path

from raq_client.compensation.compensate import Compensation
from raq_client.compensation.gram_file import read_gram
from raq_client.engine import Engine
from raq_client.engine.loading import loaded
from raq_client.engine.windows import Text, spread_windows
from raq_client.evaluation.in_memory import RecordedLogits, TrialSetup, make_probe, probe_type
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.file_types import file_type
from raq_client.models.model_file import open_model
from raq_client.models.table import table_of
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.compensated import compensated_profile
from raq_client.quantizing.measure import measure_profile
from raq_client.recipes.mixtures import mixture, tensor_bytes
from raq_client.refinement.tried import changed_types, standard_error
from raq_solver import Limits, Problem, solve
from raq_solver.loss_models import default_loss_model, rounded_inputs_share
from raq_solver.profile import Profile
from raq_solver.quant_types import QuantType
from support.machine import header

LAST = 200_000
LONGEST_TEXT = 600_000
QUARTER = 0.25


@dataclass(frozen=True, eq=False)
class Bench:
    """A loaded model with its logits unchanged, and how its tensors are rounded."""

    setup: TrialSetup
    engine: Engine
    recorded: RecordedLogits

    def kl(self, types: Mapping[str, QuantType], share: float) -> np.ndarray:
        """KL divergence by window with this share of the change that rounding to the types makes."""
        with self.engine.weights().replaced(self._values(types, share), self._stored):
            return np.asarray(self.recorded.compare().kl.mean(axis=1), np.float64)

    def _values(
        self, types: Mapping[str, QuantType], share: float
    ) -> Iterator[tuple[str, Float32[np.ndarray, "matrices rows length"]]]:
        for name, wanted in types.items():
            tensor, weights = self.setup.model.tensor(name), self.engine.weights().read(name)
            rows = None if self.setup.importance is None else self.setup.importance.rows(tensor)
            chosen = probe_type(wanted, tensor, has_importance=rows is not None)
            probe = make_probe(weights, tensor, chosen, self.setup.rounding, rows)
            yield name, weights + np.float32(share) * (probe.values - weights)

    def _stored(self, name: str) -> np.ndarray:
        return self.setup.model.stored(self.setup.model.tensor(name))


def plans(profile: Profile, sizes: Mapping[str, int]) -> Iterator[tuple[str, float, dict[str, QuantType]]]:
    """For each size its name, the predicted loss without rounded inputs, and the types of changed tensors."""
    losses = default_loss_model(profile)(profile)
    for name, size in sizes.items():
        allocation, ledger = solve(Problem(losses, size), Limits(60.0)).unwrap()
        share = rounded_inputs_share(profile, allocation.types)
        yield name, ledger.loss / (1 + share), changed_types(allocation, profile)


def texts_of(folder: Path, part: slice) -> list[Text]:
    """This part of the texts of a folder."""
    return [Text(path.stem, path.read_text(encoding="utf-8")[part]) for path in sorted(folder.glob("*.txt"))]


def main() -> None:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--imatrix", required=True)
    parser.add_argument("--gram", type=Path)
    parser.add_argument("--own", type=Path, required=True, help="folder of .txt files of the calibration's kinds")
    parser.add_argument("--others", type=Path, required=True, help="folder of other .txt files")
    parser.add_argument("--mixtures", default="Q2_K,Q4_K_M")
    parser.add_argument("--windows", type=int, default=3, help="of each text")
    arguments = parser.parse_args()
    header(f"Predictions, {arguments.model.stem}")
    model, importance = open_model(arguments.model), read_importance(arguments.imatrix)
    cache = user_cache_path("raq") / "measurements"
    profile, compensation = measure_profile(model, importance, chosen_types(()), cache=cache), None
    if arguments.gram is not None:
        compensation = Compensation(read_gram(arguments.gram).check_against(model.fingerprint(), model.tensors))
    kinds = {
        "own": texts_of(arguments.own, slice(-LAST, None)),
        "others": texts_of(arguments.others, slice(LONGEST_TEXT)),
    }
    sizes = {
        name: tensor_bytes(mixture(table_of(model), file_type(name), has_importance=True))
        for name in arguments.mixtures.split(",")
    }
    print("\n| texts | bytes of | predicted | measured | at ΔW / 4, × 16 |\n|---|---|---|---|---|")
    for kind, texts in kinds.items():
        setup = TrialSetup(model, model.path, importance, texts, compensation=compensation)
        if compensation is not None and kind == "own":
            profile = compensated_profile(model, profile, setup.rounding, cache=cache)
        with loaded(model.path, editable=True) as engine:
            windows = spread_windows(engine, texts, arguments.windows * len(texts))
            bench = Bench(setup, engine, RecordedLogits(engine, windows))
            for name, predicted, types in plans(profile, sizes):
                whole, quarter = bench.kl(types, 1.0), bench.kl(types, QUARTER) / QUARTER**2
                level = f"{whole.mean():.5f} ± {standard_error(whole):.5f}"
                print(f"| {kind} | {name} | {predicted:.5f} | {level} | {quarter.mean():.5f} |", flush=True)


if __name__ == "__main__":
    main()
