"""From a model's name to a folder that can be uploaded: it names the commit that was read, and no local folder."""

import json
from pathlib import Path

import yaml

from support.commands import client
from support.fake_hub import Hub, Repo
from support.gguf_files import MODEL_4M


def test_the_card_names_the_repository_that_was_read(hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["org/tiny"] = Repo({"tiny-F16.gguf": MODEL_4M.read_bytes()})
    model, manifest = tmp_path / "tiny-Q4_K.gguf", tmp_path / "tiny.manifest.json"
    ran = client("run", "hf:org/tiny", "-b", "5.0", "--loss", "prior", "-o", model, "--manifest", manifest)
    assert ran.code == 0, ran.err
    done = client("publish", "me/tiny-GGUF", manifest, "--dry-run", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    folder = Path(done.json["folder"])
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "org/tiny"
    assert "raq-client run hf:org/tiny -b 5.0" in card
    assert "not measured" in card
    published = json.loads((folder / manifest.name).read_text())
    assert list(published["origins"].values()) == [f"hf:org/tiny@{repo.sha}:tiny-F16.gguf"]
    for name in done.json["files"]:
        assert str(tmp_path).encode() not in (folder / name).read_bytes(), name
