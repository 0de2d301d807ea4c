"""Spliced files: chosen tensors are the donor's bytes, all else the base's, and the header says so."""

from pathlib import Path

import gguf
import numpy as np
import pytest

import raq_native
from raq_client.building.splice import LOSSY, Take, parse_take, splice
from raq_client.files.manifest import file_digest
from raq_client.models.model_file import ModelFile, open_model
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_solver.allocation import Allocation
from raq_solver.errors import InvalidInput
from support.gguf_files import Reader, small_model, write


def _quantized(source: Path, out: Path, quant_type: str) -> Path:
    model = open_model(source)
    types = {
        tensor.name: quant_type if len(tensor.shape) > 1 and "tid2eid" not in tensor.name else tensor.source_type.name
        for tensor in model.tensors
    }
    quantize_model(Quantization(model, Allocation(types), out, metadata={"raq.recipe": out.stem}))
    return out


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A model as F16, Q4_K and Q8_0."""
    source = small_model(tmp_path / "f16.gguf")
    return source, _quantized(source, tmp_path / "q4.gguf", "Q4_K"), _quantized(source, tmp_path / "q8.gguf", "Q8_0")


def _data(path: Path) -> dict[str, tuple[str, bytes]]:
    """Types and bytes, read by gguf-py."""
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in Reader(path).tensors}


def test_tensors_are_the_donors_bytes_and_the_rest_the_bases(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, base, donor = files
    found = splice(base, [Take("blk.1.*", donor), Take("output.weight", files[0])], tmp_path / "out.gguf")
    ours, of_base, of_donor, of_source = (_data(path) for path in (tmp_path / "out.gguf", base, donor, files[0]))
    for name, data in ours.items():
        expected = of_donor if name.startswith("blk.1.") else of_source if name == "output.weight" else of_base
        assert data == expected[name]
    assert list(ours) == list(of_base)
    assert found.taken[donor] == ("blk.1.attn_norm.weight", "blk.1.attn_q.weight")
    assert found.lossy == ()
    assert found.written.sha256 == file_digest(tmp_path / "out.gguf")


def test_the_header_has_the_provenance_of_base_and_donors(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, base, donor = files
    splice(base, [Take("blk.1.attn_q.weight", donor)], tmp_path / "out.gguf")
    found = open_model(tmp_path / "out.gguf")
    assert found.value("raq.splice.base") == f"q4.gguf sha256:{file_digest(base)}"
    assert found.value("raq.splice.donor.0") == f"q8.gguf sha256:{file_digest(donor)}"
    assert found.value("raq.splice.donor.0.tensors") == ["blk.1.attn_q.weight=Q8_0"]
    assert found.value("raq.splice.donor.0.raq.recipe") == "q8"
    assert found.value("raq.recipe") == "q4"
    assert found.value("general.name") == "small"


def test_of_two_takes_the_last_counts(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    source, base, donor = files
    splice(base, [Take("blk.*", donor), Take("blk.0.attn_q.weight", source)], tmp_path / "out.gguf")
    assert _data(tmp_path / "out.gguf")["blk.0.attn_q.weight"] == _data(source)["blk.0.attn_q.weight"]


def test_a_tensor_quantized_again_is_marked_if_its_donor_was_quantized(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    source, base, donor = files
    takes = [Take("blk.0.attn_q.weight", donor, "Q6_K"), Take("blk.1.attn_q.weight", source, "Q6_K")]
    found = splice(base, takes, tmp_path / "out.gguf")
    assert found.lossy == ("blk.0.attn_q.weight",)
    written = open_model(tmp_path / "out.gguf")
    assert written.value(LOSSY) == ["blk.0.attn_q.weight"]
    model = open_model(donor)
    weights = np.ascontiguousarray(model.weights(model.tensor("blk.0.attn_q.weight")))
    expected = raq_native.quantize("Q6_K", weights, None)
    assert _data(tmp_path / "out.gguf")["blk.0.attn_q.weight"] == ("Q6_K", expected.tobytes())
    # The mark goes where the tensor goes, and is left behind with it.
    again = splice(base, [Take("blk.0.*", tmp_path / "out.gguf")], tmp_path / "again.gguf")
    assert again.lossy == ("blk.0.attn_q.weight",)
    assert splice(tmp_path / "out.gguf", [Take("blk.0.*", base)], tmp_path / "clean.gguf").lossy == ()


def _with(path: Path, architecture: str = "llama", rows: int = 128, tokens: tuple[str, ...] = ("a", "b")) -> ModelFile:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(list(tokens))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((rows, 256), np.float16))
    if rows != 64:
        writer.add_tensor("blk.0.attn_k.weight", np.zeros((128, 256), np.float16))
    write(writer)
    return open_model(path)


@pytest.mark.parametrize(
    ("donor", "words"),
    [
        ({"architecture": "qwen2"}, "is of the architecture qwen2, the base of llama"),
        ({"tokens": ("a", "c")}, "has another vocabulary than the base"),
        ({"rows": 256}, "has blk.0.attn_q.weight as 256×256, the base as 256×128"),
        ({"rows": 64}, "has no tensor blk.0.attn_k.weight"),
    ],
)
def test_files_of_other_models_are_refused_in_one_sentence(
    tmp_path: Path, donor: dict[str, object], words: str
) -> None:
    _with(tmp_path / "base.gguf")
    _with(tmp_path / "donor.gguf", **donor)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput) as refused:
        splice(tmp_path / "base.gguf", [Take("blk.0.*", tmp_path / "donor.gguf")], tmp_path / "out.gguf")
    assert words in str(refused.value)
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("quant_type", "words"),
    [("IQ2_XXS", "needs importance"), ("IQ1_S", "needs importance")],
)
def test_types_that_a_tensor_cannot_have_are_refused(
    files: tuple[Path, Path, Path], tmp_path: Path, quant_type: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        splice(files[1], [Take("blk.0.*", files[0], quant_type)], tmp_path / "out.gguf")
    with pytest.raises(InvalidInput, match=r"blk\.7\.\* matches no tensor"):
        splice(files[1], [Take("blk.7.*", files[0])], tmp_path / "out.gguf")


def test_takes_are_parsed(tmp_path: Path) -> None:
    assert parse_take("blk.*=a.gguf") == Take("blk.*", Path("a.gguf"))
    assert parse_take("blk.*=a.gguf:q6_k") == Take("blk.*", Path("a.gguf"), "Q6_K")
    odd = tmp_path / "a:Q6_K"
    odd.touch()
    assert parse_take(f"x={odd}") == Take("x", odd)
    for text in ("blk.*", "=a", "x=", "x=a:Q6"):
        with pytest.raises(InvalidInput):
            parse_take(text)
