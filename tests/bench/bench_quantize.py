"""Memory and speed of quantizing, and of opening models with large vocabularies.

Run: pytest -m bench tests/bench/bench_quantize.py -s
"""

import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client.models.model_file import open_model

pytestmark = pytest.mark.bench

_SCRIPT = """
import sys, time
from pathlib import Path
from raq_client.models.model_file import open_model
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.quantizing.rounding import Rounding
from raq_solver.allocation import Allocation
# Not getrusage: its peak is inherited from the process that started this one.
def peak():
    return Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
model = open_model(sys.argv[1])
before = peak()
types = Allocation({t.name: sys.argv[3] for t in model.tensors})
start = time.perf_counter()
quantize_model(Quantization(model, types, Path(sys.argv[2]), Rounding(threads=2)))
print(before, peak(), time.perf_counter() - start)
"""


@pytest.mark.parametrize("quant_type", ["Q8_0", "Q4_K"])
def test_peak_memory_of_a_500_mb_tensor(tmp_path: Path, quant_type: str) -> None:
    """The promise of issue 2: less than the largest tensor times 4 plus 300 MB."""
    rows, length = 64_000, 4096
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    weights = np.random.default_rng(0).standard_normal((1000, length), np.float32).astype(np.float16)
    writer.add_tensor("token_embd.weight", np.tile(weights, (rows // 1000, 1)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    size = rows * length * 2
    command = [sys.executable, "-c", _SCRIPT, str(path), str(tmp_path / "out.gguf"), quant_type]
    before, peak, seconds = map(float, subprocess.check_output(command, text=True).split())
    print(
        f"{quant_type}: tensor {size / 1e6:.0f} MB, peak memory {peak * 1024 / 1e6:.0f} MB "
        f"({before * 1024 / 1e6:.0f} MB before), {2 * size / 1e6 / seconds:.0f} MB/s of F32, 2 threads"
    )
    assert peak * 1024 < 4 * size + 300e6


def test_opening_a_model_of_150_000_tokens(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list([f"token{number}" for number in range(150_000)])
    writer.add_token_merges([f"to ken{number}" for number in range(150_000)])
    writer.add_token_types([1] * 150_000)
    writer.add_tensor("token_embd.weight", np.zeros((8, 256), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    start = time.perf_counter()
    open_model(path)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    gguf.GGUFReader(path)
    print(f"raq {ours:.3f} s, gguf-py {time.perf_counter() - start:.3f} s")
