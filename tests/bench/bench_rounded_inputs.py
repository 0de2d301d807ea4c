"""Costs of rounded inputs against what they do: `just bench-rounded-inputs`.

    python tests/bench/bench_rounded_inputs.py MODEL.gguf --imatrix FILE --judged FOLDER

All quantizable tensors in one type, or its substitute where rows do not divide: KL divergence (nats per token) by file,
where ggml's kernels round inputs to 8 bits, and in memory with floating-point inputs, on the same windows. Beside the
difference: the costs in the importance file, those by the constants of `loss_models.input_rounding`, and the least and
the largest ratio of a tensor's two costs.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_compensation import judged_texts, row, spread

from raq_client.engine.loading import loaded
from raq_client.evaluation.in_memory import RecordedLogits, Trial, TrialSetup
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.quantizable import fitting_type, is_quantizable
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_solver.allocation import Allocation
from raq_solver.loss_models import loss_model
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE, QuantType
from support.machine import header


def types_of(model: ModelFile, name: str) -> dict[str, QuantType]:
    """The type of every quantizable tensor."""
    tensors = [tensor for tensor in model.tensors if is_quantizable(tensor, model.architecture)]
    fitting = {tensor.name: fitting_type(CATALOGUE[name], tensor.row_length) for tensor in tensors}
    return {name: found for name, found in fitting.items() if found is not None}


def costs_of_inputs(profile: Profile, types: Mapping[str, QuantType]) -> np.ndarray:
    """What each tensor's rounded inputs cost by Fisher information, nats per token: its loss beyond the weights'."""
    assert profile.fisher is not None, "the importance file has no Fisher information"
    table = loss_model("fisher")(profile)
    cells = [table.row_of[name] for name in types], [table.column_of[each.name] for each in types.values()]
    return np.nan_to_num(table.losses[cells] - profile.fisher.losses[cells])


def compared(
    trial: Trial, setup: TrialSetup, types: Mapping[str, QuantType], used: Mapping[str, str]
) -> tuple[float, float]:
    """Mean KL divergence of these types in memory, and of a file with all types `used`, on the same windows."""
    inside = np.asarray(trial.run(types).scores.kl, np.float64)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "rounded.gguf"
        quantize_model(Quantization(setup.model, Allocation(used), written, setup.rounding))
        with loaded(written) as rounded:
            outside = np.asarray(trial.compare(rounded).kl, np.float64)
    return float(inside.mean()), float(outside.mean())


def main() -> None:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--imatrix", required=True)
    parser.add_argument("--judged", type=Path, required=True, help="folder of .txt files")
    parser.add_argument("--types", default="Q6_K,Q8_0")
    parser.add_argument("--windows", type=int, default=2, help="of each text")
    arguments = parser.parse_args()
    header(f"Rounded inputs, {arguments.model.stem}, {arguments.windows} windows of each text")
    model, importance = open_model(arguments.model), read_importance(arguments.imatrix)
    texts = judged_texts(arguments.judged)
    setup = TrialSetup(model, model.path, importance, texts)
    row("type", ["in memory", "by file", "difference", "predicted", "by the constants", "to these, by tensor"])
    row("---", ["---"] * 6)
    with loaded(model.path, editable=True) as engine:
        trial = Trial(setup, (engine, RecordedLogits(engine, spread(engine, texts, arguments.windows))))
        for name in arguments.types.split(","):
            types = types_of(model, name)
            profile = measure_profile(model, importance, chosen_types(sorted({each.name for each in types.values()})))
            assert profile.fisher is not None, "the importance file has no Fisher information"
            usual = replace(profile, fisher=replace(profile.fisher, inputs=None))
            used = {tensor.name: types.get(tensor.name, tensor.source_type).name for tensor in model.tensors}
            inside, outside = compared(trial, setup, types, used)
            found, constant = (costs_of_inputs(each, types) for each in (profile, usual))
            ratios = found[constant > 0] / constant[constant > 0]
            figures = inside, outside, outside - inside, float(found.sum()), float(constant.sum())
            row(name, [*(f"{each:.6f}" for each in figures), f"{ratios.min():.2f} to {ratios.max():.2f}"])


if __name__ == "__main__":
    main()
