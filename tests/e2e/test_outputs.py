"""Commands never lose what they read, and end well whatever their names, consoles and readers are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import client

COMMAND = [sys.executable, "-c", "from raq_client.cli.app import main; main()"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_path: Path, imatrix_path: Path, data: Path) -> Path:
    """A folder with a model, importance, a text, and a profile of settings; commands run there."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    shutil.copy(model_path, "m.gguf")
    shutil.copy(imatrix_path, "i.gguf")
    shutil.copy(data / "gsm8k.evaluation.txt", "t.txt")
    Path("link.gguf").symlink_to("m.gguf")
    Path("s-00001-of-00002.gguf").touch()
    Path("s-00002-of-00002.gguf").touch()
    Path("p.json").touch()
    return place


@pytest.mark.parametrize(
    "line",
    [
        "run m.gguf -b 5 -o o.gguf --manifest m.gguf",
        "run m.gguf -b 5 -o o.gguf --manifest link.gguf",
        "run m.gguf -b 5 -o o.gguf --plot t.txt -t a=t.txt",
        "run m.gguf -b 5 -o o.gguf --manifest o.gguf",
        "run m.gguf -b 5 -i i.gguf:0.7 -o i.gguf -f",
        "run m.gguf -b 5 -o t.txt -t t.txt -f",
        "run m.gguf -b 5 -o t.txt --calibration t.txt -f",
        "run s-00001-of-00002.gguf -b 5 -o s-00002-of-00002.gguf -f",
        "quantize m.gguf -a t.txt -o t.txt -f",
        "quantize m.gguf -a p.json -o link.gguf -f",
        "profile m.gguf -o m.gguf -f",
        "solve -b 5 -m m.gguf --plot m.gguf",
        "sweep --from 3 --to 4 -p p.json --plot p.json",
        "imatrix collect m.gguf -t t.txt -o m.gguf -f",
        "imatrix collect m.gguf -t t.txt -o t.txt -f",
        "imatrix merge i.gguf:0.5 i.gguf:0.5 -o i.gguf -f",
        "imatrix convert i.gguf -o i.gguf -f",
        "sensitivity m.gguf -t t.txt -o t.txt -f",
        "sensitivity-import t.txt p.json -o p.json -f",
        "check -m m.gguf -t t.txt --save-baseline m.gguf -f",
        "check m.gguf -m link.gguf -t t.txt --save-baseline t.txt -f",
        "recipe verify ra4 m.gguf --plot m.gguf",
        "ladder m.gguf -b 4 -o i.gguf",
    ],
)
def test_an_output_that_is_read_too(folder: Path, line: str) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = client(*line.split())
    assert result.code == 2
    assert any(text in result.err for text in ("is read by this command too", "to be written too", "is not a folder"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_the_settings_name_is_read_too(folder: Path) -> None:
    Path("raq.toml").write_text('imatrix = "i.gguf"\n', encoding="utf-8")
    for name in ("i.gguf", "raq.toml"):
        result = client("run", "m.gguf", "-b", "5", "-o", name, "-f")
        assert result.code == 2
        assert f"{name}: is read by this command too" in result.err


def test_a_disk_that_is_too_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(1, 1, 1000))  # type: ignore[attr-defined]
    result = client("run", "m.gguf", "-b", "5", "--types", "Q4_0,Q8_0", "-o", "o.gguf", "-t", "t.txt")
    assert result.code == 2
    assert "no room on the disk" in result.err
    assert "tried" not in result.err


def test_names_are_text(folder: Path) -> None:
    Path("a[").mkdir()
    names = ["a[/o].gguf", "[bold]x{y}:heart:[.gguf", os.fsdecode(b"caf\xe9.gguf")]
    for name in names:
        shutil.copy("m.gguf", name)
        assert client("base", "Q4_K_M", name).code == 0
    result = client("compare", *names, "-m", "m.gguf", "-t", "t.txt", "--windows", "2", "--context", "64")
    assert result.code == 0, result.err
    text = Path(os.fsdecode(b"[/]caf\xe9.txt".replace(b"/", b"")))
    shutil.copy("t.txt", text)
    found = client(
        "imatrix", "collect", names[2], "-t", text, "-o", "c.gguf", "--windows", "2", "--context", "64", "--fisher", "0"
    )
    assert found.code == 0, found.err
    assert client("imatrix", "convert", "c.gguf", "-o", "c.dat").code == 0
    profile = client("profile", names[2], "--types", "Q4_0", "-o", os.fsdecode(b"\xe9.json"))
    assert profile.code == 0, profile.err


def ended(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    shell = f"set -o pipefail; {line}"
    return subprocess.run(
        ["bash", "-c", shell, "-", *COMMAND], capture_output=True, check=False, env=os.environ | environment
    )


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=pytest.mark.exhaustive), "utf-8"])
def test_consoles(folder: Path, encoding: str) -> None:
    shutil.copy("m.gguf", os.fsdecode(b"caf\xe9.gguf"))
    done = ended(
        '"$@" check $(printf "caf\\xe9.gguf") -m m.gguf -t t.txt --windows 2 --context 64', PYTHONIOENCODING=encoding
    )
    assert done.returncode == 0, done.stderr
    assert ("±".encode(encoding, "replace") + b" ") in done.stdout


def test_the_plainest_console(folder: Path) -> None:
    plain = ended('"$@" base Q4_K_M m.gguf', LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert plain.returncode == 0
    assert not plain.stderr


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('"$@" recipe list >&-', 0),
        ('"$@" recipe list >&- 2>&- <&-', 0),
        ('"$@" imatrix convert i.gguf -o x.gguf >&- 2>&-', 0),
        ('"$@" base Q4_K_M m.gguf | true', 141),
        ('"$@" base Q4_K_M m.gguf --json | true', 141),
        ('"$@" imatrix show i.gguf --csv | true', 141),
        ('"$@" base Q4_K_M none.gguf 2>&1 | true', 2),
    ],
)
def test_nobody_reads(folder: Path, line: str, code: int) -> None:
    done = ended(line)
    assert done.returncode == code
    assert not done.stderr
    if "x.gguf" in line:
        assert client("imatrix", "show", "x.gguf").out == client("imatrix", "show", "i.gguf").out


def test_no_cache_can_be_had(folder: Path) -> None:
    line = '"$@" profile m.gguf --types Q4_0 -o q.json'
    done = ended(line, XDG_CACHE_HOME=str(folder / "t.txt"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b"continuing without it") == 1
