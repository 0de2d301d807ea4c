"""How fast models are on this machine: tokens a second of prompt and answer, by libllama on the processor."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from raq_client.engine.loading import loaded
from raq_client.models.file_types import file_type
from raq_client.models.model_file import ModelFile
from raq_client.models.table import table_of
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.quantizing.rounding import Rounding
from raq_client.recipes.mixtures import MIXTURES, mixture, nearest_in_size
from raq_solver.allocation import Allocation

PROMPT_TOKENS: Final = 512
ANSWER_TOKENS: Final = 64
RUNS: Final = 3
"""Runs of each model, of which the median counts; a run before them fills caches and is left out."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of a model: of a prompt of `prompt_tokens`, and of an answer of `answer_tokens` after it.

    `prompt_spread` and `answer_spread` are the slowest and the fastest run.
    """

    name: str
    prompt_tokens: int
    answer_tokens: int
    prompt: float
    answer: float
    prompt_spread: tuple[float, float]
    answer_spread: tuple[float, float]


def measure_speeds(
    paths: Sequence[Path],
    *,
    prompt_tokens: int = PROMPT_TOKENS,
    answer_tokens: int = ANSWER_TOKENS,
    runs: int = RUNS,
    threads: int = 0,
    library: Path | None = None,
) -> tuple[Speed, ...]:
    """The speeds of some models, which take turns, so that what else the machine does slows all of them.

    All are in memory at once. Raises InvalidInput as `loaded` does.
    """
    seconds: list[list[tuple[float, float]]] = [[] for _ in paths]
    with ExitStack() as stack:
        engines = [stack.enter_context(loaded(path, threads=threads, library=library)) for path in paths]
        generators = [stack.enter_context(engine.generator(prompt_tokens + answer_tokens)) for engine in engines]
        for run in range(runs + 1):
            for engine, generator, found in zip(engines, generators, seconds, strict=True):
                prompt = (np.arange(prompt_tokens) % engine.vocabulary).astype(np.int32)
                taken = generator.seconds(prompt, answer_tokens)
                if run:
                    found.append(taken)
    return tuple(
        _speed(path.name, prompt_tokens, answer_tokens, found) for path, found in zip(paths, seconds, strict=True)
    )


def _speed(name: str, prompt_tokens: int, answer_tokens: int, seconds: Sequence[tuple[float, float]]) -> Speed:
    prompts = [prompt_tokens / prompt for prompt, _ in seconds]
    answers = [answer_tokens / answer for _, answer in seconds]
    return Speed(
        name=name,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        prompt=median(prompts),
        answer=median(answers),
        prompt_spread=(min(prompts), max(prompts)),
        answer_spread=(min(answers), max(answers)),
    )


def write_mixture_of_size(model: ModelFile, size: int, folder: Path, *, threads: int = 0) -> Path:
    """Write llama.cpp's mixture whose tensor data is nearest to `size` bytes into a folder, named by it; its path.

    Weights are rounded without importance, which does not change the speed.
    """
    table = table_of(model)
    found = {name: mixture(table, file_type(name), has_importance=False) for name in MIXTURES}
    name = nearest_in_size(found, size)
    path = folder / f"{name}.gguf"
    quantize_model(Quantization(model, Allocation.of(found[name]), path, Rounding(threads=threads)))
    return path
