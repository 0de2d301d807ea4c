"""Generated code is what the generator writes, and the dependencies are not older than it."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest

from support.paths import ROOT

MESSAGES = ROOT / "proto" / "raq_proto" / "v1"


def lower_bound(package: str) -> tuple[int, ...]:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["remote"]
    (found,) = [d for d in dependencies if re.match(rf"{package}\b(?!-)", d)]
    return tuple(int(part) for part in re.search(r">=([\d.]+)", found)[1].split("."))  # type: ignore[index]


def test_committed_code_is_current() -> None:
    pytest.importorskip("grpc_tools", reason="the generator is a development dependency")
    subprocess.run([sys.executable, ROOT / ".ci" / "generate.py", "--check"], check=True)


def test_grpcio_is_not_older_than_the_generator() -> None:
    stamps = {
        re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", path.read_text())[1]  # type: ignore[index]
        for path in MESSAGES.glob("*_pb2_grpc.py")
    }
    assert {lower_bound("grpcio")} == {tuple(map(int, stamp.split("."))) for stamp in stamps}


def test_protobuf_is_not_older_than_the_generator() -> None:
    pattern = r"Domain\.PUBLIC,\s+(\d+),\s+(\d+),\s+(\d+),"
    stamps = {
        tuple(map(int, re.search(pattern, path.read_text()).groups()))  # type: ignore[union-attr]
        for path in MESSAGES.glob("*_pb2.py")
    }
    assert {lower_bound("protobuf")} == stamps


def test_changelog_names_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?{re.escape(version('raq'))}\]?", changelog, re.MULTILINE)
