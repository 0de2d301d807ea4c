"""Folders of releases: complete, true to their manifests, free of the publisher's folders, and safe to write again."""

import subprocess
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client.hub.local_stores import lm_studio_model
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_client.publishing.card import About
from raq_client.publishing.folder import Folder, make_folder
from raq_client.publishing.release import read_release
from raq_solver.errors import InvalidInput
from support.gguf_files import split_model
from support.releases import IMATRIX, PUBLISHER, Made, change, digests

ABOUT = About("org/tiny", repo="me/tiny-GGUF")


def made(paths: list[Path], root: Path, *, force: bool = False) -> Folder:
    return make_folder(read_release(paths), ABOUT, root, force=force, progress=lambda _name, _size: None)


def test_all_parts_are_there_and_the_digests_hold(make: Made, tmp_path: Path) -> None:
    folder = made([make()], tmp_path / "out")
    assert folder.path == tmp_path / "out" / "me" / "tiny-GGUF"
    assert (
        set(folder.files)
        == {each.name for each in folder.path.iterdir()}
        == {
            "README.md",
            "README.svg",
            "Modelfile",
            IMATRIX.name,
            "tiny-4.5bpw.gguf",
            "tiny-4.5bpw.plan.json",
            "tiny-4.5bpw.manifest.json",
        }
    )
    lines = (folder.path / "README.md").read_text().split("<<'END'\n")[1].split("END\n")[0]
    subprocess.run(["sha256sum", "--check", "--strict"], input=lines, text=True, cwd=folder.path, check=True)
    assert (folder.path / "Modelfile").read_text() == "FROM ./tiny-4.5bpw.gguf\n"


def test_nothing_names_a_folder_of_the_publisher(make: Made, tmp_path: Path) -> None:
    importance = tmp_path / "own.imatrix.gguf"
    write_importance(replace(read_importance(IMATRIX), datasets=("/home/me/secret/text.txt",)), importance)
    inputs = {str(importance): "0" * 64, "../other/held out.txt": "1" * 64}
    path = change(make(), inputs=inputs)
    folder = made([path], tmp_path / "out")
    assert importance.name in folder.files
    for name in folder.files:
        data = (folder.path / name).read_bytes()
        for part in (str(tmp_path), *PUBLISHER):
            assert part.encode() not in data, name
    assert read_importance(folder.path / importance.name).digest() == read_importance(IMATRIX).digest()


def test_a_model_that_names_a_folder_is_refused(make: Made, tmp_path: Path) -> None:
    path = make()
    model = path.with_name("tiny-4.5bpw.gguf")
    writer = gguf.GGUFWriter(model, "llama")
    writer.add_string("quantize.imatrix.file", "/home/me/x.gguf")
    writer.add_tensor("output.weight", np.zeros((1, 32), np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    change(path, outputs=digests(model))
    with pytest.raises(InvalidInput, match=r"its metadata quantize\.imatrix\.file holds '/home/me/x\.gguf'"):
        made([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_changed_is_refused(make: Made, tmp_path: Path) -> None:
    path = make()
    with path.with_name("tiny-4.5bpw.gguf").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InvalidInput, match="has changed since its manifest was written"):
        made([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_written_again_it_is_the_same_and_other_content_is_kept(make: Made, tmp_path: Path) -> None:
    path = make()
    folder = made([path], tmp_path / "out")
    before = {name: (folder.path / name).read_bytes() for name in folder.files}
    assert made([path], tmp_path / "out").files == folder.files
    (folder.path / "README.md").write_text("my own words\n")
    with pytest.raises(InvalidInput, match=r"README\.md: is there with other content"):
        made([path], tmp_path / "out")
    assert (folder.path / "README.md").read_text() == "my own words\n"
    made([path], tmp_path / "out", force=True)
    assert {name: (folder.path / name).read_bytes() for name in folder.files} == before


def test_models_are_not_stored_twice(make: Made, tmp_path: Path) -> None:
    path = make()
    folder = made([path], tmp_path / "out")
    assert path.with_name("tiny-4.5bpw.gguf").samefile(folder.path / "tiny-4.5bpw.gguf")


def test_lm_studio_finds_the_model_where_it_is_written(
    make: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made([make()], tmp_path / ".lmstudio" / "models")
    assert lm_studio_model("lmstudio:me/tiny-GGUF").name == "tiny-4.5bpw.gguf"


def test_several_models_and_shards_are_published_together(make: Made, tmp_path: Path) -> None:
    whole, path = make("tiny-a"), make("tiny-b", kl=None)
    shards = split_model(tmp_path)
    change(path, outputs=digests(*shards))
    folder = made([whole, path], tmp_path / "out")
    stem = read_release([path]).quants[0].name
    assert {each.name for each in shards} <= set(folder.files)
    assert {"Modelfile.tiny-a", f"Modelfile.{stem}"} <= set(folder.files)
    assert "llama-gguf-split --merge" in (folder.path / "README.md").read_text()
