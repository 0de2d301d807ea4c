"""Uploads to a hub on this machine: one commit or none, what was sent is not sent again, every fault is a sentence."""

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raq_client.publishing.card import About
from raq_client.publishing.folder import Folder, make_folder
from raq_client.publishing.release import read_release
from raq_client.publishing.upload import check_upload, upload
from raq_solver.errors import InvalidInput
from support.commands import client
from support.fake_hub import Hub, Writable, running_hub
from support.releases import Made

REPO = "me/tiny-GGUF"
_sleep = time.sleep


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import close_session, constants

    with running_hub(Writable) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("HF_TOKEN", running.token)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files by Git LFS, which the hub here knows
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: _sleep(0.001))
        yield running
        close_session()


@pytest.fixture
def folder(make: Made, tmp_path: Path) -> Folder:
    about = About("org/tiny", repo=REPO)
    return make_folder(read_release([make()]), about, tmp_path / "out", force=False, progress=lambda _n, _s: None)


def published(hub: Hub) -> dict[str, bytes]:
    return hub.repos[REPO].files


def test_all_files_arrive_in_one_commit(hub: Hub, folder: Folder) -> None:
    address = upload(folder, REPO, message="first")
    assert published(hub) == {name: (folder.path / name).read_bytes() for name in folder.files}
    assert hub.commits == [{"repo": REPO, "message": "first"}]
    assert address == f"{hub.address}/{REPO}/commit/{hub.repos[REPO].sha}"
    assert hub.tokens_at_store == []


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("where", ["/api/repos", "preupload", "/info/lfs", "/part/", "/commit/"])
def test_a_server_in_trouble_is_one_sentence_and_no_commit(hub: Hub, folder: Folder, status: int, where: str) -> None:
    hub.fault = lambda _method, path: status if where in path else None
    with pytest.raises(InvalidInput) as error:
        upload(folder, REPO)
    assert re.fullmatch(rf"hf:{REPO}: the hub answers {status} \(.*\).*", str(error.value))
    assert hub.commits == []


def test_a_fault_that_passes_is_survived(hub: Hub, folder: Folder) -> None:
    left = {"/part/": 2, "preupload": 1, "/info/lfs": 1}

    def fault(_method: str, path: str) -> int | None:
        for part, more in left.items():
            if part in path and more:
                left[part] -= 1
                return 503
        return None

    hub.fault = fault
    upload(folder, REPO)
    assert set(left.values()) == {0}
    assert set(published(hub)) == set(folder.files)


def test_a_cut_upload_leaves_the_repository_and_the_next_one_sends_the_rest(hub: Hub, folder: Folder) -> None:
    model = (folder.path / "tiny-4.5bpw.gguf").read_bytes()
    oid = hashlib.sha256(model).hexdigest()
    cut: list[str] = []

    def cut_the_model(path: str) -> int | None:
        if "/part/" not in path or oid not in path:
            return None
        while not hub.uploads:  # files are sent beside each other: the other one arrives first
            _sleep(0.01)
        cut.append(path)
        return 1

    hub.cut = cut_the_model
    with pytest.raises(InvalidInput, match="the connection was cut"):
        upload(folder, REPO)
    assert cut
    assert (hub.commits, published(hub)) == ([], {})
    there = dict(hub.uploads)
    assert there
    hub.cut = lambda _path: None
    before = len(hub.requests)
    upload(folder, REPO)
    assert published(hub)["tiny-4.5bpw.gguf"] == model
    assert not any(oid in path for _, path, _ in hub.requests[before:] for oid in there), "sent again"


def test_who_may_not_write_is_told_before_the_work(
    hub: Hub, make: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InvalidInput, match="needs a token with the right to write"):
        check_upload(REPO)
    arguments = ("publish", REPO, make(), "--base-model", "org/tiny", "-o", tmp_path / "out")
    ended = client(*arguments)
    assert (ended.code, (tmp_path / "out").exists()) == (2, False)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept the token (401)" in client(*arguments).err


def test_the_command_uploads_only_when_asked(hub: Hub, make: Made, tmp_path: Path) -> None:
    arguments = ("publish", REPO, make(), "--base-model", "org/tiny", "-o", tmp_path / "out", "--json")
    tried = client(*arguments, "--dry-run")
    assert (tried.code, tried.json["commit"], hub.requests) == (0, None, [])
    done = client(*arguments)
    assert done.code == 0, done.err
    assert done.json["files"] == tried.json["files"] == sorted(published(hub))
    assert done.json["commit"].startswith(hub.address)
