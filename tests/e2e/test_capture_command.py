"""Importance from the traffic of llama.cpp's own server."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raq_client.capture.exchange import Exchange, texts_of
from raq_client.capture.worker import Job, Worker
from raq_client.engine.windows import Text
from raq_client.importance.collect import collect
from raq_client.importance.combining import merge
from raq_client.importance.imatrix import Importance
from raq_client.importance.imatrix_file import read_importance
from raq_client.prompts.chats import Chat
from raq_client.prompts.template import require_template
from support.chat_models import QWEN, with_template
from support.commands import client
from support.engine_models import MODEL
from support.llama_server import llama_server
from support.proxies import Relay, fetch, running_proxy, tcp_server

CONTEXT = 64
CHAT = "/v1/chat/completions"
SECRET = "xylophone"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_template(tmp_path_factory.mktemp("capture") / "model.gguf", QWEN)


@pytest.fixture(scope="module")
def upstream(model: Path) -> Iterator[str]:
    with llama_server(model, slots=4, context=2048) as address:
        yield address


def _request(number: int, *, stream: bool) -> bytes:
    question = f"A {SECRET} has {number} bars, each of {number + 3} cm. How long are they together? Grüße 🙂"
    return json.dumps(
        {"messages": [{"role": "user", "content": question}], "max_tokens": 24, "temperature": 0.8, "stream": stream}
    ).encode()


def _collected(model: Path, exchanges: list[Exchange]) -> Importance:
    """What `imatrix collect` counts of these chats, in this order, in one file."""
    template = require_template(model)
    chats = [chat for exchange in exchanges for chat in texts_of(exchange) if isinstance(chat, Chat)]
    text = template.corpus(chats, "exchanges")
    return collect(model, [Text("chats", text, special=True)], context=CONTEXT, threads=1)


def test_eight_streams_pass_unchanged_and_count_as_collect_counts_them(
    model: Path, upstream: str, tmp_path: Path
) -> None:
    output = tmp_path / "live.imatrix.gguf"
    worker = Worker(Job(model, output, CONTEXT, threads=1))
    exchanges: list[Exchange] = []
    sent = [_request(number, stream=number % 4 != 3) for number in range(16)]
    got: list[bytes] = [b""] * len(sent)
    host, port = upstream.removeprefix("http://").split(":")
    relay = Relay((host, int(port)))

    def observe(exchange: Exchange) -> None:
        exchanges.append(exchange)
        worker.submit(exchange)

    with tcp_server(relay.handle) as between, running_proxy(f"http://127.0.0.1:{between}", observe, []) as proxy:

        def ask(numbers: range) -> None:
            for number in numbers:
                got[number] = fetch(proxy, "POST", CHAT, sent[number], {"Content-Type": "application/json"})

        clients = [threading.Thread(target=ask, args=(range(first, 16, 8),)) for first in range(8)]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
    counted = worker.close()
    assert sorted(relay.passed) == sorted(zip(sent, got, strict=True))  # what the server wrote is what clients read
    assert sum(data.count(b"data:") for data in got) > 12 * 4
    assert (counted.exchanges, counted.left_out) == (16, {})
    expected, found = _collected(model, exchanges), read_importance(output)
    assert found.digest() == expected.digest()
    assert found.chunk_count == expected.chunk_count == counted.windows >= 10
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


@contextmanager
def _capturing(model: Path, upstream: str | None, output: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "raq_client", "capture", "--listen", "127.0.0.1:0"]
    command += [] if upstream is None else ["--upstream", upstream]
    command += ["--model", str(model), "-o", str(output), "--context", str(CONTEXT), "--threads", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = ""
            while not said.rpartition("\n")[2].startswith("listening on"):
                line = process.stderr.readline()
                assert line, said
                said += f"\n{line.rstrip()}"
            process.said = said  # type: ignore[attr-defined]
            yield process, int(line.split(",")[0].rpartition(":")[2])
        finally:
            process.kill()


def _ended(process: "subprocess.Popen[str]", number: int) -> tuple[int, Any, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, json.loads(out), process.said + err  # type: ignore[attr-defined]


@pytest.mark.parametrize("ending", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_capture_goes_on_from_the_file_and_a_signal_writes_it(
    ending: int, model: Path, upstream: str, tmp_path: Path
) -> None:
    output = tmp_path / "live.imatrix.gguf"
    server = int(upstream.rpartition(":")[2])

    def asked(port: int, numbers: range) -> list[Exchange]:
        requests = [_request(number, stream=True) for number in numbers]
        return [Exchange(CHAT, request, fetch(port, "POST", CHAT, request)) for request in requests]

    worker = Worker(Job(model, output, CONTEXT, threads=1))
    before = asked(server, range(4))
    for exchange in before:
        worker.submit(exchange)
    assert worker.close().exchanges == 4
    with _capturing(model, upstream, output) as (process, port):
        fetch(port, "GET", "/v1/models")
        after = asked(port, range(4, 8))
        code, report, err = _ended(process, ending)
    expected, found = merge([_collected(model, before), _collected(model, after)]), read_importance(output)
    assert (code, report["requests"], report["exchanges"], report["left_out"]) == (0, 5, 4, {})
    assert report["windows"] == found.chunk_count == expected.chunk_count
    assert "going on from" in err
    assert "Traceback" not in err
    for name, entry in expected.entries.items():
        np.testing.assert_allclose(found.entries[name].sums, entry.sums, rtol=1e-6)
        np.testing.assert_array_equal(found.entries[name].counts, entry.counts)


def test_without_a_server_the_model_answers_and_counts(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "live.imatrix.gguf"
    exchanges = []
    with _capturing(model, None, output) as (process, port):
        for number in range(6):
            request = _request(number, stream=number % 2 == 0)
            exchanges.append(
                Exchange(CHAT, request, fetch(port, "POST", CHAT, request, {"Content-Type": "application/json"}))
            )
        code, report, err = _ended(process, signal.SIGINT)
    expected = _collected(model, exchanges)
    assert (code, report["requests"], report["exchanges"], report["left_out"]) == (0, 6, 6, {})
    assert "answering with model" in err
    assert read_importance(output).digest() == expected.digest()
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.slow
def test_killed_it_leaves_a_file_with_what_was_counted(model: Path, upstream: str, tmp_path: Path) -> None:
    """The worker outlives the proxy's process for as long as it counts what that had sent."""
    output = tmp_path / "live.imatrix.gguf"
    with _capturing(model, upstream, output) as (process, port):
        exchanges = []
        for number in range(6):
            request = _request(number, stream=False)
            exchanges.append(Exchange(CHAT, request, fetch(port, "POST", CHAT, request)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    for _ in range(2000):  # the worker has the lowest priority
        if output.exists():
            break
        time.sleep(0.1)
    possible = [_collected(model, exchanges[:count]).digest() for count in range(3, 7)]
    assert read_importance(output).digest() in possible


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--model": MODEL}, "has no chat template"),
        ({"--upstream": "localhost:1"}, "is no address like http://"),
        ({"--answer-context": 64}, "is for answers of the model itself"),
        ({"--listen": "8081"}, "is not HOST:PORT"),
        ({"--listen": "TAKEN"}, "can't listen on 127.0.0.1"),
        ({"-o": "live.dat"}, "name an output that ends in .gguf"),
        ({"--context": 8}, "must be at least 16 tokens"),
    ],
)
def test_mistakes_are_one_sentence(
    change: dict[str, Any], said: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"--upstream": "http://127.0.0.1:1", "--listen": "127.0.0.1:0", "--model": model, "-o": "live.gguf"}
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        given = {name: taken if value == "TAKEN" else value for name, value in (options | change).items()}
        result = client("capture", *(part for pair in given.items() for part in pair))
    assert result.code == 2
    assert said in result.err
    assert list(tmp_path.iterdir()) == []


def test_another_models_file_is_not_gone_on_from(model: Path, tmp_path: Path, imatrix_path: Path) -> None:
    output = tmp_path / "live.gguf"
    output.write_bytes(imatrix_path.read_bytes())
    options = ("--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--model", model, "-o", output)
    result = client("capture", *options)
    assert result.code == 2
    assert "was not captured with this model" in result.err
    assert output.read_bytes() == imatrix_path.read_bytes()
