"""Manifests name what went in and what came out."""

import hashlib
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from raq_client.files.manifest import FORMAT, file_digest, make_manifest, write_manifest


@given(content=st.binary(max_size=4096))
def test_digests_are_sha256(tmp_path_factory: object, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "file"  # type: ignore[attr-defined]
    path.write_bytes(content)
    assert file_digest(path) == hashlib.sha256(content).hexdigest()


def test_a_manifest_is_written_whole_and_replaced(tmp_path: Path) -> None:
    source, out, kept = tmp_path / "in", tmp_path / "out", tmp_path / "manifest.json"
    source.write_bytes(b"weights")
    out.write_bytes(b"blocks")
    for steps in ([], [{"name": "one"}]):
        write_manifest(make_manifest(["raq-client", "x"], [source], [out], {"steps": steps}), kept)
    found = json.loads(kept.read_text())
    assert found["format"] == FORMAT
    assert found["command"] == ["raq-client", "x"]
    assert found["inputs"] == {str(source): hashlib.sha256(b"weights").hexdigest()}
    assert found["outputs"] == {str(out): hashlib.sha256(b"blocks").hexdigest()}
    assert found["steps"] == [{"name": "one"}]
    assert found["versions"].keys() >= {"raq", "numpy"}
