"""Recognise files that were given by mistake in place of a model, by their first bytes."""

from typing import Final

from raq_client.files.mistaken import in_place_of_file

STARTS: Final = (
    (b"PK\x03\x04", "a zip archive, perhaps of PyTorch; convert the model with llama.cpp's convert_hf_to_gguf.py"),
    (b"GGLA", "a LoRA adapter of an old kind; merge it into its model and convert that"),
    (b"lmgg", "a model in the format before GGUF; convert it again from its source"),
    (b"fmgg", "a model in the format before GGUF; convert it again from its source"),
    (b"tjgg", "a model in the format before GGUF; convert it again from its source"),
)
"""First bytes and what kind of file they mark."""
_NAMES_OF_ENTRIES: Final = (b"blk.", b"outp", b"toke")


def looks_like(start: bytes) -> str | None:
    r"""What a file with these first bytes is and what to do with it; None if it is not recognised.

    >>> looks_like(b"\x1f\x8b\x08\x00")
    'compressed by gzip; unpack it first'
    """
    for known, meaning in STARTS:
        if start.startswith(known):
            return meaning
    if start[8:9] == b"{":  # eight bytes of length, then JSON
        return "a safetensors file; convert the model with llama.cpp's convert_hf_to_gguf.py"
    return in_place_of_file(start)


def in_place_of_model(start: bytes) -> str | None:
    """`looks_like` for a file that should be a model; it also recognises importance files in the old .dat format."""
    if start[8:12] in _NAMES_OF_ENTRIES:  # the file begins with a count, a length and the first name
        return "an importance file (.dat); give it with --imatrix"
    return looks_like(start)
