"""A web server of files by ranges, with the faults that such servers have."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What the server has and does. `faults` are used up, one by each request, in order.

    A fault is a status with Retry-After (or None), or the number of bytes after which the connection is cut.
    """

    data: dict[str, bytes] = field(default_factory=dict)
    faults: list[tuple[int, str | None] | int] = field(default_factory=list)
    ranges: bool = True
    version: str = '"one"'
    address: str = ""
    asked: list[tuple[int, int]] = field(default_factory=list)
    """First byte and size of every range that is sent whole."""

    @property
    def sent(self) -> int:
        """Bytes of all of them."""
        return sum(size for _, size in self.asked)


class _Handler(BaseHTTPRequestHandler):
    files: Files
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        files = self.files
        fault = files.faults.pop(0) if files.faults else None
        if isinstance(fault, tuple):
            status, after = fault
            self.answer(status, b"", {} if after is None else {"Retry-After": after})
            return
        data = files.data.get(self.path.lstrip("/"))
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if data is None or asked is None:
            self.answer(404, b"", {})
            return
        if not files.ranges:
            self.answer(200, data, {"ETag": files.version})
            return
        first, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
        if first >= len(data):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        headers = {"Content-Range": f"bytes {first}-{end - 1}/{len(data)}", "ETag": files.version}
        if fault is None:  # before the answer, after which the reader may look
            files.asked.append((first, end - first))
        self.answer(206, data[first:end], headers, cut=fault)

    def answer(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body if cut is None else body[:cut])
        except ConnectionError:  # the reader has what it wanted
            self.close_connection = True
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def range_server() -> Iterator[Files]:
    """A server on this machine until the block ends."""
    files = Files()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"files": files})) as server:
        files.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield files
        finally:  # a thread that still serves would keep the process from ending
            server.shutdown()
            thread.join()
