"""The losses without gradients against those from Fisher information: `just bench-default-losses`.

    python tests/bench/bench_default_losses.py MODEL.gguf=IMATRIX.gguf …

Each importance file needs Fisher information; the losses without it are made from the same file, as if it had none.
"Rank" and "spread" compare tensors (at each one's types of 3 to 5 bits) and cells (tensor × type): Spearman's
correlation, and the standard deviation of ln(loss / Fisher loss). "Regret" is what the optimum of a loss model costs by
Fisher information over the least possible, the geometric mean over the bytes of four of llama.cpp's mixtures. Then READ
of the residual stream is chosen by all models but one, and judged by that one's regret.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from platformdirs import user_cache_path
from scipy.stats import spearmanr

from raq_client.importance.imatrix_file import read_importance
from raq_client.models.file_types import file_type
from raq_client.models.model_file import open_model
from raq_client.models.table import table_of
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_client.recipes.mixtures import mixture, tensor_bytes
from raq_solver import Limits, Problem, solve
from raq_solver.errors import InvalidInput
from raq_solver.loss_models import fisher, loss_model, residual, residual_stream
from raq_solver.loss_models.residual_stream import residual_sensitivities
from raq_solver.losses import LossTable
from raq_solver.profile import Profile
from support.machine import header

MIXTURES = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M")
COMPARED = ("residual", "prior", "activation")
READS = (0.05, 0.07, 0.1, 0.14, 0.19)
LIMITS = Limits(10)


@dataclass(frozen=True, eq=False)
class Subject:
    """A model: its profile without Fisher information, the losses with it, and what is the least possible at a size."""

    name: str
    plain: Profile
    truth: LossTable
    known: np.ndarray
    least: Mapping[int, float]

    @classmethod
    def of(cls, pair: str, cache: Path) -> "Subject":
        """From MODEL=IMATRIX."""
        path, importance_path = pair.split("=")
        model, importance = open_model(path), read_importance(importance_path)
        profile = measure_profile(model, importance, chosen_types(()), cache=cache)
        if profile.fisher is None:
            sys.exit(f"{importance_path} has no Fisher information")
        truth = fisher(profile)
        mixtures = [mixture(table_of(model), file_type(name), has_importance=True) for name in MIXTURES]
        least = {size: solve(Problem(truth, size), LIMITS).unwrap()[1].loss for size in map(tensor_bytes, mixtures)}
        known = np.isfinite(profile.fisher.energies) & (profile.fisher.energies > 0)
        return cls(model.path.stem, replace(profile, fisher=None), truth, known, least)

    def regret(self, table: LossTable) -> float:
        """What the table's optima cost by Fisher information over the least possible."""
        found = []
        for size, least in self.least.items():
            types = solve(Problem(table, size), LIMITS).unwrap()[0].types
            cells = [(self.truth.row_of[name], self.truth.column_of[chosen]) for name, chosen in types.items()]
            found.append(sum(self.truth.losses[cell] for cell in cells) / least)
        return float(np.exp(np.log(found).mean()))

    def agreement(self, table: LossTable) -> tuple[float, float, float, float]:
        """Rank correlation and spread, over tensors and over cells."""
        bits = np.array([quant_type.bits_per_weight for quant_type in self.plain.quant_types])
        cells = np.isfinite(table.losses) & (self.truth.losses > 0) & (table.losses > 0) & (bits < 16)
        cells &= np.isfinite(self.truth.losses) & self.known[:, None]
        gap = np.log(table.losses, where=cells, out=np.full(cells.shape, np.nan))
        truth = np.log(self.truth.losses, where=cells, out=np.full(cells.shape, np.nan))
        gap -= truth
        errors = self.plain.relative_errors
        usual = cells & (bits > 3) & (bits < 5)
        rows = usual.any(axis=1)
        sensitivity = np.nanmean(np.where(usual, truth - np.log(np.where(usual, errors, 1.0)), np.nan)[rows], axis=1)
        off = np.nanmean(np.where(usual, gap, np.nan)[rows], axis=1)
        of_tensors = spearmanr(sensitivity, sensitivity + off).statistic
        of_cells = spearmanr(truth[cells], (truth + gap)[cells]).statistic
        return float(of_tensors), float(off.std()), float(of_cells), float(gap[cells].std())


def compare(subjects: Sequence[Subject]) -> None:
    """A row for each model and loss model."""
    print(
        "\n| model | losses | tensors: rank | spread | cells: rank | spread | regret |\n|---|---|---|---|---|---|---|"
    )
    for subject in subjects:
        for name in COMPARED:
            try:
                table = loss_model(name)(subject.plain)
            except InvalidInput:
                continue
            numbers = " | ".join(f"{each:.2f}" for each in subject.agreement(table))
            print(f"| {subject.name} | {name} | {numbers} | {subject.regret(table):.3f} |", flush=True)


def choose(subjects: Sequence[Subject]) -> None:
    """The regret of every value of READ, and of the one that the other models choose for each."""
    regrets: dict[float, list[float]] = {}
    print(f"\n| READ | {' | '.join(each.name for each in subjects)} | mean |")
    print("|" + "---|" * (2 + len(subjects)))
    for read in READS:
        with patch.object(residual_stream, "READ", read):
            regrets[read] = [subject.regret(residual(subject.plain)) for subject in subjects]
        row = " | ".join(f"{each:.3f}" for each in (*regrets[read], np.exp(np.log(regrets[read]).mean())))
        print(f"| {read} | {row} |", flush=True)
    for left_out, subject in enumerate(subjects):
        others = {read: np.log(np.delete(found, left_out)).mean() for read, found in regrets.items()}
        read = min(others, key=others.__getitem__)
        print(f"chosen without {subject.name}: READ {read}, regret {regrets[read][left_out]:.3f}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL=IMATRIX")
    parser.add_argument("--cache", type=Path, default=user_cache_path("raq") / "measurements")
    arguments = parser.parse_args()
    subjects = [Subject.of(pair, arguments.cache) for pair in arguments.models]
    header("Losses without gradients")
    compare(subjects)
    covered = [subject for subject in subjects if not isinstance(residual_sensitivities(subject.plain), str)]
    if len(covered) > 1:
        choose(covered)


if __name__ == "__main__":
    main()
