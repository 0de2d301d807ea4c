"""From a model to a folder that can be uploaded, by two commands, as docs/publish.md shows them."""

import json
from pathlib import Path

from support.commands import client
from support.gguf_files import Reader


def test_a_run_becomes_a_folder_whose_card_says_what_was_measured(
    tmp_path: Path, model_path: Path, imatrix_path: Path, data: Path
) -> None:
    model, manifest = tmp_path / "tiny-5bpw.gguf", tmp_path / "tiny.manifest.json"
    text = ("-t", data / "gsm8k.evaluation.txt", "--windows", 2, "--context", 256)
    importance = ("-i", imatrix_path)
    ran = client("run", model_path, "-b", "5.0", *importance, *text, "--no-trial", "-o", model, "--manifest", manifest)
    assert ran.code == 0, ran.err
    done = client(
        "publish", "me/tiny-GGUF", manifest, "--base-model", "org/tiny", "--dry-run", "-o", tmp_path / "out", "--json"
    )
    assert done.code == 0, done.err
    folder = Path(done.json["folder"])
    card = (folder / "README.md").read_text()
    kl = json.loads(manifest.read_text())["check"]["overall"]["kl"]
    assert f"{kl['value']:.5f} ± {max(kl['token_error'], kl['window_error']):.5f}" in card
    assert imatrix_path.name in done.json["files"]
    for name in done.json["files"]:
        assert str(tmp_path).encode() not in (folder / name).read_bytes(), name
    # The plan that is published writes the same file again.
    again = tmp_path / "again.gguf"
    plan = folder / "tiny-5bpw.plan.json"
    assert client("quantize", model_path, "-a", plan, "-i", imatrix_path, "-o", again).code == 0
    types = [{t.name: t.tensor_type for t in Reader(path).tensors} for path in (model, again)]
    assert types[0] == types[1]
