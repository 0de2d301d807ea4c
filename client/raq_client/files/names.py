"""File names as text: systems allow bytes in names that are not valid UTF-8."""


def readable(name: str) -> str:
    r"""The name with a question mark for each invalid byte, so that it can be stored and printed.

    >>> readable("model-\udcff.gguf")
    'model-?.gguf'
    """
    return name.encode("utf-8", "replace").decode()
