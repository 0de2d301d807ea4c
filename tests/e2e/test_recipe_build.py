"""Recipes from the command line: new, verify, show, build, replay, diff, schema, and splice."""

import json
import shutil
import time
from pathlib import Path

import pytest

from raq_client.files.manifest import file_digest
from support.builds import project, recipe
from support.commands import Result, client
from support.gguf_files import Reader

RECIPE = "wiki-math-4M.recipe.toml"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def folder(tmp_path: Path, data: Path) -> Path:
    """A folder with the recipe of the test data, and what it names."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("wiki-math-4M-f16.gguf", "gsm8k.calibration.txt", "gsm8k.evaluation.txt", "gsm8k.train.head.jsonl"):
        (folder / name).symlink_to(data / name)
    for name in ("wiki-math-4M.bench.toml", "wiki-math-4M.bench.lock.json"):
        shutil.copy(data / name, folder / name)
    shutil.copytree(data / "benchmarks", folder / "benchmarks")
    shutil.copy(data / RECIPE, folder / RECIPE)
    return folder


def _types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in Reader(path).tensors}


def _quick(folder: Path) -> Path:
    """The recipe made quick: short windows, three types, few rows measured."""
    text = (folder / RECIPE).read_text(encoding="utf-8")
    for before, after in (
        ("windows = 60\nfisher = 4", "context = 32\nwindows = 8\nfisher = 1"),
        ('budget = "5.0"', 'budget = "5.0"\ntypes = ["Q4_K", "Q5_K", "Q6_K"]\nrows = 16'),
        ("[check]\nwindows = 8\nmax_kl = 0.02", "[check]\ncontext = 32\nwindows = 4"),
        ("limit = 4\nmax_tokens = 48", "limit = 2\nmax_tokens = 4"),
    ):
        assert before in text
        text = text.replace(before, after)
    path = folder / "quick.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _ok(result: Result) -> Result:
    assert result.code == 0, result.err
    return result


def test_a_recipe_is_verified_built_shown_and_replayed(folder: Path) -> None:
    path, store = _quick(folder), folder / "store"
    where = ("--store", store)
    findings = {one["what"]: one for one in _ok(client("recipe", "verify", path, *where, "--json")).json["findings"]}
    assert findings["importance"]["text"].startswith("will be collected")
    unknown = _ok(client("recipe", "show", path, *where))
    assert "types are not known yet" in unknown.err
    assert not store.exists() or not list((store / "tensors").glob("*"))
    result = _ok(client("recipe", "build", path, *where, "--json")).json
    out = folder / "wiki-math-4M-5bpw.gguf"
    assert result["sha256"] == file_digest(out)
    assert result["quantized"] == 30
    assert 0 < result["check"]["overall"]["kl"]["value"] < 0.1
    assert result["benchmarks"]["gsm8k-head"]["items"] == 2
    manifest = json.loads((folder / f"{out.name}.manifest.json").read_text())
    assert manifest["corpus"]["rows"] == {"gsm8k-head": 12}
    assert manifest["benchmarks"] == result["benchmarks"]
    assert {"benchmarks/gsm8k-head.jsonl", "wiki-math-4M.bench.lock.json"} <= set(manifest["inputs"])
    assert "raq/wiki-math-4M" in (folder / "wiki-math-4M-5bpw.md").read_text()
    shown = _ok(client("recipe", "show", path, *where, "--json")).json
    assert 0 < shown["quantizing_seconds"] < 60
    assert "to quantize on" in _ok(client("recipe", "show", path, *where)).out
    assert shown["allocation"] == result["allocation"] == _types(out)
    assert shown["file_bytes"] == out.stat().st_size
    tensors = _ok(client("recipe", "show", path, *where, "--tensors")).out
    assert all(name in tensors for name in shown["allocation"])
    assert "auto rule 1: 1 by price raised to Q6_K" in tensors
    replayed = _ok(client("recipe", "replay", f"{out}.manifest.json", *where, "--reuse", "--json")).json
    assert replayed["equal"]
    assert [one["what"] for one in replayed["compared"]][:2] == ["importance", "Fisher information"]
    assert sorted(path.name for path in folder.glob("*.gguf")) == ["wiki-math-4M-5bpw.gguf", "wiki-math-4M-f16.gguf"]


def test_benchmarks_that_have_drifted_stop_a_build_at_once(folder: Path) -> None:
    path, rows = _quick(folder), folder / "benchmarks" / "gsm8k-head.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b"Natalia", b"Natalie", 1))
    before = sorted(folder.iterdir())
    refused = client("recipe", "build", path, "--store", folder / "store")
    assert (refused.code, "gsm8k-head: has drifted" in refused.err) == (2, True)
    assert sorted(folder.iterdir()) == before
    failed = client("recipe", "verify", path, "--store", folder / "store", "--json")
    assert failed.code == 6
    assert any("has drifted" in one["text"] for one in failed.json["findings"])
    path.write_text(path.read_text().replace('names = ["gsm8k-head"]', 'names = ["gsm8k-heat"]'))
    unknown = client("recipe", "build", path)
    assert (unknown.code, "did you mean gsm8k-head" in unknown.err) == (2, True)


@pytest.mark.slow
def test_the_recipe_of_the_test_data_builds_in_one_command_and_again_faster(folder: Path) -> None:
    first, store, fresh = folder / "first.gguf", folder / "store", folder / "fresh"
    begun = time.monotonic()
    built = _ok(client("recipe", "build", folder / RECIPE, "--store", store, "-o", first, "--json")).json
    took = time.monotonic() - begun
    assert built["check"]["overall"]["kl"]["value"] < 0.02
    assert built["bytes"] <= built["capacity_bytes"]
    _ok(client("recipe", "replay", f"{first}.manifest.json"))
    text = (folder / RECIPE).read_text(encoding="utf-8")
    pinned = folder / "pinned.toml"
    pinned.write_text(text.replace('budget = "5.0"', 'budget = "5.0"\npin = ["blk.1.ffn_up.weight=Q4_K"]'))
    begun = time.monotonic()
    again = _ok(client("recipe", "build", pinned, "--store", store, "-o", folder / "again.gguf", "--json")).json
    assert time.monotonic() - begun < took
    assert 0 < again["quantized"] < built["quantized"]
    whole = _ok(client("recipe", "build", pinned, "--store", fresh, "-o", folder / "whole.gguf", "--json")).json
    assert whole["reused"] == 0
    assert whole["sha256"] == again["sha256"] != built["sha256"]


def test_a_check_that_is_not_passed_has_its_own_exit_code(folder: Path, imatrix_path: Path) -> None:
    keys = {"model": "wiki-math-4M-f16.gguf", "imatrix": [str(imatrix_path)], "text": ["gsm8k.evaluation.txt"]}
    path = recipe(folder, **keys, check={"context": 32, "windows": 2, "max_kl": 1e-9})
    result = client("recipe", "build", path, "--store", folder / "store")
    assert result.code == 6, result.err
    assert "mean KL divergence" in result.err
    assert "at most 1e-09 was to pass" in result.err
    assert json.loads((folder / "small.out.gguf.manifest.json").read_text())["check"]["overall"]["windows"] == 2


def test_recipes_are_compared_by_keys_and_types(tmp_path: Path) -> None:
    folder, store = project(tmp_path / "p"), ("--store", tmp_path / "store")
    one, other = recipe(folder), recipe(folder, "other", pin=["output.weight=Q8_0"])
    early = _ok(client("recipe", "diff", one, other, *store, "--json"))
    assert early.json["types"] is None
    assert "build the recipe first" in early.err
    _ok(client("recipe", "build", one, *store))
    _ok(client("recipe", "build", other, *store))
    found = _ok(client("recipe", "diff", one, other, *store, "--json")).json
    assert {"name": "pin", "before": None, "after": ["output.weight=Q8_0"]} in found["keys"]
    types = (_types(folder / f"{name}.out.gguf") for name in ("small", "other"))
    before, after = types
    changed = {one["name"]: (one["before"], one["after"]) for one in found["types"]}
    assert changed == {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert "say the same" in _ok(client("recipe", "diff", one, one, *store)).out
    assert "base.recipe" in _ok(client("recipe", "diff", "ra1", "ra2")).out


def test_a_new_recipe_builds_as_it_is(tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").symlink_to(model_path)
    told = _ok(client("recipe", "new", "mine.toml"))
    assert "model model.gguf" in told.err
    text = (tmp_path / "mine.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace('# types = ["auto"]', 'types = ["Q4_K", "Q8_0"]\nrows = 8'))
    built = _ok(client("recipe", "build", "mine.toml", "--store", "store", "--json")).json
    assert built["sha256"] == file_digest(tmp_path / "mine.gguf")
    assert client("recipe", "new", "mine.toml").code == 2
    _ok(client("recipe", "new", "mine.json", "--model", "model.gguf"))
    assert _ok(client("recipe", "verify", "mine.json", "--store", "store")).code == 0


def test_a_recipe_asks_for_what_run_asks_for(tmp_path: Path) -> None:
    folder = project(tmp_path)
    keys = {"pin": ["output.weight=Q6_K"], "floor": ["blk.0.*=Q4_K"], "tie": ["blk.*.attn_q.weight"], "rows": None}
    path = recipe(folder, **keys)
    built = _ok(client("recipe", "build", path, "--store", tmp_path / "s", "--json")).json
    flags = ("-b", "5.0", "-i", folder / "imatrix.gguf", "--types", "Q8_0,Q6_K,Q4_K,Q3_K", "--plan-only", "--json")
    limits = ("--pin", "output.weight=Q6_K", "--floor", "blk.0.*=Q4_K", "--tie", "blk.*.attn_q.weight")
    plan = _ok(client("run", folder / "small.gguf", *flags, *limits)).json["plan"]
    assert plan["allocation"] == built["allocation"]
    assert (plan["loss"], plan["bytes"]) == (built["loss"], built["bytes"])


def test_the_schema_is_printed() -> None:
    assert "auto" in _ok(client("recipe", "schema")).json["properties"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "none.toml"), "No such file"),
        (("build", "ra4"), "states types, and no model or outputs to build"),
        (("verify", "ra4"), "which model?"),
        (("verify", "{recipe}", "{model}"), "is a build recipe, which names its model"),
        (("replay", "{model}"), "can't be read"),
        (("replay", "{recipe}"), "manifest of a build"),
        (("build", "{recipe}", "-o", "{model}"), "is read by this command too"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    folder = project(tmp_path)
    places = {"recipe": recipe(folder), "model": folder / "small.gguf"}
    result = client("recipe", *(one.format(**places) for one in arguments))
    assert result.code == 2, result.out
    assert words in result.err


def test_unknown_keys_have_near_misses(tmp_path: Path) -> None:
    path = recipe(project(tmp_path))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"budgget": "4"}))
    for verb in ("show", "verify", "build"):
        result = client("recipe", verb, path)
        assert result.code == 2
        assert "budgget: no such key (did you mean budget" in result.err


def test_tensors_are_spliced(tmp_path: Path) -> None:
    folder = project(tmp_path / "p")
    _ok(client("recipe", "build", recipe(folder), "--store", tmp_path / "s"))
    base, donor, out = folder / "small.out.gguf", folder / "small.gguf", tmp_path / "out.gguf"
    told = _ok(client("splice", base, "--take", f"blk.1.*={donor}", "-o", out))
    assert f"tensors from {donor}: 2" in told.err
    ours, theirs = _types(out), _types(base)
    assert ours == theirs | {"blk.1.attn_q.weight": "F16"}
    found = _ok(client("splice", base, "--take", f"blk.1.attn_q.weight={base}:Q8_0", "-o", out, "-f", "--json")).json
    assert found["lossy"] == ["blk.1.attn_q.weight"]
    refused = client("splice", base, "--take", f"blk.9.*={donor}", "-o", tmp_path / "no.gguf")
    assert (refused.code, "matches no tensor" in refused.err) == (2, True)
    refused = client("splice", base, "--take", f"blk.1.*={donor}", "-o", donor, "--force")
    assert (refused.code, "is read by this command too" in refused.err) == (2, True)
