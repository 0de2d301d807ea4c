"""Models for tests of the engine and what stands on it: the committed one, and files made from it by gguf-py."""

from pathlib import Path

import gguf
import numpy as np

DATA = Path(__file__).parents[1] / "data"
SHARED = Path(__file__).parents[3] / "shared" / "data"
MODEL = DATA / "wiki-math-4M-f16.gguf"
TEXT = (DATA / "gsm8k.evaluation.txt").read_text()


def write_quantized(source: Path, target: Path, quant_type: gguf.GGMLQuantizationType) -> Path:
    """Copy a model with every F16 matrix quantized by gguf-py: independent of our own quantizer and writer."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        item_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=item_type)
    for tensor in reader.tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.F16:
            blocks = gguf.quants.quantize(tensor.data.astype(np.float32), quant_type)
            writer.add_tensor(tensor.name, blocks, raw_dtype=quant_type)
        else:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
