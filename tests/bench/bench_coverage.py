"""How often the intervals of predictions hold: plans on parts of the calibration's windows, measured.

    python tests/bench/bench_coverage.py MODEL --own FOLDER [--gram FILE] --save FILE
    python tests/bench/bench_coverage.py --draw FILE,FILE… --plot PICTURE

Importance and Fisher information are collected from the beginnings of the texts; their last LAST characters are what
the plans are measured on, in memory. The windows of Fisher information are divided into parts of as many as `imatrix
collect` takes by default, evenly spread. Each part has its own losses, its own plans at the bytes of some of
llama.cpp's mixtures, and its own intervals. A prediction holds if the measured KL divergence is within the interval
widened by the measured one's own; each text counts alike in both. Predictions are without the rounding of inputs, which
trials in memory lack. With Gram statistics (of the same beginnings) plans and trials have error feedback.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from platformdirs import user_cache_path

from raq_client.compensation.compensate import Compensation
from raq_client.compensation.gram_file import read_gram
from raq_client.curvature.fisher import FisherSums
from raq_client.curvature.information import Fisher, joined
from raq_client.curvature.passes import add_windows, network_for
from raq_client.engine.loading import loaded
from raq_client.engine.windows import Text, cut_windows
from raq_client.evaluation.in_memory import Trial, TrialSetup
from raq_client.importance.collect import collect
from raq_client.importance.collect_fisher import (
    DEFAULT_FISHER_WINDOWS,
    chosen_windows,
    informed_windows,
    with_fisher,
)
from raq_client.importance.imatrix import Importance
from raq_client.models.file_types import file_type
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.table import table_of
from raq_client.models.type_choice import chosen_types
from raq_client.planning.predicted_kl import CONFIDENCE, PredictedKl, from_windows
from raq_client.quantizing.compensated import compensated_profile
from raq_client.quantizing.measure import measure_profile
from raq_client.recipes.mixtures import mixture, tensor_bytes
from raq_client.refinement.tried import changed_types
from raq_client.reports.plots import picture_figure, save_figure
from raq_solver import Limits, Problem, solve
from raq_solver.loss_models import default_loss_model, rounded_inputs_share
from raq_solver.profile import FisherLevels
from support.machine import header

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LAST: Final = 200_000
LEVELS: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Nominal confidences of the plot."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A plan: the predicted KL divergence of each window of its part, and the measured one of each held-out window."""

    model: str
    part: int
    size: str
    predicted: tuple[float, ...]
    texts: tuple[str, ...]
    measured: tuple[float, ...]
    measured_texts: tuple[str, ...]

    def intervals(self, confidence: float = CONFIDENCE) -> tuple[PredictedKl, PredictedKl]:
        """The prediction, and what was measured, each with its interval."""
        predicted = from_windows(np.array(self.predicted), _alike(self.texts), confidence)
        return predicted, from_windows(np.array(self.measured), _alike(self.measured_texts), confidence, model_error=0)

    def holds(self, confidence: float = CONFIDENCE) -> bool:
        """Whether the measured KL divergence is where it should be, its own error counted."""
        predicted, measured = self.intervals(confidence)
        width = math.hypot(*(math.log(each.high / each.value) for each in (predicted, measured)))
        return abs(math.log(measured.value / predicted.value)) <= width


def _alike(texts: tuple[str, ...]) -> FisherLevels:
    """Windows of these texts, each text counting alike."""
    return FisherLevels(np.ones((1, len(texts))), texts, np.array([1 / texts.count(text) for text in texts]))


def parts_of(model: ModelFile, texts: Sequence[Text], context: int, parts: int) -> list[Importance]:
    """The importance of the texts, with the Fisher information of each part of the windows."""
    each = DEFAULT_FISHER_WINDOWS
    with loaded(model.path, context=context) as engine:
        counted = collect(engine, texts, windows=parts * each // len(texts))
        cut = cut_windows(engine, texts, None)
        named = informed_windows(cut, texts, parts * each)
        network, windows = network_for(model, engine, chosen_windows(cut, parts * each))
    found = []
    for part in range(parts):
        # Windows are of the texts in turn, so that every part has windows of all of them, evenly spread.
        numbers = [n for n in range(len(windows)) if n // len(texts) % parts == part]
        fisher: dict[str, Fisher] = {}
        sums = FisherSums(model, context)
        for done, number in enumerate(numbers):
            sums.clear()
            add_windows(network, windows[number : number + 1], sums, first=number)
            fisher = joined(fisher, done, sums.found(), 1)
        found.append(with_fisher(counted, fisher, [named[number] for number in numbers]))
    return found


def tried(
    model: ModelFile,
    parts: Sequence[Importance],
    held_out: Sequence[Text],
    context: int,
    per_text: int,
    sizes: Sequence[str],
    compensation: Compensation | None = None,
) -> Iterator[Tried]:
    """The plans of all parts at these sizes, measured."""
    cut = [Text(text.name, text.content) for text in held_out]
    setup = TrialSetup(
        model, model.path, parts[0], cut, windows=per_text * len(cut), context=context, compensation=compensation
    )
    with loaded(model.path, context=context) as engine:
        lengths = [len(windows) for windows in cut_windows(engine, cut, None)]
    owners = np.repeat([text.name for text in cut], lengths)
    spread = np.linspace(0, len(owners) - 1, min(per_text * len(cut), len(owners))).round().astype(int)
    cache = user_cache_path("raq") / "measurements"
    with Trial(setup) as trial:
        for part, importance in enumerate(parts):
            profile = measure_profile(model, importance, chosen_types(()), cache=cache)
            if compensation is not None:
                rounding = replace(setup, importance=importance).rounding
                profile = compensated_profile(model, profile, rounding, cache=cache)
            assert profile.levels is not None, "every part has levels"
            table = default_loss_model(profile)(profile)
            for size in sizes:
                capacity = tensor_bytes(mixture(table_of(model), file_type(size), has_importance=True))
                allocation, _ = solve(Problem(table, capacity), Limits(60.0)).unwrap()
                share = rounded_inputs_share(profile, allocation.types)
                rows = np.arange(len(table.tensors))
                columns = [table.column_of[allocation.types[name]] for name in table.tensors]
                windows = table.losses[rows, columns] @ profile.levels.levels / (1 + share)
                kl = trial.run(changed_types(allocation, profile)).scores.kl.mean(axis=1)
                yield Tried(
                    model.path.stem,
                    part,
                    size,
                    tuple(windows.tolist()),
                    profile.levels.texts,
                    tuple(map(float, kl)),
                    tuple(owners[spread].tolist()),
                )


def rows(found: Sequence[Tried]) -> Iterator[str]:
    """The table: of each model and size the ratios of its parts, the width of the intervals, and how many hold."""
    yield "| model | bytes of | predicted | measured / predicted | interval | of the measured value | hold |"
    yield "|---|---|---|---|---|---|---|"
    for model, size in dict.fromkeys((each.model, each.size) for each in found):
        own = [each for each in found if (each.model, each.size) == (model, size)]
        pairs = [each.intervals() for each in own]
        predicted = np.mean([one.value for one, _ in pairs])
        ratios = ", ".join(f"{two.value / one.value:.2f}" for one, two in pairs)
        widths = [
            100 * np.mean([math.log(each.high / each.value) for each in side]) for side in zip(*pairs, strict=True)
        ]
        holding = sum(each.holds() for each in own)
        figures = f"{predicted:.5f} | {ratios} | ± {widths[0]:.0f} % | ± {widths[1]:.0f} %"
        yield f"| {model} | {size} | {figures} | {holding} of {len(own)} |"
    yield f"\n{sum(each.holds() for each in found)} of {len(found)} hold at {CONFIDENCE:.0%}"


def draw(found: Sequence[Tried], path: Path) -> None:
    """Measured over predicted with the intervals, and how many hold at each confidence."""
    figure = picture_figure(path, (10, 4.5))
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    models = list(dict.fromkeys(each.model for each in found))
    for number, model in enumerate(models):
        own = [each for each in found if each.model == model]
        _draw_ratios(left, own, f"C{number}")
        right.plot(LEVELS, [np.mean([each.holds(level) for each in own]) for level in LEVELS], "o-", label=model)
    left.axhline(1, color="grey", linewidth=0.8)
    left.set(
        xscale="log", ylim=(0.65, None), xlabel="predicted KL divergence, nats per token", ylabel="measured / predicted"
    )
    handles = [left.plot([], [], "o", color=f"C{number}", label=model)[0] for number, model in enumerate(models)]
    left.legend(handles=handles, loc="lower center", ncols=len(models))
    right.plot((0.5, 1), (0.5, 1), color="grey", linewidth=0.8)
    right.set(xlabel="nominal confidence", ylabel="share that holds", ylim=(0.3, 1.03))
    right.legend()
    save_figure(figure, path)


def _draw_ratios(axes: "Axes", found: Sequence[Tried], colour: str) -> None:
    """A point for each plan with the interval of the measured value; a bar for the interval of the prediction."""
    for each in found:
        predicted, measured = each.intervals()
        x = predicted.value * 1.03**each.part  # parts of one size beside each other
        axes.plot(
            [x, x],
            [predicted.low / predicted.value, predicted.high / predicted.value],
            color=colour,
            alpha=0.3,
            linewidth=5,
        )
        ratio = measured.value / predicted.value
        errors = [[ratio - measured.low / predicted.value], [measured.high / predicted.value - ratio]]
        axes.errorbar([x], [ratio], yerr=errors, fmt="o", markersize=3, color=colour, linewidth=1)


def main() -> None:
    """Measure a model, or draw what was measured of several."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--own", type=Path, help="folder of .txt files, of which only the beginnings calibrate")
    parser.add_argument("--gram", type=Path)
    parser.add_argument("--save", type=Path, help="JSON file for what is measured")
    parser.add_argument("--draw", default="", help="such files, to print and draw instead of measuring")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--mixtures", default="Q2_K,Q3_K_M,Q4_K_M,Q5_K_M")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--parts", type=int, default=3)
    parser.add_argument("--windows", type=int, default=16, help="of each text, to measure on")
    arguments = parser.parse_args()
    if arguments.draw:
        found = [
            Tried(**plan) for path in arguments.draw.split(",") for plan in json.loads(Path(path).read_text("utf-8"))
        ]
    else:
        header(f"How often predictions hold, {arguments.model.stem}")
        texts = [Text(path.stem, path.read_text("utf-8")) for path in sorted(arguments.own.glob("*.txt"))]
        begun = [replace(text, content=text.content[:-LAST]) for text in texts]
        ended = [replace(text, content=text.content[-LAST:]) for text in texts]
        model = open_model(arguments.model)
        parts = parts_of(model, begun, arguments.context, arguments.parts)
        gram = None
        if arguments.gram is not None:
            gram = Compensation(read_gram(arguments.gram).check_against(model.fingerprint(), model.tensors))
        sizes = arguments.mixtures.split(",")
        found = list(tried(model, parts, ended, arguments.context, arguments.windows, sizes, gram))
        if arguments.save is not None:
            arguments.save.write_text(json.dumps([asdict(each) for each in found]), encoding="utf-8")
    print("\n".join(rows(found)))
    if arguments.plot is not None:
        draw(found, arguments.plot)


if __name__ == "__main__":
    main()
