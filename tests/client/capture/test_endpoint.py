"""The endpoint on the engine itself: its answers against llama.cpp's server, its limits, and what it counts."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raq_client import engine
from raq_client.capture.endpoint import MOST_WAITING, Endpoint
from raq_client.capture.exchange import Exchange, texts_of
from raq_client.prompts.template import require_template
from support.chat_models import QWEN, with_template
from support.llama_server import llama_server, post
from support.proxies import fetch, running_front

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
JSON = {"Content-Type": "application/json"}
LENGTH = 512


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_template(tmp_path_factory.mktemp("endpoint") / "model.gguf", QWEN)


@pytest.fixture(scope="module")
def running(model: Path) -> Iterator[engine.Engine]:
    with engine.load(model, context=64, threads=1) as opened:
        yield opened


@contextmanager
def _endpoint(model: Path, running: engine.Engine, observed: list[Exchange]) -> Iterator[int]:
    with running.generator(LENGTH) as generator:
        front = Endpoint("model", generator, require_template(model), observed.append)
        with running_front(front) as port:
            yield port


def _chat(question: str, **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": question}], "max_tokens": 24, **more}).encode()


def _events(data: bytes) -> list[Any]:
    lines = [line.removeprefix(b"data: ") for line in data.split(b"\n\n") if line]
    assert lines.pop() == b"[DONE]"
    return [json.loads(line) for line in lines]


def test_answers_are_those_of_llama_server(model: Path, running: engine.Engine) -> None:
    """Greedy, by its own template, whole and streamed; with a stop; continued text and tokens."""
    observed: list[Exchange] = []
    greedy = {"temperature": 0, "cache_prompt": False}
    with llama_server(model) as server, _endpoint(model, running, observed) as port:

        def both(path: str, request: dict[str, Any]) -> tuple[Any, Any]:
            ours = json.loads(fetch(port, "POST", path, json.dumps(request).encode(), JSON))
            return ours, post(server, path, {**request, **greedy})

        chat = {"messages": [{"role": "user", "content": "How many are 3 and 4? Grüße 🙂"}], "max_tokens": 24}
        ours, theirs = both(CHAT, chat)
        said = ours["choices"][0]["message"]["content"]
        assert said == theirs["choices"][0]["message"]["content"]
        assert said
        assert ours["choices"][0]["finish_reason"] == theirs["choices"][0]["finish_reason"]
        assert {key: theirs["usage"][key] for key in ours["usage"]} == ours["usage"]
        streamed = json.dumps({**chat, "stream": True, "stream_options": {"include_usage": True}}).encode()
        events = _events(fetch(port, "POST", CHAT, streamed, JSON))
        assert events[0]["choices"][0]["delta"]["role"] == "assistant"
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1]) == said
        assert events[-1]["usage"] == ours["usage"]
        stop = said[5:8]
        assert both(CHAT, {**chat, "stop": [stop]})[0]["choices"][0]["message"]["content"] == said[: said.index(stop)]
        tokens = [int(token) for token in running.tokenize("Tom has 3 apples and")]
        texts = [both(TEXT, {"prompt": prompt, "max_tokens": 9}) for prompt in ("Tom has 3 apples and", tokens)]
        assert len({each["choices"][0]["text"] for pair in texts for each in pair}) == 1
        assert json.loads(fetch(port, "GET", "/v1/models"))["data"][0]["id"] == "model"
    assert [turn["content"] for chat in texts_of(observed[1]) for turn in chat.messages][-1] == said  # type: ignore[union-attr]
    assert len(observed) == 5


def test_a_temperature_draws_and_a_seed_repeats(model: Path, running: engine.Engine) -> None:
    with _endpoint(model, running, []) as port:

        def asked(**how: Any) -> str:
            answer = json.loads(fetch(port, "POST", CHAT, _chat("Go on.", **how), JSON))
            return str(answer["choices"][0]["message"]["content"])

        greedy = asked()
        assert asked(temperature=0) == asked(temperature=5, top_p=1e-9) == greedy
        assert asked(temperature=5, seed=1) == asked(temperature=5, seed=1)
        assert len({asked(temperature=5, seed=seed) for seed in range(3)}) == 3


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "said"),
    [
        (CHAT, _chat("x"), {}, 415, "Content-Type: application/json"),
        (CHAT, b"{", JSON, 400, "no JSON"),
        (CHAT, b"[" * 100_000, JSON, 400, "no JSON"),
        (CHAT, b"[]", JSON, 400, "JSON object"),
        (CHAT, b"{}", JSON, 400, "messages: must be a list of turns"),
        (CHAT, _chat("x", n=2), JSON, 400, "n: "),
        (CHAT, _chat("x", logprobs=True), JSON, 400, "logprobs: "),
        (CHAT, _chat("x", temperature=-1), JSON, 400, "temperature: "),
        (CHAT, _chat("word " * LENGTH, max_tokens=None), JSON, 400, "fills the context of 512"),
        (CHAT, _chat("x", max_tokens=LENGTH), JSON, 400, "do not fit a context of 512"),
        (CHAT, b" " * (33 << 20), JSON, 413, "more than 32 MiB"),
        (TEXT, b"{}", JSON, 400, "prompt: must be one text"),
        (TEXT, b'{"prompt": [99999999]}', JSON, 400, "tokens that are none of"),
        ("/v1/embeddings", b"{}", JSON, 404, ""),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason(
    path: str, body: bytes, headers: dict[str, str], status: int, said: str, model: Path, running: engine.Engine
) -> None:
    observed: list[Exchange] = []
    with _endpoint(model, running, observed) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
    assert answer.status == status
    assert said in (json.loads(data)["error"]["message"] if said else "")
    assert observed == []


def test_a_client_that_leaves_ends_its_answer_and_the_next_has_its_turn(model: Path, running: engine.Engine) -> None:
    observed: list[Exchange] = []
    with _endpoint(model, running, observed) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", CHAT, _chat("Go on.", max_tokens=400, stream=True), JSON)
        answer = connection.getresponse()
        answer.read(600)
        answer.close()
        connection.close()
        fetch(port, "POST", CHAT, _chat("Go on.", max_tokens=2), JSON)
    assert len(observed) == 2
    assert observed[0].answer.count(b"data:") < 400
    assert texts_of(observed[0])


def test_more_than_can_wait_are_told_so(model: Path, running: engine.Engine) -> None:
    statuses: list[int] = []
    observed: list[Exchange] = []

    def ask(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", CHAT, _chat("x", max_tokens=1), JSON)
        statuses.append(connection.getresponse().status)
        connection.close()

    with _endpoint(model, running, observed) as port:
        first = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        first.request("POST", CHAT, _chat("Go on.", max_tokens=450, stream=True), JSON)
        stream = first.getresponse()
        stream.read(1)  # it has its turn
        others = [threading.Thread(target=ask, args=(port,)) for _ in range(2 * MOST_WAITING)]
        for each in others:
            each.start()
        stream.read()
        first.close()
        for each in others:
            each.join()
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= MOST_WAITING
    assert len(observed) == 1 + statuses.count(200)
