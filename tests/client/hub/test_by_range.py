"""Parts of a model on a hub: nothing is downloaded, no token leaves the hub, and a copy in the cache is used."""

from pathlib import Path

import pytest

from raq_client.hub.download import find, is_downloaded
from raq_client.hub.names import parse_hub_name
from raq_client.models.model_file import open_model
from support.commands import client
from support.fake_hub import Hub, Repo
from support.gguf_files import small_model

NAME = "hf:org/repo:small.gguf"


@pytest.fixture
def model(hub: Hub, tmp_path: Path) -> Path:
    path = small_model(tmp_path / "small.gguf")
    hub.repos["org/repo"] = Repo({"small.gguf": path.read_bytes()})
    (tmp_path / "types.txt").write_text("^blk\\.\\d+\\.attn_q.weight$=Q4_K\n^output.weight$=Q6_K\n")
    return path


def test_parts_read_from_the_hub_and_from_its_cache_make_one_file(model: Path, hub: Hub, tmp_path: Path) -> None:
    options = ["-a", tmp_path / "types.txt"]
    whole, output = tmp_path / "whole.gguf", tmp_path / "parts.gguf"
    assert client("quantize", model, *options, "-o", whole).code == 0
    found = client("quantize", NAME, *options, "-o", output, "--index", 0, "--of", 2)
    assert found.code == 0, found.err
    assert not is_downloaded(find(parse_hub_name(NAME)))
    assert all(asked is not None for _, _, asked in hub.sent("/store/"))
    assert not hub.tokens_at_store
    assert open_model(NAME).path.is_file()  # the other machine has downloaded it
    before = len(hub.sent("/store/"))
    assert client("quantize", NAME, *options, "-o", output, "--index", 1, "--of", 2).code == 0
    merged = client("quantize", NAME, *options, "-o", output, "--merge")
    assert merged.code == 0, merged.err
    assert len(hub.sent("/store/")) == before
    assert output.read_bytes() == whole.read_bytes()


def test_faults_of_the_hub_are_tried_again(
    model: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("raq_client.models.ranges._sleep", waits.append)
    faults = [503, 502, 429]
    hub.fault = lambda method, path: faults.pop() if faults and "/store/" in path and method == "GET" else None
    output = tmp_path / "parts.gguf"
    found = client("quantize", NAME, "-a", tmp_path / "types.txt", "-o", output, "--index", 0, "--of", 1)
    assert found.code == 0, found.err
    assert len(waits) == 3
