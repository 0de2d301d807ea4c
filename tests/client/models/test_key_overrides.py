"""Metadata as users override it, through to the written file."""

from pathlib import Path

import gguf
import pytest

from raq_client.models.key_overrides import key_overrides
from raq_solver.errors import InvalidInput
from support.commands import client

GOOD = ("general.name=str:a=b: c", "llama.rope.freq_base=float:5e5", "x.on=bool:true", "llama.context_length=int:4096")


def test_types_are_those_of_llama_quantize(model_path: Path, tmp_path: Path) -> None:
    types, out = tmp_path / "types.txt", tmp_path / "out.gguf"
    types.write_text("attn_q=q8_0\n")
    flags = [word for text in GOOD for word in ("--override-kv", text)]
    result = client("quantize", model_path, "-a", types, "-o", out, *flags)
    assert result.code == 0, result.err
    fields = gguf.GGUFReader(out).fields
    kind = gguf.GGUFValueType
    expected = {
        "general.name": ("a=b: c", kind.STRING),
        "llama.rope.freq_base": (5e5, kind.FLOAT32),
        "x.on": (True, kind.BOOL),
        "llama.context_length": (4096, kind.UINT32),
    }
    assert {key: (fields[key].contents(), fields[key].types[0]) for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("general.name=Mine", "write KEY=TYPE:VALUE"),
        ("=str:x", "write KEY=TYPE:VALUE"),
        ("a=int:-1", "must be from 0 to 2"),
        ("a=int:1.5", "'1.5' is not of the type int"),
        ("a=float:nan", "must be finite"),
        ("a=bool:yes", "must be true or false"),
        ("general.alignment=int:8", "can't be overridden"),
        ("split.count=int:3", "can't be overridden"),
    ],
)
def test_what_is_none_is_named(text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        key_overrides([text, "b=oops:1"])
    assert [fault.where for fault in refused.value.faults] == [text, "b=oops:1"]
    assert why in refused.value.faults[0].what


def test_a_model_is_known_by_its_first_bytes_whatever_its_name(model_path: Path, tmp_path: Path) -> None:
    blob, upper = tmp_path / "sha256-4f2a", tmp_path / "MODEL.GGUF"
    for path in (blob, upper):
        path.symlink_to(model_path)
        for command in (("base", "Q4_K_M", path), ("base", path, model_path)):
            result = client(*command)
            assert result.code == 0, (command, result.err)
        assert client("audit", path, model_path, "--types", "Q4_K,F16", "--json").code == 0
