"""A web page, a pointer or an archive in place of a file is called that by every reader of JSON and TOML."""

import gzip
from pathlib import Path

import pytest

from raq_client.files.profile_file import load_profile
from raq_client.files.reading import parse_json, parse_toml, read_text
from raq_solver.errors import InvalidInput

PAGE = "\n<!DOCTYPE html>\n<html></html>"


def test_a_web_page_is_called_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(PAGE)
    for read in (
        lambda: load_profile(path),
        lambda: parse_json(read_text(path), path),
        lambda: parse_toml(read_text(path), path),
    ):
        with pytest.raises(InvalidInput, match=r"a\.json: is a web page; download the file itself"):
            read()
    assert read_text(path) == PAGE, "as a text it is one"


def test_an_archive_is_called_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(gzip.compress(b"{}"))
    for read in (load_profile, read_text):
        with pytest.raises(InvalidInput, match="is compressed by gzip; unpack it first"):
            read(path)
