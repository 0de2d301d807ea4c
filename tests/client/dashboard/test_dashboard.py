"""A real dashboard and hostile requests: who may ask, what is refused, and that it answers as the commands do."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raq_client.dashboard.guard import LARGEST_BODY
from raq_client.dashboard.hub import MOST_PAGES
from support.commands import client
from support.dashboards import SECONDS, Dashboard, model_folder, running, start
from support.gguf_files import named_model

SCRIPT = "<script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("dashboard")
    (base / "secret.gguf").write_bytes(b"secret")
    (base / "secret.txt").write_text("secret")
    root = model_folder(base / "models")
    (root / "link.gguf").symlink_to(base / "secret.gguf")
    (root / "broken.gguf").write_bytes(b"GGUF broken")
    (root / "bad.recipe.toml").write_text('format = "raq-recipe-1"\nnme = "x"\n')
    return root


@pytest.fixture(scope="module")
def dashboard(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with running(folder, tmp_path_factory.mktemp("cache")) as found:
        yield found


# --- who may ask


def test_the_printed_address_opens_a_page_and_leaves_no_token_in_it(dashboard: Dashboard) -> None:
    first = dashboard.request("GET", f"/?token={dashboard.token}")
    assert (first.status, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"]
    assert re.search(r"HttpOnly", cookie)
    assert re.search(r"SameSite=strict", cookie)
    page = dashboard.request("GET", "/model", cookie=cookie.partition(";")[0])
    assert page.status == 200
    assert b"<h1" in page.body


@pytest.mark.parametrize("path", ["/", "/model", "/plan", "/api/folder", "/api/jobs", "/events", "/none"])
def test_without_the_token_nothing_is_shown(dashboard: Dashboard, path: str) -> None:
    for headers in ({}, {"x_raq_token": "wrong"}, {"cookie": f"raq-{dashboard.port}=wrong"}, {"cookie": "\x01=;;,"}):
        reply = dashboard.request("GET", path, **headers)
        assert reply.status == 403
        assert dashboard.token.encode() not in reply.body


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1", "localhost", "127.0.0.1:1", "evil.example:{port}", "127.0.0.1.evil:{port}", ""],
)
def test_another_host_name_is_refused(dashboard: Dashboard, host: str) -> None:
    named = host.format(port=dashboard.port)
    sent = b"{}" if host else None  # without Host the server answers and closes before it reads a body
    for method, body in (("GET", None), ("POST", sent)):
        reply = dashboard.request(
            method, "/api/jobs", body, host=named, x_raq_token=dashboard.token, content_type="application/json"
        )
        assert reply.status in {400, 403}  # 400: no Host at all, which HTTP/1.1 forbids


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1"])
def test_writes_of_another_origin_are_refused(dashboard: Dashboard, origin: str) -> None:
    reply = dashboard.post("/api/jobs", {}, origin=origin.format(port=dashboard.port))
    assert reply.status == 403


def test_writes_need_the_token_as_a_header_and_json(dashboard: Dashboard) -> None:
    cookie = f"raq-{dashboard.port}={dashboard.token}"
    assert dashboard.post("/api/preflight", {}, x_raq_token="", cookie=cookie).status == 403
    assert dashboard.post("/api/preflight", {}, x_raq_token="wrong").status == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert dashboard.post("/api/preflight", {}, content_type=kind).status == 415
    assert dashboard.post("/api/preflight", {}, content_type="application/json; charset=utf-8").status == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b'"a"', b"\xff", b'{"actions": [1]}', b'{"actions": {"rm": {}}}', b"[" * 100_000, b"9" * 5_000],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_request_is_refused_with_a_sentence(dashboard: Dashboard, body: bytes) -> None:
    reply = dashboard.request(
        "POST", "/api/preflight", body, x_raq_token=dashboard.token, content_type="application/json"
    )
    assert reply.status in {400, 404}
    assert reply.json["error"]


def test_a_huge_body_is_refused_before_it_is_read(dashboard: Dashboard) -> None:
    said = {"x_raq_token": dashboard.token, "content_type": "application/json"}
    reply = dashboard.request("POST", "/api/jobs", b"", **said, content_length=str(100 * 2**20))
    assert reply.status == 413
    chunked = b"%x\r\n" % (LARGEST_BODY + 1) + b"x" * (LARGEST_BODY + 1) + b"\r\n0\r\n\r\n"
    reply = dashboard.request("POST", "/api/jobs", chunked, **said, transfer_encoding="chunked", content_length="")
    assert reply.status == 413


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(dashboard: Dashboard, method: str) -> None:
    assert dashboard.request(method, "/api/jobs", x_raq_token=dashboard.token).status == 405


@pytest.mark.parametrize("path", ["/model", "/static/style.css", "/api/folder", "/none", "/static/none"])
def test_every_answer_forbids_other_sources(dashboard: Dashboard, path: str) -> None:
    headers = dashboard.request("GET", path, x_raq_token=dashboard.token).headers
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in headers


# --- no file outside of the folder


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/static/%00",
        "/static/..%5capp.py", "/static/....//app.py",
    ],
)  # fmt: skip
def test_static_files_are_those_of_one_folder(dashboard: Dashboard, path: str) -> None:
    reply = dashboard.request("GET", path, x_raq_token=dashboard.token)
    assert reply.status in {400, 404}
    assert b"make_app" not in reply.body


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "link.gguf", ".raq/jobs.sqlite", "", "%00", "-h"])
@pytest.mark.parametrize("question", ["model", "profile", "importance", "paths"])
def test_questions_read_only_files_of_the_folder(dashboard: Dashboard, question: str, name: str) -> None:
    reply = dashboard.request("GET", f"/api/{question}?file={name}", x_raq_token=dashboard.token)
    assert reply.status in {400, 404}
    assert b"secret" not in reply.body.replace(b"secret.txt", b"")


@pytest.mark.parametrize("name", ["../raq.toml", "/tmp/raq.toml", ".raq/x.plan.json", "../x.plan.json", "model.gguf"])
def test_nothing_is_saved_elsewhere(dashboard: Dashboard, folder: Path, name: str) -> None:
    before = sorted(folder.parent.iterdir())
    fields = {"profile": "held-out.txt", "budget": "5.0"}
    assert dashboard.post("/api/save", {"name": name, "fields": fields, "replace": True}).status in {400, 409}
    assert sorted(folder.parent.iterdir()) == before


def test_links_out_of_the_folder_are_not_listed_and_broken_files_are_with_their_error(dashboard: Dashboard) -> None:
    found = {each["file"]: each for each in dashboard.get("/api/folder")}
    assert "link.gguf" not in found
    assert "broken.gguf" in found["broken.gguf"]["error"]
    assert "no such key" in found["bad.recipe.toml"]["error"]
    assert "did you mean name" in found["bad.recipe.toml"]["error"]
    assert found["wiki-math-4M-f16.gguf"]["kind"] == "model"
    assert found["wiki-math-4M.wiki.imatrix.gguf"]["kind"] == "importance"


# --- many clients


def test_a_thousand_streams_do_not_stop_it(dashboard: Dashboard) -> None:
    request = f"GET /events HTTP/1.1\r\nHost: {dashboard.host}\r\nX-Raq-Token: {dashboard.token}\r\n\r\n".encode()
    statuses: list[bytes] = []
    streams = []
    for _ in range(1000):
        stream = socket.create_connection(("127.0.0.1", dashboard.port), 30)
        stream.sendall(request)
        streams.append(stream)
    try:
        statuses = [stream.recv(12) for stream in streams]
        assert statuses.count(b"HTTP/1.1 200") == MOST_PAGES
        assert statuses.count(b"HTTP/1.1 503") == 1000 - MOST_PAGES
        assert dashboard.request("GET", "/model", x_raq_token=dashboard.token).status == 200
    finally:
        for stream in streams:
            stream.close()
    end = time.monotonic() + SECONDS
    while not dashboard_listens(dashboard):  # until the places of those who left are free again
        assert time.monotonic() < end
        time.sleep(0.05)


def dashboard_listens(dashboard: Dashboard) -> bool:
    request = f"GET /events HTTP/1.1\r\nHost: {dashboard.host}\r\nX-Raq-Token: {dashboard.token}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", dashboard.port), 30) as stream:
        stream.sendall(request)
        return stream.recv(12) == b"HTTP/1.1 200"


# --- it answers as the commands do


def test_its_process_has_loaded_none_of_raqs_native_code(dashboard: Dashboard) -> None:
    dashboard.get("/api/folder")
    dashboard.get("/api/model?file=wiki-math-4M-f16.gguf")
    maps = Path(f"/proc/{dashboard.process.pid}/maps").read_text()
    loaded = {Path(line.split()[-1]).name for line in maps.splitlines() if ".so" in line}
    assert not [name for name in loaded if re.search(r"raq_native|knapsack|llama|ggml|ortools|numpy", name)]
    assert any("ssl" in name or "json" in name or "asyncio" in name for name in loaded), "the maps are not of Python"


def test_pages_answer_what_the_commands_print(dashboard: Dashboard, folder: Path) -> None:
    model, importance = folder / "wiki-math-4M-f16.gguf", folder / "wiki-math-4M.wiki.imatrix.gguf"
    shown = client("imatrix", "show", importance, "--json").json
    assert dashboard.get(f"/api/importance?file={importance.name}") == shown
    inspected = client("inspect", model, "--tensors", "--json").json[0]
    assert dashboard.get(f"/api/model?file={model.name}") == inspected | {"file": model.name}


def test_the_sentence_of_a_command_is_the_error(dashboard: Dashboard) -> None:
    reply = dashboard.request("GET", "/api/importance?file=wiki-math-4M-f16.gguf", x_raq_token=dashboard.token)
    assert reply.status == 400
    assert "importance" in reply.json["error"]
    assert "Traceback" not in reply.json["error"]


def test_an_action_that_can_not_be_started_says_why_and_is_not_started(dashboard: Dashboard) -> None:
    fields = {"model": "none.gguf", "output": "x.gguf", "budget": "5.0"}
    found = dashboard.post("/api/preflight", {"actions": {"run": fields}}).json["run"]
    assert found["reasons"] == ["none.gguf: there is no such file"]
    reply = dashboard.post("/api/jobs", {"action": "run", "fields": fields})
    assert (reply.status, reply.json["error"]) == (409, "none.gguf: there is no such file")
    assert dashboard.get("/api/jobs")["unfinished"] == []


@pytest.mark.parametrize("verb", ["cancel", "retry", "move"])
@pytest.mark.parametrize(("number", "status"), [(10**6, 404), ("1", 400), (True, 400), (None, 400)])
def test_jobs_that_are_not_there_can_not_be_touched(
    dashboard: Dashboard, verb: str, number: object, status: int
) -> None:
    assert dashboard.post(f"/api/jobs/{verb}", {"id": number}).status == status


def test_text_of_files_is_text(dashboard: Dashboard, folder: Path) -> None:
    """The browser tests see that it is not run; here: the page has no way to hold it but as JSON."""
    named_model(folder / "named.gguf", SCRIPT)
    found = {each["file"]: each for each in dashboard.get("/api/folder")}
    assert found["named.gguf"]["name"] == SCRIPT
    for page in ("model", "plan", "build", "compare"):
        assert SCRIPT.encode() not in dashboard.request("GET", f"/{page}", x_raq_token=dashboard.token).body
    (folder / "named.gguf").unlink()


# --- starting


def test_a_folder_has_one_dashboard(dashboard: Dashboard, folder: Path) -> None:
    refused = client("dashboard", folder, "--port", "0")
    assert refused.code == 2
    assert f"has a dashboard already, at http://127.0.0.1:{dashboard.port}/" in refused.err
    assert dashboard.token not in refused.err


def test_what_can_not_be_served_is_a_sentence(dashboard: Dashboard, tmp_path: Path) -> None:
    assert "is not a folder" in client("dashboard", tmp_path / "none").err
    taken = client("dashboard", tmp_path, "--port", str(dashboard.port))
    assert (taken.code, "can't be listened on" in taken.err) == (2, True)


def test_each_start_has_its_own_token(tmp_path: Path) -> None:
    first = start(tmp_path, tmp_path / "cache")
    assert first.stop() == 130
    second = start(tmp_path, tmp_path / "cache")
    try:
        assert first.token != second.token
        assert second.request("GET", "/model", x_raq_token=first.token).status == 403
    finally:
        assert second.stop() == 130


def test_json(dashboard: Dashboard) -> None:
    assert json.loads(dashboard.request("GET", "/api/none", x_raq_token=dashboard.token).body) == {"error": "Not Found"}


def test_it_ends_while_a_question_is_answered_without_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = start(model_folder(tmp_path / "asked"), tmp_path / "cache")
    answers: list[int] = []
    body = {"domain": "wiki-math-4M.wiki.imatrix.gguf", "general": "wiki-math-4M.gsm8k.fisher.imatrix.gguf"}
    path = "/api/ratio?" + "&".join(f"{key}={value}" for key, value in body.items())

    def ask() -> None:
        try:
            answers.append(found.request("GET", path, x_raq_token=found.token).status)
        except (OSError, http.client.HTTPException):  # it had ended before it saw the question
            answers.append(0)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    assert found.stop() == 130
    asking.join()
    assert answers in ([503], [200], [0])  # 200: it was answered before
    assert "Traceback" not in capfd.readouterr().err
