"""Recognise what lies in place of a file after a download, by its first bytes: a page, a pointer, an archive."""

from typing import Final

_STARTS: Final = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with git lfs pull"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
    (b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (b"BZh", "compressed by bzip2; unpack it first"),
)
"""First bytes and what kind of file they mark."""
_HTML: Final = (b"<!doctype", b"<html", b"<?xml")
LONGEST: Final = 64
"""Number of first bytes that `in_place_of_file` needs."""


def in_place_of_file(start: bytes) -> str | None:
    r"""What a file with these first bytes is and what to do with it; None if it may be the file itself.

    >>> in_place_of_file(b"\x1f\x8b\x08\x00")
    'compressed by gzip; unpack it first'
    """
    for known, meaning in _STARTS:
        if start.startswith(known):
            return meaning
    if start.lstrip().lower().startswith(_HTML):
        return "a web page; download the file itself, not the page about it"
    return None
