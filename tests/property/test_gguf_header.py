"""Laws of reading and writing GGUF headers; gguf-py is the witness."""

import struct
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raq_client.importance.imatrix_file import read_importance
from raq_client.models.gguf_header import StoredValue, TensorInfo, Value, encode_header, parse_header, stored
from raq_client.models.model_file import open_model
from raq_solver.errors import InvalidInput
from support.gguf_files import MODEL_4M, write
from support.paths import DATA

SETTINGS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
HEADER = MODEL_4M.read_bytes()[:131_392]
DAT = (DATA / "wiki-math-4M.gsm8k.imatrix.dat").read_bytes()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values: st.SearchStrategy[Value] = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(width=32, allow_nan=False),
    texts,
    st.lists(texts, max_size=4),
)
metadata = st.dictionaries(texts.filter(bool), values, max_size=6)
infos = st.lists(
    st.builds(
        TensorInfo,
        name=texts.filter(bool),
        shape=st.lists(st.integers(1, 2**40), min_size=1, max_size=4).map(tuple),
        ggml_id=st.integers(0, 2**32 - 1),
        offset=st.integers(0, 2**50),
    ),
    unique_by=lambda info: info.name,
    max_size=4,
).map(tuple)


@given(metadata, infos, st.sampled_from([8, 32, 4096]))
def test_what_is_written_is_read(keys: dict[str, Value], tensors: tuple[TensorInfo, ...], alignment: int) -> None:
    keys = {"general.alignment": alignment} | keys
    header = encode_header({key: stored(value) for key, value in keys.items()}, tensors, alignment)
    parsed = parse_header(header, "test")
    assert {key: value.decode() for key, value in parsed.metadata.items()} == keys
    assert parsed.tensors == tensors
    assert (parsed.alignment, parsed.data_start) == (alignment, len(header))
    assert encode_header(parsed.metadata, parsed.tensors, alignment) == header


@SETTINGS
@given(keys=metadata)
def test_gguf_py_reads_what_raq_writes(keys: dict[str, Value], tmp_path: Path) -> None:
    path = tmp_path / "keys.gguf"
    path.write_bytes(encode_header({key: stored(value) for key, value in keys.items()}, (), 32))
    reader = gguf.GGUFReader(path)
    for key, value in keys.items():
        field = reader.get_field(key)
        assert field is not None
        # gguf-py gives nothing for an array without items.
        assert field.contents() == value or value == []


@SETTINGS
@given(
    integers=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5),
    fractions=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5),
    words=st.lists(texts, min_size=1, max_size=5),
)
def test_raq_reads_what_gguf_py_writes(
    integers: list[int], fractions: list[float], words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "keys.gguf"
    writer = gguf.GGUFWriter(path, "any")
    writer.add_array("integers", integers)
    writer.add_array("fractions", fractions)
    writer.add_array("words", words)
    writer.add_tensor("one.weight", np.zeros(4, np.float32))
    write(writer)
    model = open_model(path)
    assert (model.value("integers"), model.value("fractions"), model.value("words")) == (integers, fractions, words)


@SETTINGS
@given(
    cuts=st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=9)), max_size=4),
    length=st.integers(0, len(HEADER)) | st.just(len(HEADER)),
)
@example(cuts=[(0, b"GGUF")], length=len(HEADER))
def test_a_damaged_model_is_refused_or_read_but_never_crashes(
    cuts: list[tuple[int, bytes]], length: int, tmp_path: Path
) -> None:
    data = bytearray(HEADER)
    for place, junk in cuts:
        data[place : place + len(junk)] = junk
    path = tmp_path / "damaged.gguf"
    path.write_bytes(bytes(data[:length]))
    with suppress(InvalidInput):
        open_model(path, header_only=True)


@SETTINGS
@given(
    cuts=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=9)), max_size=3),
    length=st.integers(0, len(DAT)) | st.just(len(DAT)),
)
def test_a_damaged_importance_is_refused_or_read_but_never_crashes(
    cuts: list[tuple[int, bytes]], length: int, tmp_path: Path
) -> None:
    data = bytearray(DAT)
    for place, junk in cuts:
        data[place : place + len(junk)] = junk
    path = tmp_path / "damaged.dat"
    path.write_bytes(bytes(data[:length]))
    with suppress(InvalidInput):
        read_importance(path)


def test_arrays_of_arrays_are_kept_and_depth_is_bounded() -> None:
    inner = struct.pack("<IQ2i", 5, 2, 7, -7)
    nested = StoredValue(9, struct.pack("<IQ", 9, 2) + inner + inner)
    parsed = parse_header(encode_header({"nested": nested}, (), 32), "test")
    assert parsed.metadata["nested"].decode() == [[7, -7], [7, -7]]
    deep = StoredValue(9, struct.pack("<IQ", 9, 1) * 5000)
    with pytest.raises(InvalidInput, match="damaged"):
        parse_header(encode_header({"deep": deep}, (), 32), "test")


@pytest.mark.parametrize("count", [2**31, 2**63, 2**64 - 1])
def test_impossible_counts_end_quickly(count: int) -> None:
    for fields in ((count, 0), (0, count)):
        with pytest.raises(InvalidInput, match="damaged"):
            parse_header(b"GGUF" + struct.pack("<IQQ", 3, *fields) + bytes(64), "test")
    for item_type in (4, 8, 9):
        value = StoredValue(9, struct.pack("<IQ", item_type, count))
        with pytest.raises(InvalidInput, match="damaged"):
            parse_header(encode_header({"huge": value}, (), 32), "test")
