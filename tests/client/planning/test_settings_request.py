"""The request of a file without flags is the one that the commands make of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.cli.problem_options import ProblemOptions
from raq_client.files.settings import Settings
from raq_client.planning.settings_request import request_of
from raq_solver.errors import InvalidInput

texts = st.lists(st.sampled_from(["blk.0.*=Q4_K", "output.weight=Q6_K", "x=3:5.5"]), max_size=2)
memory = st.fixed_dictionaries(
    {"vram": st.sampled_from(["24GiB", "8GB"])},
    optional={
        "context": st.sampled_from(["32k", 4096]),
        "kv": st.sampled_from(["q8_0", "f16,q4_0"]),
        "overhead": st.just("1GiB"),
        "parallel": st.integers(1, 4),
        "ubatch": st.integers(1, 512),
        "host": st.just(["token_embd.weight"]),
    },
)
settings = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["pin", "floor", "ceiling", "exclude", "tie", "at_most", "region", "monotone", "exo"], texts),
        "budget": st.sampled_from(["5.0", "4GiB", 5]),
        "loss": st.sampled_from(["fisher", "relative"]),
        "base": st.just("Q4_K_M"),
        "architecture": st.sampled_from(["default", "none"]),
        "distinct_types": st.integers(1, 9),
        "active_bytes": st.just("3GiB"),
        "experts_used": st.integers(1, 8),
        "memory": memory,
    },
)


@given(settings)
def test_it_is_what_commands_make_of_the_same_settings(keys: dict[str, Any]) -> None:
    given_settings = Settings.model_validate(keys)
    # A recipe has nothing but its own keys, so its budget always counts; commands are given it as a flag here.
    assert request_of(given_settings) == ProblemOptions().request(given_settings, given_settings.budget)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"context": "32k"}, "give vram too"),
        ({"vram": "8GiB", "host_memory": "8GiB"}, "for which tensors"),
        ({"vram": "8GiB", "kv": "q8_0,q8_0,f16"}, "give one type, or two"),
    ],
)
def test_half_a_memory_is_refused(keys: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        request_of(Settings.model_validate({"memory": keys}))
