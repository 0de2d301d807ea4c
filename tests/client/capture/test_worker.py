"""The worker beside the proxy: what it leaves out and why, and its death."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raq_client import engine
from raq_client.capture.exchange import Exchange
from raq_client.capture.worker import Job, Worker
from raq_client.importance.imatrix_file import read_importance
from raq_solver.errors import InvalidInput
from support.chat_models import with_template

PICKY = "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0].content }}"
CHAT = "/v1/chat/completions"
ANSWER = json.dumps({"choices": [{"index": 0, "message": {"content": "yes"}}]}).encode()


def _exchange(*contents: str, answer: bytes = ANSWER) -> Exchange:
    request = {"messages": [{"role": "user", "content": content} for content in contents]}
    return Exchange(CHAT, json.dumps(request).encode(), answer)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(with_template(tmp_path / "model.gguf", PICKY), tmp_path / "live.gguf", context=64, threads=1)


def test_what_is_left_out_has_a_reason(job: Job) -> None:
    worker = Worker(job)
    for exchange in (_exchange("word " * 100), _exchange("a", "b"), _exchange("a", answer=b"cut"), _exchange("c")):
        worker.submit(exchange)
    counted = worker.close()
    assert (counted.exchanges, counted.windows) == (2, 1)
    assert counted.left_out == {"the chat template can't render it": 1, "the answer has no choices": 1}
    assert read_importance(job.output).chunk_count == 1


def test_tokens_count_as_the_text_that_they_are(job: Job) -> None:
    """The sums of prompts given as tokens are those of the same prompts as text."""
    text, answer = "word" + " word" * 100, " yes and no" * 20  # a token ends where the prompt does
    with engine.load(job.model, context=64, threads=1) as model:
        tokens = [int(token) for token in model.tokenize(text, special=True)]
        size = model.vocabulary
    body = json.dumps({"choices": [{"index": 0, "text": answer}]}).encode()
    digests = []
    for name, prompt in (("text", text), ("tokens", tokens)):
        output = job.output.with_name(f"{name}.gguf")
        worker = Worker(replace(job, output=output))
        worker.submit(Exchange("/v1/completions", json.dumps({"prompt": [size]}).encode(), body))
        worker.submit(Exchange("/v1/completions", json.dumps({"prompt": prompt}).encode(), body))
        assert worker.close().left_out == {"the prompt has tokens that the model does not have": 1}
        digests.append(read_importance(output).digest())
    assert digests[0] == digests[1]


def test_in_a_hurry_what_waits_is_left_out(job: Job) -> None:
    worker = Worker(job)
    worker.hurry()
    for _ in range(3):
        worker.submit(_exchange("word " * 100))
    counted = worker.close()
    assert (counted.exchanges, counted.left_out) == (0, {"left out at the end": 3})
    assert not job.output.exists()


def test_a_dead_worker_does_not_hold_up_the_proxy_and_is_reported(job: Job) -> None:
    worker = Worker(job)
    worker._process.kill()
    worker._process.join()
    assert not worker.is_alive
    for _ in range(3):
        worker.submit(_exchange("word " * 100))
    with pytest.raises(InvalidInput, match="the process that counts has died"):
        worker.close()
