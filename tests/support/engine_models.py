"""Models for tests of the engine and what stands on it: the committed one, and files made from it by gguf-py."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np

from support.paths import DATA

MODEL = DATA / "wiki-math-4M-f16.gguf"
TEXT = (DATA / "gsm8k.evaluation.txt").read_text()


@cache
def _committed() -> tuple[gguf.GGUFReader, Mapping[str, Any]]:
    """The committed model as gguf-py reads it, with the values of its fields."""
    reader = gguf.GGUFReader(MODEL)
    return reader, {name: field.contents() for name, field in reader.fields.items()}


def value(name: str) -> Any:
    """A value of the committed model's metadata; of an array a list of its own."""
    found = _committed()[1][name]
    return list(found) if isinstance(found, list) else found


def rewrite(
    target: Path,
    change: Callable[[str, np.ndarray], Mapping[str, np.ndarray]],
    metadata: Mapping[str, object] = MappingProxyType({}),
    quant_type: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """Write the committed model anew with gguf-py, independent of our own reader and writer.

    `change` turns each tensor into the tensors that stand for it, `metadata` replaces or adds values, `quant_type`
    quantizes every F16 matrix.
    """
    reader, values = _committed()
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in metadata:
            continue
        _add_value(writer, name, values[name], field)
    for name, given in metadata.items():
        _add_value(writer, name, given, reader.fields.get(name))
    for tensor in reader.tensors:
        for name, data in change(tensor.name, np.array(tensor.data)).items():
            if quant_type is not None and data.dtype == np.float16:
                blocks = gguf.quants.quantize(data.astype(np.float32), quant_type)
                writer.add_tensor(name, blocks, raw_dtype=quant_type)
            else:
                writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _add_value(writer: gguf.GGUFWriter, name: str, given: object, like: gguf.ReaderField | None) -> None:
    if like is None and isinstance(given, str):
        writer.add_string(name, given)
    elif like is None:
        assert isinstance(given, int)
        writer.add_uint32(name, given)
    else:
        item_type = like.types[-1] if like.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, given, like.types[0], sub_type=item_type)


def write_quantized(target: Path, quant_type: gguf.GGMLQuantizationType) -> Path:
    """The model with every matrix quantized by gguf-py."""
    return rewrite(target, lambda name, data: {name: data}, quant_type=quant_type)


def write_smaller_vocabulary(target: Path) -> Path:
    """The model with only the first 4000 rows of its vocabulary."""
    metadata = {
        "tokenizer.ggml.tokens": value("tokenizer.ggml.tokens")[:4000],
        "tokenizer.ggml.token_type": value("tokenizer.ggml.token_type")[:4000],
        "tokenizer.ggml.merges": value("tokenizer.ggml.merges")[:3000],
        "llama.vocab_size": 4000,
    }
    both = {"output.weight", "token_embd.weight"}
    return rewrite(target, lambda name, data: {name: data[:4000] if name in both else data}, metadata)


def write_tied(target: Path) -> Path:
    """The model with its embedding as output head."""
    return rewrite(target, lambda name, data: {} if name == "output.weight" else {name: data})


def write_mixture(target: Path, experts: int, used: int) -> Path:
    """The model with each feed-forward layer as a mixture of noisy copies of itself, and a random router."""
    random = np.random.default_rng(0)

    def change(name: str, data: np.ndarray) -> dict[str, np.ndarray]:
        if ".ffn_" not in name or "norm" in name:
            return {name: data}
        noise = random.normal(1, 0.2, (experts, *data.shape))
        stacked: dict[str, np.ndarray] = {name.replace(".weight", "_exps.weight"): (data * noise).astype(np.float16)}
        if "ffn_gate" in name:
            router = random.normal(0, 1, (experts, data.shape[1]))
            stacked[name.replace("ffn_gate", "ffn_gate_inp")] = router.astype(np.float32)
        return stacked

    return rewrite(target, change, {"llama.expert_count": experts, "llama.expert_used_count": used})
