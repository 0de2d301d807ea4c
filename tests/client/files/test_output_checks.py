"""No output destroys anything, and what can't be written is refused before the work."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raq_client.files import output_checks
from raq_client.files.atomic_file import atomic_file
from raq_client.files.output_checks import check_output
from raq_solver.errors import InvalidInput


def written(path: Path, *, force: bool = False) -> None:
    with atomic_file(path, force=force) as file:
        file.write(b"new")


@pytest.mark.parametrize("force", [False, True])
def test_an_input_is_never_an_output(tmp_path: Path, *, force: bool) -> None:
    model = tmp_path / "model"
    model.write_bytes(b"weights")
    link, hard = tmp_path / "link", tmp_path / "hard"
    link.symlink_to(model)
    hard.hardlink_to(model)
    for path in (model, link, hard, tmp_path / "." / "model"):
        with pytest.raises(InvalidInput, match="is read by this command too"):
            check_output(path, force=force, inputs=[model])


def test_what_is_no_regular_file_is_refused_also_with_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        kinds = {"pipe": "pipe", "folder": "folder", "link": "pipe", "socket": "socket", "/dev/null": "device"}
        for name, kind in kinds.items():
            with pytest.raises(InvalidInput, match=f"is a {kind}"):
                written(Path(name), force=True)
    assert Path("pipe").is_fifo()
    assert Path("/dev/null").is_char_device()


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("old", "dangling"):
        link = tmp_path / name
        link.symlink_to(elsewhere / name)
        if name == "old":
            (elsewhere / name).write_bytes(b"old")
        written(link, force=name == "old")
        assert link.is_symlink()
        assert (elsewhere / name).read_bytes() == b"new"
    assert sorted(path.name for path in elsewhere.iterdir()) == ["dangling", "old"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("none/file", "there is no folder"),
        ("file/below", "there is no folder"),
        ("x" * 256, "File name too long"),
        ("circle", "symbolic links"),
        ("/proc/file", "the folder /proc can't be written"),
    ],
)
def test_refused_before_the_work(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match=what):
        check_output(tmp_path / name, force=False)
    assert sorted(tmp_path.iterdir()) == before


def test_no_room(tmp_path: Path) -> None:
    check_output(tmp_path / "file", force=False, needed=1)
    with pytest.raises(InvalidInput, match="no room on the disk: 1,000,000,000,000,000,000 bytes"):
        check_output(tmp_path / "file", force=False, needed=10**18)


@pytest.mark.parametrize("name", [b"caf\xe9", b"x" * 255, "é".encode() * 127])
def test_any_name_that_the_system_allows(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    written(path)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


HOLD = (
    "import sys, time; from pathlib import Path; from raq_client.files.atomic_file import atomic_file\n"
    "with atomic_file(Path(sys.argv[1])) as file: print('open', flush=True); time.sleep(60)\n"
)


def test_partial_files_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".other.01234567.partial").touch()
    (tmp_path / ".file.notours.partial").touch()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        (held,) = tmp_path.glob(".file.????????.partial")
        written(path)
        assert held.exists()
        process.kill()
    written(path, force=True)
    assert {each.name for each in tmp_path.iterdir()} == {"file", ".other.01234567.partial", ".file.notours.partial"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_clean_up(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import sys; from raq_client.cli import app\n"
        "def run():\n    exec(sys.argv.pop(1))\n"
        "app._run = run\napp.main()\n"
    )
    command = [sys.executable, "-c", code, HOLD, str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        time.sleep(0.05)
        process.send_signal(number)
        process.send_signal(number)  # a closing terminal does it twice
        _, err = process.communicate(timeout=20)
    if number is not signal.SIGINT:
        assert process.returncode == 128 + number
        assert err.count("\n") == 1
        assert "nothing is left half-written" in err
    assert list(tmp_path.iterdir()) == []


def test_both_names_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert output_checks.is_same_file(tmp_path / "link", tmp_path / "file")
    assert not output_checks.is_same_file(tmp_path / "link", tmp_path / "other")
