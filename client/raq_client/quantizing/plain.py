"""Decode a model file: its quantizable tensors in F16, BF16 or F32."""

from pathlib import Path

from raq_client.models.model_file import ModelFile
from raq_client.models.quantizable import is_quantizable
from raq_client.models.writer import Progress, WrittenModel
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.quantizing.rounding import Rounding
from raq_solver.allocation import Allocation


def decode_model(
    model: ModelFile,
    to: str,
    out: Path,
    *,
    threads: int = 0,
    force: bool = False,
    progress: Progress = lambda _name, _size: None,
) -> WrittenModel:
    """Write `model` to `out` with the tensors that llama.cpp may quantize in the plain type `to`; others keep theirs.

    Raises InvalidInput as `quantize_model` does.
    """
    types = {
        tensor.name: to if is_quantizable(tensor, model.architecture) else tensor.source_type.name
        for tensor in model.tensors
    }
    decoded = Quantization(model, Allocation(types), out, Rounding(threads=threads))
    return quantize_model(decoded, force=force, progress=progress)
