import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

import raq_native
from raq_client.curvature.information import Fisher
from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import ModelFile, open_model, row_chunks
from raq_client.models.quantizable import is_quantizable
from raq_client.quantizing.quantize import Quantization, quantize_model, resolved_types
from raq_client.quantizing.rounding import Rounding
from raq_solver.allocation import Allocation
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor
from support.gguf_files import MODEL_4M, Reader, small_model, split_model, write
from support.paths import DATA

IMATRIX = DATA / "wiki-math-4M.gsm8k.imatrix.gguf"
SMALL_TYPES = {"token_embd": "Q8_0", "attn_q": "Q4_K", "ffn_down_exps": "Q6_K", "output": "F16"}


def _allocation(model: ModelFile, **types: str) -> Allocation:
    """The named type where a quantizable tensor's name contains the key, else what it has."""
    return Allocation(
        {
            tensor.name: next((t for part, t in types.items() if part in tensor.name), tensor.source_type.name)
            if is_quantizable(tensor)
            else tensor.source_type.name
            for tensor in model.tensors
        }
    )


def test_every_tensor_holds_what_the_kernels_make_of_it(tmp_path: Path) -> None:
    model, importance = open_model(MODEL_4M), read_importance(IMATRIX)
    allocation = _allocation(model, attn_q="Q4_K", attn_k="Q8_0", ffn="Q3_K", token_embd="Q6_K", output="Q5_K")
    written = quantize_model(Quantization(model, allocation, tmp_path / "out.gguf", Rounding(importance, threads=2)))
    reader = Reader(written.path)
    for tensor, other in zip(model.tensors, reader.tensors, strict=True):
        assert other.tensor_type.name == allocation.types[tensor.name]
        rows = importance.rows(tensor)
        if other.tensor_type.name == tensor.source_type.name:
            expected = model.stored(tensor)
        else:
            columns = None if rows is None else rows[0]
            expected = raq_native.quantize(other.tensor_type.name, model.weights(tensor), columns, threads=1)
        assert other.data.tobytes() == expected.tobytes()
    assert written.tensor_bytes == sum(other.n_bytes for other in reader.tensors)


def test_the_file_says_what_llama_quantize_would_say(tmp_path: Path) -> None:
    model, importance = open_model(MODEL_4M), read_importance(IMATRIX)
    allocation = _allocation(model, weight="Q6_K")
    out = quantize_model(
        Quantization(model, allocation, tmp_path / "o.gguf", Rounding(importance), metadata={"raq.profile": "abc"})
    ).path
    written = open_model(out)
    values = {key: written.value(key) for key in written.metadata if key not in model.metadata}
    assert written.value("general.file_type") == 18
    assert values["general.quantization_version"] == 2
    assert values["quantize.imatrix.file"] == IMATRIX.name  # llama-quantize would write its folder too
    assert values["quantize.imatrix.dataset"] == "text/gsm8k.train.part.txt"
    assert values["quantize.imatrix.entries_count"] == 28
    assert values["quantize.imatrix.chunks_count"] == 100
    assert values["raq.importance.sha256"] == importance.digest()
    assert values["raq.profile"] == "abc"
    assert {key: written.value(key) for key in model.metadata if key != "general.file_type"} == {
        key: model.value(key) for key in model.metadata if key != "general.file_type"
    }


def test_each_expert_is_quantized_with_its_own_importance(tmp_path: Path) -> None:
    model = open_model(small_model(tmp_path / "in.gguf"))
    experts = model.tensor("blk.0.ffn_down_exps.weight")
    sums = np.maximum(np.random.default_rng(0).gamma(0.3, size=(3, 256)), 1e-4).astype(np.float32)
    importance = Importance({experts.name: Entry(sums.ravel(), np.array([1, 1, 1], np.float32))})
    out = quantize_model(
        Quantization(model, _allocation(model, **SMALL_TYPES), tmp_path / "out.gguf", Rounding(importance))
    ).path
    written = open_model(out)
    blocks = written.stored(written.tensor(experts.name)).reshape(3, 16, -1)
    weights = model.weights(experts).reshape(3, 16, 256)
    for matrix in range(3):
        np.testing.assert_array_equal(blocks[matrix], raq_native.quantize("Q6_K", weights[matrix], sums[matrix]))


def test_shards_are_quantized_into_one_file(tmp_path: Path) -> None:
    model = open_model(split_model(tmp_path)[1])
    out = quantize_model(Quantization(model, _allocation(model, weight="Q8_0"), tmp_path / "out.gguf")).path
    assert {tensor.source_type.name for tensor in open_model(out).tensors} == {"Q8_0"}


def test_a_quantized_model_can_be_quantized_again(tmp_path: Path) -> None:
    model = open_model(MODEL_4M)
    once = quantize_model(Quantization(model, _allocation(model, weight="Q6_K"), tmp_path / "once.gguf")).path
    middle = open_model(once)
    twice = quantize_model(Quantization(middle, _allocation(middle, attn="Q4_K"), tmp_path / "twice.gguf")).path
    tensor = middle.tensor("blk.0.attn_q.weight")
    expected = raq_native.quantize("Q4_K", middle.weights(tensor))
    assert open_model(twice).stored(open_model(twice).tensor(tensor.name)).tobytes() == expected.tobytes()


def test_a_file_made_of_a_quantized_one_does_not_claim_its_importance(tmp_path: Path) -> None:
    model, importance = open_model(MODEL_4M), read_importance(IMATRIX)
    once = quantize_model(
        Quantization(model, _allocation(model, weight="Q6_K"), tmp_path / "once.gguf", Rounding(importance))
    ).path
    middle = open_model(once)
    claimed = {key for key in middle.metadata if key.startswith(("quantize.", "raq."))}
    assert {"quantize.imatrix.file", "raq.importance.sha256"} <= claimed
    twice = open_model(
        quantize_model(Quantization(middle, _allocation(middle, attn="Q4_K"), tmp_path / "twice.gguf")).path
    )
    left = {key for key in twice.metadata if key.startswith(("quantize.", "raq."))}
    assert left == {"raq.version", "raq.allocation.sha256"}


def test_chunks_cover_every_row_once_and_stay_inside_a_matrix() -> None:
    tensor = Tensor("t", (100, 7, 3), CATALOGUE["F32"])
    for size in (1, 100, 250, 300, 10**6):
        chunks = list(row_chunks(tensor, size))
        assert [row for _, first, last in chunks for row in range(first, last)] == list(range(21))
        assert all(first // 7 == (last - 1) // 7 == matrix for matrix, first, last in chunks)
        assert all((last - first) * 100 <= max(size, 100) for _, first, last in chunks)


def test_every_impossible_tensor_is_named(tmp_path: Path) -> None:
    model = open_model(small_model(tmp_path / "in.gguf"))
    types = dict(_allocation(model, attn_q="IQ2_XXS").types)
    types |= {"blk.0.attn_norm.weight": "F16", "absent.weight": "Q8_0", "output.weight": "NVFP4"}
    del types["token_embd.weight"]
    with pytest.raises(InvalidInput) as error:
        quantize_model(Quantization(model, Allocation(types), tmp_path / "out.gguf"))
    assert {fault.where for fault in error.value.faults} >= {
        "blk.0.attn_norm.weight",
        "absent.weight",
        "token_embd.weight",
        "blk.0.attn_q.weight",
        "blk.1.attn_q.weight",
    }
    assert not (tmp_path / "out.gguf").exists()


def test_importance_is_asked_for_tensor_by_tensor(tmp_path: Path) -> None:
    model, known = open_model(MODEL_4M), read_importance(IMATRIX)
    missing = "blk.1.ffn_down.weight"
    partly = replace(known, entries={name: entry for name, entry in known.entries.items() if name != missing})
    types = _allocation(model, ffn_down="IQ2_S")
    with pytest.raises(InvalidInput) as error:
        resolved_types(model, types, partly)
    (fault,) = error.value.faults
    assert fault.where == missing
    assert re.fullmatch(r"IQ2_S needs importance, and .* has none of this tensor; collect .*", fault.what)
    assert resolved_types(model, types, known)
    fisher = Fisher(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))
    assert resolved_types(model, types, replace(partly, fisher={missing: fisher}, fisher_windows=1))


def test_a_vector_that_is_not_a_number_is_not_copied(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "nan.gguf", "llama")
    writer.add_tensor("rope_freqs.weight", np.array([1, np.inf], np.float32))
    writer.add_tensor("output_norm.weight", np.array([1, np.nan, 1], np.float32))
    write(writer)
    model = open_model(tmp_path / "nan.gguf")
    out = tmp_path / "out.gguf"
    with pytest.raises(InvalidInput, match=r"output_norm.weight: weight 1 of row 0 is nan; get the model file again"):
        quantize_model(Quantization(model, Allocation({tensor.name: "F32" for tensor in model.tensors}), out))
    assert not out.exists()


def test_a_weight_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nan.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    weights = np.zeros((4, 256), np.float32)
    weights[2, 7] = np.nan
    writer.add_tensor("blk.0.attn_q.weight", weights)
    write(writer)
    model = open_model(path)
    with pytest.raises(InvalidInput, match=r"blk\.0\.attn_q\.weight: weight 7 of row 2 is nan; .*damaged"):
        quantize_model(Quantization(model, _allocation(model, attn_q="Q4_K"), tmp_path / "out.gguf"))
    assert [file.name for file in tmp_path.iterdir()] == ["nan.gguf"]


def test_ctrl_c_leaves_no_half_file(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from raq_client.models.model_file import open_model\n"
        "from raq_client.quantizing.quantize import Quantization, quantize_model\n"
        "from raq_solver.allocation import Allocation\n"
        "model = open_model(sys.argv[1])\n"
        "types = Allocation({t.name: t.source_type.name for t in model.tensors})\n"
        "def slow(name, size):\n"
        "    print(name, flush=True)\n"
        "    time.sleep(30)\n"
        "quantize_model(Quantization(model, types, Path(sys.argv[2])), progress=slow)\n"
    )
    command = [sys.executable, "-c", script, str(MODEL_4M), str(tmp_path / "out.gguf")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "token_embd.weight\n"
        assert len(list(tmp_path.iterdir())) == 1
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) != 0
        assert time.monotonic() - start < 20
    assert list(tmp_path.iterdir()) == []
