"""A model hub on this machine: the part of the Hub's HTTP API that raq uses, and its faults.

What it answers follows the documented API: `/api/models/REPO[/revision/REV]`, `/REPO/resolve/REV/FILE` with
`X-Repo-Commit`, `X-Linked-Etag` and `X-Linked-Size`, large files by a redirect to a second host, errors with
`X-Error-Code`.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

LARGE = 10_000
"""Files of at least this many bytes are stored apart and served by redirect, as large files are."""


@dataclass
class Repo:
    """The files of a repository at one commit."""

    files: dict[str, bytes]
    token: str | None = None
    gated: bool = False
    revisions: tuple[str, ...] = ("main",)

    @property
    def sha(self) -> str:
        state = hashlib.sha1()
        for name, data in sorted(self.files.items()):
            state.update(name.encode() + hashlib.sha256(data).digest())
        return state.hexdigest()


@dataclass
class Hub:
    """The state of the server. `fault(method, path)` may answer a status code in place of the real answer."""

    repos: dict[str, Repo] = field(default_factory=dict)
    fault: Callable[[str, str], int | None] = lambda _method, _path: None
    cut: Callable[[str], int | None] = lambda _path: None
    damage: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range of every request."""
    tokens_at_store: list[str] = field(default_factory=list)
    """Authorization headers that arrived at the host of large files, which must not see any."""
    address: str = ""
    store: str = ""
    uploads: dict[str, bytes] = field(default_factory=dict)
    """Large files that were received whole, by SHA-256."""
    commits: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    """Parts of large files, by SHA-256 and number."""
    token: str = "hf_writer"

    def sent(self, part: str) -> list[tuple[str, str, str | None]]:
        """The requests whose path contains `part`."""
        return [one for one in self.requests if part in one[1]]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status = self.hub.fault(self.command, path)
        if status is not None:
            self.send(status, b"", {"X-Error-Message": "made to fail"})
            return
        self.route(path, body)

    def route(self, path: str, body: bytes) -> None:
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            if (repo := self.readable(found[1], found[2] or "main")) is not None:
                self.send_json(
                    {
                        "id": found[1],
                        "sha": repo.sha,
                        "siblings": [{"rfilename": name, "size": len(data)} for name, data in repo.files.items()],
                    }
                )
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if (repo := self.readable(found[1], found[2])) is not None:
                self.file(repo, found[3])
        elif found := re.fullmatch(r"/store/([0-9a-f]{64})", path):
            self.tokens()
            data = next(
                data for repo in self.hub.repos.values() for data in repo.files.values() if _sha256(data) == found[1]
            )
            self.content(bytes(len(data)) if self.hub.damage else data, {"ETag": f'"{found[1]}"'})
        else:
            self.upload(path, body)

    def readable(self, name: str, revision: str) -> Repo | None:
        """The repository, if it may be read; else the answer is sent."""
        repo, given = self.hub.repos.get(name), self.headers.get("Authorization")
        if given is not None and given not in {f"Bearer {known.token}" for known in self.hub.repos.values()}:
            self.send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo is None:
            self.send(401 if given is None else 404, b"", {"X-Error-Code": "RepoNotFound"})
        elif repo.gated and given != f"Bearer {repo.token}":
            self.send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it is restricted."})
        elif revision not in {repo.sha, *repo.revisions}:
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return repo
        return None

    def file(self, repo: Repo, name: str) -> None:
        if name not in repo.files:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.sha})
            return
        data = repo.files[name]
        digest = _sha256(data) if len(data) >= LARGE else hashlib.sha1(data).hexdigest()
        headers = {"X-Repo-Commit": repo.sha, "ETag": f'"{digest}"'}
        if len(data) < LARGE:
            self.content(data, headers)
            return
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        self.send(302, b"", headers | {"Location": f"{self.hub.store}/store/{digest}"})

    def content(self, data: bytes, headers: dict[str, str]) -> None:
        """A file or the range of it that is asked for; cut short where the hub is told to."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        part = data[int(asked[1]) : int(asked[2] or len(data)) + 1] if asked else data
        if asked:
            headers |= {"Content-Range": f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(data)}"}
        at = self.hub.cut(self.path) if self.command == "GET" else None
        self.send(206 if asked else 200, part if at is None else part[:at], headers, length=len(part))

    def tokens(self) -> None:
        if "Authorization" in self.headers:
            self.hub.tokens_at_store.append(self.headers["Authorization"])

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            try:
                self.wfile.write(body)
            except ConnectionError:
                self.close_connection = True
        if length is not None and length != len(body):
            self.close_connection = True

    def upload(self, path: str, body: bytes) -> None:
        """Overridden where files are received."""
        self.send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": f"no route for {path}, {len(body)}"})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def running_hub(handler: type[_Handler] = _Handler) -> Iterator[Hub]:
    """A hub, and a second host for its large files, until the block ends."""
    hub = Hub()
    bound = type("Bound", (handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), bound) as front, ThreadingHTTPServer(("127.0.0.2", 0), bound) as back:
        hub.address = f"http://127.0.0.1:{front.server_port}"
        hub.store = f"http://127.0.0.2:{back.server_port}"
        threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in (front, back)
        ]
        for thread in threads:
            thread.start()
        try:
            yield hub
        finally:  # threads that still serve would keep the process from ending
            for server in (front, back):
                server.shutdown()
            for thread in threads:
                thread.join()


@contextmanager
def hub_in_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the hub's library takes for the real one in this process, with its cache in a folder."""
    from huggingface_hub import close_session, constants

    from raq_client.hub.download import find

    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        find.cache_clear()
        try:
            yield running
        finally:
            find.cache_clear()
            close_session()


class Writable(_Handler):
    """A hub that takes uploads too: repositories, large files by Git LFS with multipart upload, commits as NDJSON."""

    PART = 1_000_000

    def do_PUT(self) -> None:
        """A part of a large file; cut where the hub is told to."""
        self.hub.requests.append(("PUT", self.path, None))
        size = int(self.headers.get("Content-Length") or 0)
        status = self.hub.fault("PUT", self.path)
        if self.hub.cut(self.path) is not None:
            self.rfile.read(size // 2)
            self.close_connection = True
            self.connection.close()
            return
        data = self.rfile.read(size)
        self.tokens()
        if status is not None:
            self.send(status, b"", {})
            return
        _, _, oid, part = self.path.split("/")
        self.hub.parts[oid, int(part)] = data
        self.send(200, b"", {"ETag": f'"{_sha256(data)}"'})

    def upload(self, path: str, body: bytes) -> None:
        given = self.headers.get("Authorization")
        if path == "/api/validate-yaml":
            self.send_json({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/lfs/complete/([0-9a-f]{64})", path):  # comes without token
            self.complete(found[1], json.loads(body))
        elif given != f"Bearer {self.hub.token}":
            self.send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            self.send_json({"files": [self.mode(found[1], one) for one in json.loads(body)["files"]]})
        elif found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            self.send_json(
                {"transfer": "multipart", "objects": [self.action(one) for one in json.loads(body)["objects"]]}
            )
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            super().upload(path, body)

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        there = name in self.hub.repos
        self.hub.repos.setdefault(name, Repo({}))
        self.send(409 if there else 200, json.dumps({"url": f"{self.hub.address}/{name}"}).encode(), {})

    def mode(self, repo: str, file: dict[str, Any]) -> dict[str, Any]:
        return {
            "path": file["path"],
            "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
            "shouldIgnore": False,
        }

    def action(self, wanted: dict[str, Any]) -> dict[str, Any]:
        oid, size = wanted["oid"], wanted["size"]
        if oid in self.hub.uploads:
            return {"oid": oid, "size": size}
        count = -(-size // self.PART)
        parts = {str(number): f"{self.hub.store}/part/{oid}/{number}" for number in range(1, count + 1)}
        href = f"{self.hub.address}/lfs/complete/{oid}"
        return {
            "oid": oid,
            "size": size,
            "actions": {"upload": {"href": href, "header": {"chunk_size": str(self.PART)} | parts}},
        }

    def complete(self, oid: str, said: dict[str, Any]) -> None:
        numbers = [part["partNumber"] for part in said["parts"]]
        data = b"".join(self.hub.parts[oid, number] for number in numbers)
        if _sha256(data) != oid:
            self.send(400, b"", {"X-Error-Message": "other bytes than announced"})
            return
        self.hub.uploads[oid] = data
        self.send_json({})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repo = self.hub.repos[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.uploads[value["oid"]]
        self.hub.commits.append({"repo": name, "message": lines[0]["value"]["summary"]})
        self.send_json({"commitUrl": f"{self.hub.address}/{name}/commit/{repo.sha}", "commitOid": repo.sha})
