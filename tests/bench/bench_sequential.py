"""What rounding blocks one after the other is worth at equal bytes: `just bench-sequential`.

    python tests/bench/bench_sequential.py MODEL.gguf --imatrix FILE --gram FILE --judged FOLDER

Every block tensor in one type, with error feedback, each by itself and one after the other (`--sequential` of
raq-client): KL divergence (nats per token) by text of the folder, the same windows for both. Embedding and head stay.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from bench_compensation import judged_texts, row, spread

import raq_native
from raq_client.compensation.compensate import Compensation
from raq_client.compensation.gram_file import read_gram
from raq_client.engine.loading import loaded
from raq_client.evaluation.in_memory import RecordedLogits
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.quantizable import is_quantizable
from raq_client.models.writer import Blocks
from raq_client.quantizing.quantize import blocks_of
from raq_client.quantizing.rounding import Rounding
from raq_client.quantizing.sequential import sequentially_rounded
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensor_names import block_of
from raq_solver.tensors import Tensor
from support.machine import header

INSTEAD = CATALOGUE["Q4_0"]
"""For rows that are no multiple of a type's block."""


def rounded(types: dict[Tensor, QuantType], make: Blocks) -> dict[str, np.ndarray]:
    """The weights that the blocks of each tensor stand for, [matrices, rows, columns]."""
    found = {}
    for tensor, wanted in types.items():
        blocks = np.concatenate(list(make(tensor, wanted)))
        values = raq_native.dequantize(wanted.name, blocks, tensor.row_length)
        found[tensor.name] = values.reshape(tensor.matrices, -1, tensor.row_length)
    return found


def block_types(model: ModelFile, name: str) -> dict[Tensor, QuantType]:
    """Every tensor of the blocks in one type, where its rows fit."""
    wanted = CATALOGUE[name]
    tensors = [t for t in model.tensors if block_of(t.name) >= 0 and is_quantizable(t, model.architecture)]
    return {tensor: wanted if wanted.fits(tensor.row_length) else INSTEAD for tensor in tensors}


def main() -> None:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--imatrix", required=True)
    parser.add_argument("--gram", type=Path, required=True)
    parser.add_argument("--judged", type=Path, required=True, help="folder of .txt files")
    parser.add_argument("--types", default="Q3_K,Q4_K")
    parser.add_argument("--windows", type=int, default=3, help="of each text")
    arguments = parser.parse_args()
    header("Blocks rounded one after the other, at equal bytes")
    model = open_model(arguments.model)
    gram = read_gram(arguments.gram).check_against(model.fingerprint(), model.tensors)
    rounding = Rounding(read_importance(arguments.imatrix), Compensation(gram))
    texts = judged_texts(arguments.judged)
    started = time.monotonic()
    with loaded(model.path, editable=True) as engine:
        recorded, weights = RecordedLogits(engine, spread(engine, texts, arguments.windows)), engine.weights()

        def kl(values: dict[str, np.ndarray]) -> np.ndarray:
            with weights.replaced(values, lambda name: model.stored(model.tensor(name))):
                found = recorded.compare().kl.mean(axis=1)
            return np.asarray(found, np.float64).reshape(len(texts), -1).mean(axis=1)

        row("type", [*(text.name for text in texts), "geometric mean", "KL", "seconds"])
        row("---", ["---"] * (len(texts) + 3))
        for name in arguments.types.split(","):
            types, make = block_types(model, name), partial(blocks_of, model, rounding=rounding)
            apart, begun = kl(rounded(types, make)), time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                in_turn = rounded(types, sequentially_rounded(model, types, rounding, make, Path(folder) / "rounded"))
            seconds, after = time.monotonic() - begun, kl(in_turn)
            ratios = after / apart
            mean = float(np.exp(np.log(ratios).mean()))
            row(name, [*(f"{e:.3f}" for e in ratios), f"**{mean:.3f}**", f"{after.mean():.5f}", f"{seconds:.0f}"])
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
