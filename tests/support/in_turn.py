"""Recipes whose blocks are rounded one after the other, on tiny models with Gram statistics of a few windows."""

from pathlib import Path
from typing import Any

from raq_client import engine
from raq_client.compensation.collect import collect_gram
from raq_client.compensation.gram_file import write_gram
from raq_client.engine.windows import Text, cut_windows
from raq_client.models.model_file import open_model
from support.builds import recipe
from support.engine_models import TEXT
from support.outputs import add_outputs
from support.tiny_models import Tiny, write_tiny

BLOCKS = 3
CONTEXT, WINDOWS = 32, 8


def in_turn_project(folder: Path, tiny: Tiny | None = None) -> Path:
    """A folder with a model and its Gram statistics."""
    folder.mkdir(parents=True, exist_ok=True)
    path = write_tiny(folder / "small.gguf", tiny or Tiny("llama", blocks=BLOCKS, tied=True))
    model, texts = open_model(path), [Text("text", TEXT[:4000])]
    with engine.load(path, context=CONTEXT, threads=1) as loaded:
        gram = collect_gram(loaded, model, texts, windows=WINDOWS)
        windows = cut_windows(loaded, texts, None)[0][:WINDOWS]
        write_gram(add_outputs(gram, model, loaded, windows, memory=1 << 30), folder / "small.gram")
    return folder


def in_turn(folder: Path, name: str = "small", /, **keys: Any) -> Path:
    """A recipe file in such a folder: every matrix of the blocks in Q4_0, but for what `keys` say."""
    given = {"imatrix": None, "gram": "small.gram", "sequential": True, "types": ["Q4_0", "Q8_0"], "budget": None}
    fixed = {"base": "Q4_0", "types_from": "base", "pin": ["token_embd.weight=Q8_0"]}
    return recipe(folder, name, **{**given, **fixed, **keys})
