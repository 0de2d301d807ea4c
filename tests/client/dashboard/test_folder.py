"""Names in requests: no way leads out of the folder."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.dashboard.folder import Folder
from raq_client.dashboard.refusal import Refusal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    base = tmp_path_factory.mktemp("base")
    (base / "secret.txt").write_text("secret")
    root = base / "inner"
    (root / "sub").mkdir(parents=True)
    (root / ".raq").mkdir()
    (root / ".raq" / "jobs.sqlite").write_text("state")
    (root / "here.txt").write_text("here")
    (root / "sub" / "a.profile.json").write_text('{"format": "raq-profile-1"}')
    (root / "out.txt").symlink_to(base / "secret.txt")
    (root / "away").symlink_to(base)
    (root / "inside.txt").symlink_to(root / "here.txt")
    return Folder(root)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt", "sub/../../secret.txt", "/etc/passwd", "out.txt", "away/secret.txt",
        "away/inner/.raq/jobs.sqlite", "", "a\0b", "a\nb", "..\\secret.txt",
        ".raq/jobs.sqlite", "sub/../.raq/jobs.sqlite", "-o", "~/x/../../..", "..",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(folder: Folder, name: str) -> None:
    with pytest.raises(Refusal):
        folder.existing(name)


@given(st.lists(st.sampled_from(["..", ".", "sub", "away", "out.txt", "here.txt", "~", "", "/"]), max_size=7))
def test_whatever_is_joined_stays_inside(folder: Folder, pieces: list[str]) -> None:
    try:
        path = folder.path("/".join(pieces))
    except Refusal:
        return
    assert path.resolve().is_relative_to(folder.root)


def test_files_are_listed_by_kind_and_links_out_of_the_folder_are_not(folder: Folder) -> None:
    assert [(each.name, each.kind) for each in folder.files()] == [
        ("here.txt", "text"),
        ("inside.txt", "text"),
        ("sub/a.profile.json", "profile"),
    ]


def test_what_is_not_there_is_not_found(folder: Folder) -> None:
    assert folder.path("new.gguf") == folder.root / "new.gguf"
    with pytest.raises(Refusal, match="no such file") as refused:
        folder.existing("new.gguf")
    assert refused.value.status == 404


def test_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(Refusal):
        Folder(tmp_path).existing("a")
    assert Folder(tmp_path).files() == []
