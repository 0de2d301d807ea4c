"""Measured errors are those of the file that would be written; profiles survive the disk."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client.files.profile_file import load_profile, save_profile
from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.quantizable import is_quantizable
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.quantizing.rounding import Rounding
from raq_solver.allocation import Allocation
from raq_solver.errors import InvalidInput
from support.gguf_files import Reader, small_model


def test_errors_are_those_of_the_written_file(tmp_path: Path, model_path: Path, imatrix_path: Path) -> None:
    model, importance = open_model(model_path), read_importance(imatrix_path)
    profile = measure_profile(model, importance, chosen_types(("Q3_K",)))
    types = {t.name: "Q3_K" if is_quantizable(t) else t.source_type.name for t in model.tensors}
    quantize_model(Quantization(model, Allocation(types), tmp_path / "out.gguf", Rounding(importance)))
    written = {tensor.name: tensor for tensor in Reader(tmp_path / "out.gguf").tensors}
    column = [q.name for q in profile.quant_types].index("Q3_K")
    for row in (0, 3, 9):
        tensor = profile.tensors[row]
        original = model.weights(tensor).astype(np.float64)
        restored = gguf.dequantize(written[tensor.name].data, written[tensor.name].tensor_type).astype(np.float64)
        columns = importance.rows(tensor)
        h = np.ones(tensor.row_length) if columns is None else columns[0].astype(np.float64)
        expected = (h * (original - restored) ** 2).sum() / (h * original**2).sum()
        assert profile.relative_errors[row, column] == pytest.approx(expected, rel=1e-6)
        assert profile.energies[row] == pytest.approx((h * original**2).sum(), rel=1e-6)


def test_each_expert_counts_by_its_own_importance(tmp_path: Path) -> None:
    model = open_model(small_model(tmp_path / "m.gguf"))
    tensor = model.tensor("blk.0.ffn_down_exps.weight")
    sums = np.zeros((3, 256), np.float32)
    sums[1] = 4.0  # only the second expert was ever reached
    importance = Importance({tensor.name: Entry(sums.ravel(), np.array([0, 2, 0], np.float32))})
    profile = measure_profile(model, importance, chosen_types(("Q4_0",)))
    row = [t.name for t in profile.tensors].index(tensor.name)
    # Unknown experts get the mean of the known: here 2 everywhere, so the energy is 2 Σ W².
    assert profile.energies[row] == pytest.approx(2 * (model.weights(tensor).astype(np.float64) ** 2).sum(), rel=1e-6)


def test_types_that_do_not_fit_are_replaced_before_solving(tmp_path: Path) -> None:
    path = tmp_path / "narrow.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, width in (("blk.0.attn_q.weight", 96), ("blk.0.attn_k.weight", 50)):
        writer.add_tensor(name, np.random.default_rng(0).normal(size=(8, width)).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    profile = measure_profile(open_model(path), None, chosen_types(("k",)))
    names = [q.name for q in profile.quant_types]
    offered = [{names[i] for i in np.flatnonzero(np.isfinite(row))} for row in profile.relative_errors]
    assert offered == [{"F16", "Q8_0", "Q5_1", "Q5_0", "Q4_0"}, {"F16"}]


def test_profiles_there_and_back(tmp_path: Path, model_path: Path, imatrix_path: Path) -> None:
    profile = measure_profile(open_model(model_path), read_importance(imatrix_path), chosen_types(("Q8_0", "Q4_0")))
    path = tmp_path / "p.json"
    save_profile(profile, path)
    assert load_profile(path).digest() == profile.digest()
    with pytest.raises(InvalidInput, match="--force"):
        save_profile(profile, path)


def test_every_fault_of_a_profile_is_named(tmp_path: Path, model_path: Path) -> None:
    path = tmp_path / "p.json"
    save_profile(measure_profile(open_model(model_path), None, chosen_types(("Q8_0",))), path)
    content = json.loads(path.read_text())
    content["tensors"][0]["energy"] = -1
    content["tensors"][1]["shape"] = [0]
    content["extra"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidInput) as caught:
        load_profile(path)
    text = str(caught.value)
    for part in ("tensors.0.energy", "tensors.1.shape", "extra"):
        assert part in text
    path.write_text("{")
    with pytest.raises(InvalidInput, match="not a raq profile"):
        load_profile(path)
    with pytest.raises(InvalidInput, match="can't be read"):
        load_profile(tmp_path / "none.json")
