"""Benchmarks: locked, fetched, verified, made into text, and answered by two models."""

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest

from raq_client.engine.texts import read_text
from raq_client.prompts.template import require_template
from support.chat_models import CHATML, with_template
from support.commands import Result, client
from support.engine_models import MODEL, write_quantized
from support.paths import DATA

REVISION = "3101c7d5072418e28b9008a6636bde82a006892c"
HUMANEVAL_SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a registry: GSM8K's sample as a file and at an address, and a set of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.jsonl").write_text(
        "\n".join(json.dumps({"question": f"{n} + {n}?", "answer": str(2 * n)}) for n in range(40))
    )
    (tmp_path / "gsm8k.jsonl").write_bytes((DATA / "gsm8k.train.head.jsonl").read_bytes())
    _registry(tmp_path)
    return tmp_path


def _registry(folder: Path, url: str = "http://127.0.0.1:1") -> None:
    pinned = f'revision = "{REVISION}"'
    sources = {
        "sample": 'form = "gsm8k"\nsource = { kind = "file", file = "gsm8k.jsonl" }',
        "sums": 'form = "question-answer"\nsource = { kind = "file", file = "sums.jsonl" }',
        "hub": f'form = "gsm8k"\nsource = {{ kind = "url", url = "{url}/{{revision}}/gsm8k.jsonl", {pinned} }}',
    }
    common = 'title = "t"\ndomain = "own"\nlicence = "MIT"\n'
    text = "\n".join(f"[benchmarks.{name}]\n{common}{source}" for name, source in sources.items())
    (folder / "own.toml").write_text(f'[bundles]\nboth = ["sample", "sums"]\n{text}\n')


@pytest.fixture
def hub(folder: Path) -> Iterator[Path]:
    """The folder that an HTTP server serves at the address in the registry."""
    served = folder / "served"
    (served / REVISION).mkdir(parents=True)
    (served / REVISION / "gsm8k.jsonl").write_bytes((DATA / "gsm8k.train.head.jsonl").read_bytes())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        _registry(folder, f"http://127.0.0.1:{server.server_port}")
        yield served / REVISION
        server.shutdown()
        thread.join()


def _bench(*arguments: object) -> Result:
    return client("bench", *arguments)


def _own(*arguments: object) -> Result:
    return _bench(*arguments, "--registry", "own.toml")


def test_the_registry_names_benchmarks_bundles_and_domains(folder: Path) -> None:
    found = _own("list", "--json").json
    assert {"gsm8k", "humaneval", "sample", "hub"} <= set(found["benchmarks"])
    assert found["bundles"]["both"] == ["sample", "sums"]
    assert "Grade school" in _bench("list").out
    unknown = _bench("lock", "gsmk8")
    assert (unknown.code, "did you mean gsm8k" in unknown.err) == (2, True)
    (folder / "own.toml").write_text('[benchmarks.x]\ntitel = "t"\n')
    wrong = _own("list")
    assert (wrong.code, "no such key (did you mean title" in wrong.err) == (2, True)


def test_a_lock_pins_the_file_and_the_rows_and_is_checked_offline(hub: Path, folder: Path) -> None:
    entry = _own("lock", "hub", "--json").json["hub"]
    assert entry == json.loads((folder / "raq-bench.lock.json").read_text())["benchmarks"]["hub"]
    assert entry["file_sha256"] == hashlib.sha256((hub / "gsm8k.jsonl").read_bytes()).hexdigest()
    rows = (folder / "benchmarks" / "hub.jsonl").read_bytes()
    assert entry["content_sha256"] == hashlib.sha256(rows).hexdigest()
    assert (entry["rows"], entry["revision"], entry["licence"]) == (12, REVISION, "MIT")
    assert _bench("verify").code == 0
    (folder / "benchmarks" / "hub.jsonl").unlink()
    missing = _bench("verify")
    assert (missing.code, "get it with bench fetch hub" in missing.err) == (2, True)
    assert _own("fetch", "hub").code == 0
    assert (folder / "benchmarks" / "hub.jsonl").read_bytes() == rows
    assert _bench("verify").code == 0


def test_drift_stops_everything_and_changes_nothing(hub: Path, folder: Path) -> None:
    assert _own("lock", "hub", "sums").code == 0
    lock, rows = (folder / "raq-bench.lock.json").read_bytes(), (folder / "benchmarks" / "hub.jsonl").read_bytes()
    changed = (hub / "gsm8k.jsonl").read_bytes().replace(b"Natalia", b"Natalie")
    (hub / "gsm8k.jsonl").write_bytes(changed)
    for command in ("fetch", "lock"):
        result = _own(command, "hub")
        assert (result.code, "has drifted from the lock: file_sha256" in result.err) == (2, True)
    assert (folder / "raq-bench.lock.json").read_bytes() == lock
    assert (folder / "benchmarks" / "hub.jsonl").read_bytes() == rows
    assert _own("lock", "hub", "--force").code == 0  # which pins the new data on purpose
    (folder / "benchmarks" / "sums.jsonl").write_bytes(b'{"id":"0","question":"?","answer":"!"}\n')
    for command in (("verify",), ("corpus", "hub", "sums", "-o", "c.txt"), ("ab", MODEL, MODEL, "sums")):
        result = _bench(*command) if command[0] == "verify" else _own(*command)
        assert (result.code, "sums: has drifted" in result.err) == (2, True)
    assert not (folder / "c.txt").exists()


def test_a_source_that_is_not_there_is_one_sentence(folder: Path) -> None:
    unreachable = _own("lock", "hub")
    assert (unreachable.code, "can't be fetched" in unreachable.err) == (2, True)
    (folder / "sums.jsonl").unlink()
    gone = _own("lock", "sums")
    assert (gone.code, "can't be read" in gone.err) == (2, True)
    assert not (folder / "raq-bench.lock.json").exists()


def test_packages_are_sources_too(folder: Path) -> None:
    entries = _bench("lock", "humaneval", "syllogisms", "--json").json
    assert entries["humaneval"]["file_sha256"] == HUMANEVAL_SHA256
    assert entries["humaneval"]["rows"] == 164
    assert entries["syllogisms"]["rows"] == 300
    assert _bench("lock", "syllogisms").code == 0  # the same seed, the same rows
    assert _bench("fetch", "humaneval", "syllogisms").code == 0


def test_a_corpus_is_interleaved_and_says_what_it_is_made_of(folder: Path) -> None:
    assert _own("lock", "both").code == 0
    made = _own("corpus", "sample:3", "sums:1", "--cap", 8, "-o", "c.txt", "--json").json
    text = read_text(folder / "c.txt")
    assert hashlib.sha256(text.encode()).hexdigest() == made["corpus_sha256"]
    assert made == {"output": "c.txt", **json.loads((folder / "c.txt.json").read_text())}
    assert made["rows"]["sums"] == 8  # the small rows end first, and with them the text
    assert made["left_out"] == {"sample": 12 - made["rows"]["sample"], "sums": 32}
    assert text.startswith("Question: Natalia")
    assert text.count("Question: ") == sum(made["rows"].values())
    assert set(made["lock"]) == {"sample", "sums"}
    questions = _own("corpus", "sums", "--no-answers", "-o", "q.txt", "--json").json
    assert read_text(folder / "q.txt").startswith("Question: 0 + 0?\nAnswer:\n\n")
    assert questions["rows"] == {"sums": 40}
    mixed = _own("corpus", "sample:3", "sums", "-o", "m.txt")
    assert (mixed.code, "give all of them weights, or none" in mixed.err) == (2, True)


def test_a_corpus_for_a_model_is_chats_by_its_template(folder: Path) -> None:
    assert _own("lock", "sums").code == 0
    model = with_template(folder / "model.gguf", CHATML)
    made = _own("corpus", "sums", "--model", model, "-o", "c.txt", "--json").json
    template = require_template(model)
    assert made["template_sha256"] == hashlib.sha256(template.source.encode()).hexdigest()
    chats = read_text(folder / "c.txt").split(template.words.begin)
    assert len(chats) == 40
    assert chats[3] == "<|im_start|>user\n3 + 3?<|im_end|>\n<|im_start|>assistant\n6<|im_end|>\n"


def test_two_models_answer_the_same_items(folder: Path) -> None:
    assert _own("lock", "both").code == 0
    other = write_quantized(folder / "q4.gguf", gguf.GGMLQuantizationType.Q4_0)
    options = ("--limit", 6, "--max-tokens", 12, "--threads", 1)
    result = _own("ab", MODEL, other, "both", *options, "--save", folder, "--json")
    assert result.code == 0, result.err
    found = result.json["benchmarks"]
    assert [found[name]["items"] for name in ("sample", "sums")] == [6, 6]
    saved = folder / f"{MODEL.stem}.run.json"
    answers = json.loads(saved.read_text())["benchmarks"]["sums"]["items"]
    assert found["sums"]["right_a"] == sum(item["right"] for item in answers)
    again = _own("ab", saved, folder / "q4.run.json", "both", *options, "--json")
    assert again.json["benchmarks"] == found
    assert _own("ab", saved, saved, "both", *options).err.count("no difference on these items") == 2
    content = json.loads(saved.read_text())
    content["benchmarks"]["sums"]["content_sha256"] = "0" * 64
    content["most_tokens"] = 13
    (folder / "changed.json").write_text(json.dumps(content))
    refused = _own("ab", "changed.json", folder / "q4.run.json", "both", *options)
    assert refused.code == 2
    assert "sums: the models were asked different data" in refused.err
    assert "were asked differently: most tokens 13 and 12" in refused.err


def test_code_is_run_only_if_asked_for(folder: Path) -> None:
    assert _bench("lock", "humaneval").code == 0
    refused = _bench("ab", MODEL, MODEL, "humaneval", "--limit", 2)
    assert (refused.code, "allow that with --run-code" in refused.err) == (2, True)
    allowed = _bench("ab", MODEL, MODEL, "humaneval", "--limit", 2, "--max-tokens", 8, "--run-code", "--json")
    assert allowed.json["benchmarks"]["humaneval"]["items"] == 2
