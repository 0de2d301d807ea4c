import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import gguf
import numpy as np
import pytest

from raq_client.models.read_table import read_table
from raq_solver.errors import InvalidInput
from support.gguf_files import MODEL_4M, split_model, write


class _Files(BaseHTTPRequestHandler):
    """Serves a folder, with ranges or without, and counts the bytes it was asked for."""

    folder: ClassVar[Path]
    ranges: ClassVar[bool] = True
    asked: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = int(self.headers["Range"].rpartition("-")[2]) + 1
        self.asked.append(asked)
        data = data[:asked] if self.ranges else data
        self.send_response(206 if self.ranges else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
        except ConnectionError:
            # The reader has what it wanted.
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    handler = type("Files", (_Files,), {"folder": tmp_path, "ranges": request.param, "asked": _Files.asked})
    _Files.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_header_is_read_without_the_model(address: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(MODEL_4M.read_bytes())
    table, local = read_table(f"{address}/m.gguf"), read_table(MODEL_4M)
    assert (table.name, table.architecture, table.tensors) == (local.name, local.architecture, local.tensors)
    assert table.metadata == local.metadata
    assert _Files.asked == [2**20]


def test_a_large_header_takes_more_than_one_request(address: str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_string("general.description", "x" * 5_000_000)
    writer.add_tensor("one.weight", np.zeros(4, np.float32))
    write(writer)
    assert [tensor.name for tensor in read_table(f"{address}/m.gguf").tensors] == ["one.weight"]
    assert _Files.asked == [2**20, 2**22, 2**24]


def test_any_shard_leads_to_all(address: str, tmp_path: Path) -> None:
    shards = split_model(tmp_path)
    local = read_table(shards[0])
    for shard in shards:
        table = read_table(f"{address}/{shard.name}")
        assert (table.name, table.tensors) == ("big", local.tensors)


def test_what_is_not_there_is_said(address: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="the server answers 404"):
        read_table(f"{address}/absent.gguf")
    (tmp_path / "page.gguf").write_text("<html>")
    with pytest.raises(InvalidInput, match="not a GGUF file"):
        read_table(f"{address}/page.gguf")
    (tmp_path / "cut.gguf").write_bytes(MODEL_4M.read_bytes()[:5000])
    with pytest.raises(InvalidInput, match="cut off"):
        read_table(f"{address}/cut.gguf")


def test_a_missing_shard_is_said(address: str, tmp_path: Path) -> None:
    shards = split_model(tmp_path)
    shards[1].unlink()
    with pytest.raises(InvalidInput, match="00002-of-00003"):
        read_table(f"{address}/{shards[0].name}")
    shards[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(InvalidInput, match="not named as one"):
        read_table(f"{address}/renamed.gguf")


def test_nobody_there_is_said() -> None:
    with pytest.raises(InvalidInput, match="can't be read"):
        read_table("http://127.0.0.1:1/m.gguf")
