"""A budget that is a size is the size of the file."""

from pathlib import Path

import pytest

from raq_client.models.model_file import open_model
from raq_client.models.overhead import most_overhead
from raq_client.models.writer import file_size
from raq_client.planning.size_budget import parse_size_budget
from raq_solver.budget import BitsPerWeight, TotalBytes
from raq_solver.errors import InvalidInput
from support.commands import client
from support.gguf_files import Reader, small_model


def test_what_else_the_file_holds_is_subtracted_once() -> None:
    assert parse_size_budget("190MB", 6_500_000) == TotalBytes(183_500_000)
    assert parse_size_budget("190MB", 0) == TotalBytes(190_000_000)
    assert isinstance(parse_size_budget("5.7", 6_500_000), BitsPerWeight)
    assert parse_size_budget("2.8M", 0) == TotalBytes(int(2.8 * 2**20))
    assert parse_size_budget("24G", 0) == TotalBytes(24 * 2**30)
    with pytest.raises(InvalidInput, match="1MB: the file needs up to 6,500,000 bytes for its metadata alone"):
        parse_size_budget("1MB", 6_500_000)


def test_no_file_has_more_than_the_overhead_beside_its_tensors(model_path: Path, tmp_path: Path) -> None:
    for model in (open_model(model_path), open_model(small_model(tmp_path / "odd.gguf", alignment=128))):
        size = sum(tensor.size for tensor in model.tensors)
        beside = file_size(model, {}, {"raq.text": "x" * 4_000}) - size
        assert beside <= most_overhead(model) <= beside + 16_384


@pytest.mark.parametrize("budget", ["3MB", "2.8M"])
def test_the_written_file_is_not_larger_than_the_budget(
    budget: str, model_path: Path, imatrix_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.gguf"
    arguments = ("run", model_path, "-b", budget, "-i", imatrix_path, "--types", "Q4_K,Q5_K,Q6_K,Q8_0", "-o", out)
    result = client(*arguments)
    assert result.code == 0, result.err
    most = {"3MB": 3_000_000, "2.8M": int(2.8 * 2**20)}[budget]
    assert 0.98 * most < out.stat().st_size <= most
    assert f"note: of {most:,} bytes of the file, up to " in result.err
    assert len(Reader(out).tensors) == 39


def test_a_saved_profile_knows_what_else_its_files_hold(model_path: Path, tmp_path: Path) -> None:
    saved = tmp_path / "model.profile.json"
    assert client("profile", model_path, "--types", "Q4_K,Q8_0", "-o", saved).code == 0
    by_model = client("solve", "-m", model_path, "--types", "Q4_K,Q8_0", "-b", "3MB", "--json").json
    by_profile = client("solve", "-p", saved, "-b", "3MB", "--json").json
    assert by_profile["capacity_bytes"] == by_model["capacity_bytes"] < 3_000_000 - 100_000
