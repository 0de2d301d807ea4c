"""A recipe's model by its name on a hub: nothing is downloaded to look at it, and its manifest pins the commit."""

import json
import shutil
from pathlib import Path

import pytest

from raq_client.files.manifest import file_digest
from raq_client.hub.download import find
from support.builds import recipe
from support.commands import client
from support.fake_hub import Hub, Repo
from support.gguf_files import small_model

NAME = "hf:org/small"


@pytest.fixture
def folder(hub: Hub, tmp_path: Path) -> Path:
    """A folder with a recipe of a model that the hub has."""
    folder = tmp_path / "project"
    folder.mkdir()
    data = small_model(tmp_path / "small-F16.gguf").read_bytes()
    hub.repos["org/small"] = Repo({"small-F16.gguf": data})
    return folder


def test_a_model_of_a_hub_is_pinned_by_the_manifest_and_replayed_elsewhere(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    path, where = recipe(folder, model=NAME, imatrix=None), ("--store", tmp_path / "store")
    shown = client("recipe", "show", path, *where)
    assert "is not downloaded yet" in shown.err
    pinned = f"{NAME}@{hub.repos['org/small'].sha}:small-F16.gguf"
    verified = client("recipe", "verify", path, *where, "--json")
    texts = {one["what"]: one["text"] for one in verified.json["findings"]}
    assert verified.code == 0
    assert f'pin it: model = "{pinned}"' in texts[NAME] or "is not downloaded yet" in texts[NAME]
    assert not [one for one in hub.sent("/store/") if one[0] == "GET"], "looking downloads nothing"
    built = client("recipe", "build", path, *where, "--threads", 1)
    assert built.code == 0, built.err
    manifest = folder / "small.out.gguf.manifest.json"
    data = json.loads(manifest.read_text())
    assert data["recipe"]["model"] == pinned
    assert list(data["origins"].values()) == [pinned]
    assert set(data["origins"]) == set(data["inputs"])
    plain = recipe(folder, "plain", model=str(tmp_path / "small-F16.gguf"), imatrix=None, name="small")
    assert client("recipe", "build", plain, *where).code == 0
    assert file_digest(folder / "plain.out.gguf") == file_digest(folder / "small.out.gguf"), "a name changes no byte"
    shutil.copytree(folder, tmp_path / "elsewhere" / "deep")
    find.cache_clear()
    replayed = client("recipe", "replay", tmp_path / "elsewhere" / "deep" / manifest.name, "--json")
    assert (replayed.code, replayed.json["equal"]) == (0, True)


def test_a_name_at_a_commit_needs_no_pin(hub: Hub, folder: Path, tmp_path: Path) -> None:
    named = f"{NAME}@{hub.repos['org/small'].sha}:small-F16.gguf"
    path = recipe(folder, model=named, imatrix=None)
    found = client("recipe", "verify", path, "--store", tmp_path / "s", "--json").json["findings"]
    assert found[0] == {"what": named, "level": "ok", "text": "is named at a commit"}
