"""Load models for evaluation on text; the header is checked first for faults on which libllama would abort."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from raq_client import engine
from raq_client.engine import DEFAULT_CONTEXT, Engine, NotFiniteError
from raq_client.models.gguf_header import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Header, Value
from raq_client.models.model_file import NO_TENSORS, first_shard, open_model, read_header, require_kind, row_chunks
from raq_client.models.sources import local_model
from raq_solver.errors import Fault, InvalidInput, raise_faults

ENCODERS: Final = (
    "bert modern-bert neo-bert nomic-bert nomic-bert-moe jina-bert-v2 jina-bert-v3 eurobert gemma-embedding t5encoder "
    "clip wavtokenizer-dec"
)
"""Architectures of llama.cpp that do not predict a next token."""
_U32: Final = 4
_NO_TOKENIZER: Final = ("", "none", "no_vocab")


def evaluable(path: Path | str) -> Path:
    """The file to pass to libllama for evaluating text: the first shard of a split model.

    Raises InvalidInput with every reason why no text can be evaluated with this model.
    """
    path = local_model(path)
    if not path.is_file():
        raise InvalidInput(Fault(str(path), "there is no such model file"))
    header = read_header(path)
    first = first_shard(path, header)
    if first != path:
        header = read_header(first)
    require_kind(header, str(first))
    raise_faults([Fault(str(first), what) for what in _unfit(header)])
    return first


def _unfit(header: Header) -> Iterator[str]:
    """The reasons why no text can be evaluated with this model."""
    architecture = str(_value(header, "general.architecture") or "")
    if not header.tensors and "split.count" not in header.metadata:
        yield NO_TENSORS
    if architecture in ENCODERS.split() or _value(header, f"{architecture}.attention.causal") is False:
        kind = f"does not predict the next token (it is an encoder, {architecture})"
        yield f"{kind}: it can be quantized without any text, but not evaluated on one"
    if str(_value(header, "tokenizer.ggml.model") or "") in _NO_TOKENIZER:
        yield "has no tokenizer, so it can't read text; convert the model together with its tokenizer"
    alignment = header.metadata.get(ALIGNMENT_KEY)
    if alignment is not None and (alignment.type_id != _U32 or header.alignment < DEFAULT_ALIGNMENT):
        what = f"{ALIGNMENT_KEY} is {header.alignment}, libllama reads a u32 of {DEFAULT_ALIGNMENT} or more"
        yield f"{what}; convert it again, or quantize it with raq, which writes it so"


def _value(header: Header, key: str) -> Value | None:
    found = header.metadata.get(key)
    return None if found is None else found.decode()


@contextmanager
def loaded(
    path: Path | str,
    *,
    context: int = DEFAULT_CONTEXT,
    threads: int = 0,
    library: Path | str | None = None,
    editable: bool = False,
) -> Iterator[Engine]:
    """`engine.load` for any shard of a model that `evaluable` accepts; the model is freed at the end of the block.

    Raises InvalidInput as `engine.load` and `evaluable` do. A NotFiniteError of this model names the first weight in
    its file that is not finite, if there is one.
    """
    found = evaluable(path)
    with engine.load(found, context=context, threads=threads, library=library, editable=editable) as model:
        try:
            yield model
        except NotFiniteError as error:
            culprit = not_finite(model.path) if error.faults[0].where == str(model.path) else None
            if culprit is None:
                raise
            what = f"its predictions are not finite, because {culprit}; get or make the file again"
            raise NotFiniteError(Fault(str(model.path), what)) from error


def not_finite(path: Path) -> str | None:
    """A description of the first weight of a model file that is NaN or infinite; None if all are finite."""
    model = open_model(path)
    # Vectors first: they are quick to read, and no quantizer has checked them.
    for tensor in sorted(model.tensors, key=lambda each: each.rows > 1):
        try:
            for _, first, last in row_chunks(tensor):
                bad = np.argwhere(~np.isfinite(weights := model.weights(tensor, first, last)))
                if bad.size:
                    row, column = bad[0].tolist()
                    return f"weight {column} of row {first + row} of {tensor.name} is {weights[row, column]}"
        except InvalidInput:
            continue  # a type whose weights can't be read back
    return None
