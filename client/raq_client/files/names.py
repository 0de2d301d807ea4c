"""File names as text: systems allow bytes in names that are not valid UTF-8."""


def readable(name: str) -> str:
    r"""The name with a question mark for each invalid byte, so that it can be stored and printed.

    >>> readable("model-\udcff.gguf")
    'model-?.gguf'
    """
    return name.encode("utf-8", "replace").decode()


def is_model_name(text: str) -> bool:
    """Whether a text names a model on a hub or in another program's store, instead of a file.

    >>> is_model_name("hf:org/repo:Q4_K_M"), is_model_name("model.gguf")
    (True, False)
    """
    return text.startswith(("hf:", "ollama:", "lmstudio:"))
