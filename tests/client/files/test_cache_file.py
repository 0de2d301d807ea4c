"""What is remembered helps, and never stands in the way."""

import logging
from pathlib import Path

import pytest

from raq_client.files.cache_file import CacheFile


def test_what_is_added_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines"
    for number in range(2):
        CacheFile(path).add({"number": number})
    assert list(CacheFile(path).objects()) == [{"number": 0}, {"number": 1}]
    assert list(CacheFile(None).objects()) == []


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    bad = [b'{"a": 1', b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b"[1]", b"null", b""]
    path.write_bytes(b"\n".join([b'{"a": 1}', *bad, b'{"b": "\xc3\xa9"}', b'{"c"']))
    assert list(CacheFile(path).objects()) == [{"a": 1}, {"b": "é"}]


@pytest.mark.parametrize("name", ["file/below/lines", "folder"])
def test_a_folder_that_can_not_be_used_is_told_once(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            cache = CacheFile(tmp_path / name)
            assert list(cache.objects()) == []
            cache.add({"a": 1})
            cache.add({"b": 1})
    (said,) = caplog.messages
    assert "continuing without it" in said
