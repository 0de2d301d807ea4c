"""Models of a hub: planning reads headers, weights come whole or not at all, and every fault is one sentence."""

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from raq_client.hub.download import find
from raq_client.hub.names import origin_of
from raq_client.models.model_file import open_model
from raq_client.models.read_table import read_table
from raq_client.models.sources import local_model
from raq_solver.errors import InvalidInput
from support.commands import client
from support.fake_hub import Hub, Repo
from support.gguf_files import MODEL_4M, split_model
from support.paths import DATA as DATA_FOLDER

DATA = MODEL_4M.read_bytes()
NAME = "hf:org/tiny"


@pytest.fixture
def repo(hub: Hub) -> Repo:
    hub.repos["org/tiny"] = Repo(
        {"README.md": b"# tiny", "tiny-F16.gguf": DATA, "config.json": b"{}"}, token="hf_right"
    )
    return hub.repos["org/tiny"]


def test_a_table_is_read_from_the_header_alone(hub: Hub, repo: Repo) -> None:
    table, local = read_table(f"{NAME}:F16"), read_table(MODEL_4M)
    assert (table.name, table.architecture, table.tensors) == (local.name, local.architecture, local.tensors)
    assert table.metadata == local.metadata
    gets = [one for one in hub.sent("/store/") if one[0] == "GET"]
    assert [one[2] for one in gets] == ["bytes=0-1048575"]
    assert client("base", "Q4_K_M", NAME).code == 0


def test_weights_come_by_the_hubs_cache_at_one_commit(hub: Hub, repo: Repo) -> None:
    path = local_model(NAME)
    assert path.read_bytes() == DATA
    assert origin_of(path) == f"{NAME}@{repo.sha}:tiny-F16.gguf"
    asked = len(hub.requests)
    find.cache_clear()
    assert open_model(NAME).tensors == open_model(MODEL_4M).tensors
    assert {one[1] for one in hub.requests[asked:]} == {"/api/models/org/tiny"}, "the file itself was asked for again"


def test_a_commit_that_was_named_stays_the_one_that_is_read(hub: Hub, repo: Repo) -> None:
    before = repo.sha
    assert find_sha(f"{NAME}@{before}:F16") == before
    repo.files["tiny-F16.gguf"] = DATA + b"more"
    with pytest.raises(InvalidInput, match="no such revision"):
        local_model(f"{NAME}@{before}:F16")


def find_sha(name: str) -> str:
    from raq_client.hub.names import parse_hub_name

    return find(parse_hub_name(name)).sha


def test_shards_come_together(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    shards = split_model(tmp_path / "shards")
    hub.repos["org/big"] = Repo({f"F16/{shard.name}": shard.read_bytes() for shard in shards})
    expected = open_model(shards[0]).tensors
    assert read_table("hf:org/big").tensors == expected
    assert open_model("hf:org/big").tensors == expected


def test_the_token_goes_to_the_hub_only(hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.gated = True
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert read_table(NAME).architecture == "llama"
    assert local_model(NAME).read_bytes() == DATA
    assert hub.tokens_at_store == []


def test_without_network_the_cache_serves(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    local_model(NAME)
    code = (
        "import sys; from raq_client.models.sources import local_model\n"
        "from raq_solver.errors import InvalidInput\n"
        "print(local_model('hf:org/tiny'))\n"
        "try: local_model('hf:org/other')\n"
        "except InvalidInput as error: print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    asked = len(hub.requests)
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert Path(shown[0]).read_bytes() == DATA
    assert "HF_HUB_OFFLINE" in shown[1]
    assert len(hub.requests) == asked


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_one_sentence(hub: Hub, repo: Repo, status: int) -> None:
    hub.fault = lambda _method, path: status if path.startswith("/api") else None
    assert re.fullmatch(rf"hf:org/tiny: the hub answers {status} \(.*\); .*", sentence(NAME))


def test_who_may_not_read_is_told_why(hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.gated = True
    assert "is gated; accept its terms" in sentence(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept the token (401)" in sentence(NAME)
    monkeypatch.delenv("HF_TOKEN")
    assert "no such repository, or it is private" in sentence("hf:org/none")


def test_what_is_gone_is_named(hub: Hub, repo: Repo) -> None:
    assert "no such revision" in sentence(f"{NAME}@v9")
    assert "no file other.gguf" in sentence(f"{NAME}:other.gguf")
    hub.repos["org/texts"] = Repo({"README.md": b""})
    assert "neither GGUF nor safetensors" in sentence("hf:org/texts")


def test_a_cut_download_resumes_where_it_was_cut(hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # usually larger than this model
    cuts = iter([100_000])
    hub.cut = lambda path: next(cuts, None) if path.startswith("/store") else None
    assert local_model(NAME).read_bytes() == DATA
    ranges = [one[2] for one in hub.sent("/store/") if one[0] == "GET"]
    assert ranges[0] is None
    assert ranges[1] is not None
    assert ranges[1].startswith("bytes=")
    assert ranges[1] != "bytes=0-"


def test_a_download_that_is_cut_every_time_says_so(hub: Hub, repo: Repo) -> None:
    hub.cut = lambda path: 100 if path.startswith("/store") else None
    assert "the connection was cut" in sentence(NAME)
    hub.cut = lambda _path: None
    assert local_model(NAME).read_bytes() == DATA


def test_damaged_bytes_are_refused_and_removed(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    hub.damage = True
    assert "arrived damaged" in sentence(NAME)
    assert not list((tmp_path / "hub").rglob("*.gguf"))
    hub.damage = False
    assert local_model(NAME).read_bytes() == DATA


def test_no_network_is_one_sentence(hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "can't be reached" in sentence(NAME)


def test_a_command_ends_with_2_and_writes_nothing(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    hub.fault = lambda _method, _path: 503
    found = client("run", NAME, "-b", "5.0", "-o", tmp_path / "out.gguf")
    assert found.code == 2
    assert "503" in found.err
    assert len(found.err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*out.gguf*"))


def test_a_model_by_name_is_quantized_as_the_file_is(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    allocation = tmp_path / "a.txt"
    allocation.write_text(
        "".join(f"^{re.escape(t.name)}$=Q8_0\n" for t in open_model(MODEL_4M).tensors if len(t.shape) > 1)
    )
    for model, out in ((NAME, "named.gguf"), (MODEL_4M, "file.gguf")):
        found = client("quantize", model, "-a", allocation, "-o", tmp_path / out)
        assert found.code == 0, found.err
    assert (tmp_path / "named.gguf").read_bytes() == (tmp_path / "file.gguf").read_bytes()
    shutil.rmtree(tmp_path / "hub")


def test_the_manifest_pins_the_commit(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    written = tmp_path / "m.json"
    found = client("run", NAME, "-b", "9", "--types", "Q8_0,F16", "-o", tmp_path / "o.gguf", "--manifest", written)
    assert found.code == 0, found.err
    assert list(json.loads(written.read_text())["origins"].values()) == [f"{NAME}@{repo.sha}:tiny-F16.gguf"]


def test_a_repository_of_safetensors_is_converted(hub: Hub, tmp_path: Path) -> None:
    folder = DATA_FOLDER / "conversion" / "qwen3"
    hub.repos["org/safe"] = Repo({path.name: path.read_bytes() for path in folder.iterdir()} | {"x.bin": b"x"})
    model = open_model("hf:org/safe")
    assert model.name == "org/safe"
    assert model.tensors == open_model(folder).tensors
    assert not hub.sent("x.bin")
    assert model.path.is_relative_to(tmp_path / "cache" / "raq" / "converted")


def test_a_full_disk_is_said_and_the_command_can_be_run_again(
    hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import file_download

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _folder: usage(free=len(DATA) - 1))
        needed = f"{len(DATA):,} bytes are needed, {len(DATA) - 1:,} are free"
        assert f"no room on the disk of the hub's cache: {needed}; free some, or set HF_HOME" in sentence(NAME)
    assert not [one for one in hub.sent("/store/") if one[0] == "GET"]
    with monkeypatch.context() as patched:
        patched.setattr(file_download, "http_get", full)
        assert "no room on the disk of the hub's cache; free some, or set HF_HOME" in sentence(NAME)
    assert local_model(NAME).read_bytes() == DATA


def test_a_repository_that_lacks_a_shard_is_refused_before_any_download(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    first, second, *others = split_model(tmp_path / "shards")
    hub.repos["org/big"] = Repo({shard.name: shard.read_bytes() for shard in (first, *others)})
    for name in ("hf:org/big", f"hf:org/big:{first.name}"):
        assert f"lacks 1 of {2 + len(others)} shards: {second.name}" in sentence(name)
    assert not hub.sent("/resolve/")
    folder = DATA_FOLDER / "conversion" / "qwen3"
    safe = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repos["org/safe"] = Repo({name: data for name, data in safe.items() if "00002-of" not in name})
    assert "hf:org/safe: model-00002-of-00002.safetensors: holds tensors of the index" in sentence("hf:org/safe")
    assert not hub.sent("00001-of")


def test_an_architecture_that_is_not_converted_is_refused_before_its_weights(hub: Hub) -> None:
    folder = DATA_FOLDER / "conversion" / "llama-bpe"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for changed in ({"model_type": "mamba2"}, {"quantization_config": {"quant_method": "gptq"}}):
        config = json.dumps(json.loads(files["config.json"]) | changed).encode()
        hub.repos["org/other"] = Repo(files | {"config.json": config})
        said = sentence("hf:org/other")
        assert said.startswith("hf:org/other: ")
        assert "convert_hf_to_gguf.py" in said
    assert not hub.sent("model.safetensors")


def usage(free: int) -> SimpleNamespace:
    """What shutil.disk_usage answers of a disk with that many bytes free."""
    return SimpleNamespace(total=2**40, used=2**40 - free, free=free)


def sentence(name: str) -> str:
    find.cache_clear()
    with pytest.raises(InvalidInput) as error:
        local_model(name)
    (fault,) = error.value.faults
    assert "\n" not in str(fault)
    return str(fault)
