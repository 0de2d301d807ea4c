"""Greedy generation, against llama.cpp's server as the witness."""

import pytest

from raq_client import engine
from raq_solver.errors import InvalidInput
from support.engine_models import MODEL
from support.llama_server import llama_server, post

PROMPTS = ("Question: Tom has 3 apples and buys 4 more. How many?\nAnswer:", "The river", "Grüße 🙂 = ")


def test_answers_are_those_of_the_server_whatever_was_asked_before() -> None:
    asked = {"n_predict": 24, "temperature": 0, "cache_prompt": False}
    with llama_server(MODEL) as address, engine.load(MODEL, context=64, threads=1) as model:
        expected = {prompt: post(address, "/completion", {**asked, "prompt": prompt})["content"] for prompt in PROMPTS}
        with model.generator(128) as generator:
            for prompt in (*PROMPTS, *PROMPTS):
                assert generator.answer(prompt, most=24) == expected[prompt]
            whole = expected[PROMPTS[0]]
            assert (
                generator.answer(PROMPTS[0], most=24, stops=("never", whole[8:10])) == whole[: whole.index(whole[8:10])]
            )
            with pytest.raises(InvalidInput, match="do not fit a context of 128"):
                generator.answer(PROMPTS[0], most=128)
