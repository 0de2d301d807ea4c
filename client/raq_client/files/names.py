"""File names as text: systems allow bytes in names that are not valid UTF-8, and folders are nobody else's business."""

import re
from typing import Final

_SEGMENT: Final = r"[^/\\\s:=\"',;+×|<>]+(?: [^/\\\s:=\"',;+×|<>]+)*"
_FOLDERS: Final = re.compile(rf"(?<![\w:/\\.~-])(?:~[\w.-]*|\.\.|[A-Za-z]:)?[/\\](?:{_SEGMENT}[/\\])*")
"""The folders of an absolute path, of one under a home folder, or of one that leaves the folder it starts from."""


def readable(name: str) -> str:
    r"""The name with a question mark for each invalid byte, so that it can be stored and printed.

    >>> readable("model-\udcff.gguf")
    'model-?.gguf'
    """
    return name.encode("utf-8", "replace").decode()


def is_model_name(text: str) -> bool:
    """Whether a text names a model on a server, on a hub or in another program's store, instead of a file.

    >>> is_model_name("hf:org/repo:Q4_K_M"), is_model_name("https://host/m.gguf"), is_model_name("model.gguf")
    (True, True, False)
    """
    return text.startswith(("hf:", "ollama:", "lmstudio:")) or address_in(text) is not None


def address_in(text: str) -> str | None:
    """The http(s) address in a text, which may have been a path on the way; None if it is none.

    >>> address_in("https:/host/m.gguf"), address_in("http://host/m.gguf"), address_in("model.gguf")
    ('https://host/m.gguf', 'http://host/m.gguf', None)
    """
    found = re.fullmatch(r"(https?):/{1,2}([^/].*)", text)
    return None if found is None else f"{found[1]}://{found[2]}"


def without_folders(text: str) -> str:
    r"""The text with the file's name alone in place of every path that is not below the current folder.

    >>> without_folders("2 × /home/me/my models/a.gguf + data/b.gguf"), without_folders("--text=math=../c.txt")
    ('2 × a.gguf + data/b.gguf', '--text=math=c.txt')
    >>> without_folders("https://example.org/x"), without_folders("hf:org/repo"), without_folders("C:\\me\\a.gguf")
    ('https://example.org/x', 'hf:org/repo', 'a.gguf')
    """
    return _FOLDERS.sub("", text)
