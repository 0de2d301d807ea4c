"""Speeds: what is counted is what was evaluated, and the mixture beside it is llama.cpp's of the nearest size."""

import time
from pathlib import Path

import pytest

from raq_client.evaluation.speed import measure_speeds, write_mixture_of_size
from raq_client.models.model_file import open_model
from raq_solver.errors import InvalidInput
from support.commands import client
from support.gguf_files import MODEL_4M, Reader
from support.paths import DATA


def test_the_time_of_all_tokens_passes(tmp_path: Path) -> None:
    began = time.perf_counter()
    speeds = measure_speeds([MODEL_4M, MODEL_4M], prompt_tokens=24, answer_tokens=8, runs=3, threads=1)
    passed = time.perf_counter() - began
    assert [one.name for one in speeds] == [MODEL_4M.name] * 2
    for one in speeds:
        assert 0 < one.prompt_spread[0] <= one.prompt <= one.prompt_spread[1]
        assert 0 < one.answer_spread[0] <= one.answer <= one.answer_spread[1]
    # Three runs of the median speed or slower, all models in turn.
    assert sum(2 * (24 / one.prompt + 8 / one.answer) for one in speeds) < passed


def test_the_mixture_is_the_one_of_the_nearest_size(tmp_path: Path) -> None:
    model = open_model(MODEL_4M)
    for wanted, name in ((0, "Q2_K"), (2_871_000, "Q4_K_M"), (10**9, "Q8_0")):
        path = write_mixture_of_size(model, wanted, tmp_path)
        size = sum(int(tensor.n_bytes) for tensor in Reader(path).tensors)
        assert path.stem == name
        assert size == client("base", name, MODEL_4M, "--json").json["bytes"]


@pytest.mark.slow
def test_a_check_shows_the_file_the_mixture_and_the_original(tmp_path: Path) -> None:
    text = ("-t", DATA / "gsm8k.evaluation.txt", "--windows", 2, "--context", 64)
    mixture = write_mixture_of_size(open_model(MODEL_4M), 2_871_000, tmp_path)
    candidate = mixture.rename(tmp_path / "candidate.gguf")
    done = client("check", candidate, "-m", MODEL_4M, *text, "--speed", "--json")
    assert done.code == 0, done.err
    assert [one["name"] for one in done.json["speed"]] == ["candidate.gguf", "Q4_K_M.gguf", MODEL_4M.name]
    assert list(tmp_path.iterdir()) == [candidate], "the mixture is gone again"
    refused = client("check", candidate, "--baseline", tmp_path / "x", "--speed")
    assert (refused.code, "leave the baseline out" in refused.err) == (2, True)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no such model file"):
        measure_speeds([tmp_path / "none.gguf"])
