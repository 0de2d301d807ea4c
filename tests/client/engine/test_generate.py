"""Greedy generation, against llama.cpp's server as the witness."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client import engine
from raq_client.engine.generate import drawn
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


def test_parts_are_the_answer_and_a_stop_is_held_back() -> None:
    """Whatever stops there are, parts together are the answer before the first of them, and no part begins one."""
    with engine.load(MODEL, context=64, threads=1) as model, model.generator(128) as generator:
        whole = generator.answer(PROMPTS[0], most=24)
        tokens = generator.tokenize(PROMPTS[0])
        answer = generator.begin(tokens, most=24)
        assert "".join(answer) == whole
        assert (answer.count, answer.is_cut) == (24, True)
        for first in range(len(whole) - 6):
            stop = whole[first : first + 6]
            answer = generator.begin(tokens, most=24, stops=(stop, f"{whole[-2:]}never"))
            assert "".join(answer) == whole[: whole.index(stop)]
            assert not answer.is_cut


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=9),
    temperature=st.floats(0.01, 100),
    top_p=st.floats(0.01, 1),
)
def test_only_the_most_probable_that_reach_top_p_are_drawn(
    logits: list[float], temperature: float, top_p: float
) -> None:
    values = np.array(logits, np.float32)
    chances = np.exp((values.astype(np.float64) - values.max()) / temperature)
    chances /= chances.sum()
    choose = drawn(temperature, top_p, 1)
    for token in {choose(values) for _ in range(20)}:
        assert chances[chances > chances[token]].sum() < top_p + 1e-9


def test_tokens_are_drawn_by_their_probability() -> None:
    choose = drawn(2.0, 1.0, 5)
    logits = np.array([0.0, 2.0, 4.0], np.float32)
    found = np.bincount([choose(logits) for _ in range(20_000)], minlength=3) / 20_000
    expected = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / 20_000))
