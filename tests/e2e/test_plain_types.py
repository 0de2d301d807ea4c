"""A model with a routing table of whole numbers goes all the way: nothing can be quantized to I32, and nothing is."""

from pathlib import Path

import pytest

from support.commands import client
from support.gguf_files import Reader, small_model

TABLE = "blk.0.ffn_gate_tid2eid.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return small_model(tmp_path / "small.gguf")


def test_profile_solve_and_quantize(model: Path, tmp_path: Path) -> None:
    profile, plan, lines, out = (tmp_path / name for name in ("p.json", "plan.json", "types.txt", "out.gguf"))
    assert client("profile", model, "-o", profile, "--no-cache").code == 0
    solved = client("solve", "-p", profile, "-b", "6", "--json")
    assert solved.code == 0, solved.err
    assert solved.json["allocation"][TABLE] == "I32"
    assert set(solved.json["allocation"].values()) > {"I32"}
    plan.write_text(solved.out)
    written = client("solve", "-p", profile, "-b", "6", "--format", "llama.cpp")
    assert TABLE not in written.out
    lines.write_text(written.out)
    for allocation in (plan, lines):
        assert client("quantize", model, "-a", allocation, "-o", out, "--force").code == 0
        types = {tensor.name: tensor.tensor_type.name for tensor in Reader(out).tensors}
        assert types == solved.json["allocation"]


def test_bases_leave_it_alone(model: Path, tmp_path: Path) -> None:
    found = client("base", "Q4_K_M", model, "--json").json
    assert found["allocation"][TABLE] == "I32"
    solved = client("solve", "-m", model, "--base", "Q4_K_M", "--plot", tmp_path / "moves.png", "--json")
    assert solved.code == 0, solved.err
    assert solved.json["capacity_bytes"] == found["bytes"]
