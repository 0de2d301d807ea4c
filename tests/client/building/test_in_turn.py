"""Recipes with blocks rounded one after the other: the bytes of `quantize --sequential`, whatever a build may reuse."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raq_client.building.build import Built, HowToBuild, build
from raq_client.building.units import FOUND_ONLY, BuildUnits, check_parts
from raq_client.building.verify import Level, verify_recipe
from raq_client.building.workshop import Workshop
from raq_client.compensation.gram_file import read_gram, write_gram
from raq_client.curvature.network import Network
from raq_client.files.manifest import file_digest
from raq_client.quantizing import kept_in_turn
from raq_client.quantizing.arithmetic import arithmetic_digest
from raq_client.recipes.build_recipe import read_build_recipe
from raq_client.solver_client.local import LocalSolver
from raq_solver.errors import InvalidInput
from raq_solver.tensor_names import block_of
from support.builds import built
from support.commands import client
from support.gguf_files import Reader
from support.in_turn import BLOCKS, in_turn, in_turn_project
from support.tiny_models import CASES

BUILD = """
import os, signal, sys
from pathlib import Path
from raq_client.building.build import HowToBuild, build
from raq_client.building.workshop import Workshop
from raq_client.quantizing.sequential import IN_TURN
from raq_client.recipes.build_recipe import read_build_recipe
from raq_client.solver_client.local import LocalSolver

def progress(step):
    if step.stage == IN_TURN and step.done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

how = HowToBuild(Workshop(Path(sys.argv[2])), threads=1)
build(read_build_recipe(sys.argv[1]), how, LocalSolver(), progress=progress)
"""
APART = {"token_embd.weight"}
"""Tensors of the model that are rounded by themselves in the pass too."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_turn_project(tmp_path_factory.mktemp("made") / "project")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "project")


def _build(folder: Path, store: Path, name: str = "small", /, *, reuse: bool = True, **keys: Any) -> Built:
    return built(read_build_recipe(in_turn(folder, name, **keys)), store, reuse=reuse, force=True)


def _bytes(folder: Path, name: str) -> bytes:
    return (folder / f"{name}.out.gguf").read_bytes()


def _quantized(folder: Path, name: str, *more: str) -> bytes:
    """The file of `quantize` with the types of a build, under the same name of the recipe."""
    target = folder / "quantized.gguf"
    types = folder / "types.json"
    found = {tensor.name: tensor.tensor_type.name for tensor in Reader(folder / f"{name}.out.gguf").tensors}
    types.write_text(json.dumps({"allocation": found}), encoding="utf-8")
    common = ("-a", types, "--gram", folder / "small.gram", "--override-kv", f"raq.recipe=str:{name}", "--threads", 1)
    result = client("quantize", folder / "small.gguf", *common, "-o", target, "--force", *more)
    assert result.code == 0, result.err
    return target.read_bytes()


def test_the_file_is_that_of_quantize(folder: Path, tmp_path: Path) -> None:
    found = _build(folder, tmp_path / "store")
    assert _bytes(folder, "small") == _quantized(folder, "small", "--sequential")
    assert _bytes(folder, "small") != _quantized(folder, "small")
    assert Reader(folder / "small.out.gguf").fields["raq.sequential.windows"].contents() == 8
    assert found.resolved.file_bytes == found.written.size
    assert not list(folder.glob("*.rounded"))


@pytest.mark.parametrize("case", ["llama, experts", "qwen2moe", "qwen35moe, fused"])
def test_a_file_with_experts_too(tmp_path: Path, case: str) -> None:
    folder = in_turn_project(tmp_path / "experts", CASES[case])
    found = _build(folder, tmp_path / "store")
    assert any("_exps" in name for name in found.quantized)
    assert _bytes(folder, "small") == _quantized(folder, "small", "--sequential")
    again = _build(folder, tmp_path / "store")
    assert (again.quantized, again.written.sha256) == ((), found.written.sha256)


@pytest.mark.parametrize("block", [0, 1, BLOCKS - 1])
def test_what_comes_before_the_first_change_is_reused_and_the_bytes_are_those_of_a_fresh_build(
    folder: Path, tmp_path: Path, block: int
) -> None:
    first = _build(folder, tmp_path / "store")
    assert (first.reused, len(first.quantized)) == ((), 1 + 7 * BLOCKS)
    changed = {"pin": ["token_embd.weight=Q8_0", f"blk.{block}.ffn_down.weight=Q8_0"]}
    second = _build(folder, tmp_path / "store", **changed)
    before = {name for name in first.quantized if 0 <= block_of(name) < block}
    assert set(second.reused) == before | APART
    assert set(second.quantized) == set(first.quantized) - before - APART
    fresh = _build(folder, tmp_path / "fresh", **changed)
    assert fresh.reused == ()
    assert second.written.sha256 == fresh.written.sha256 != first.written.sha256


def test_builds_apart_and_in_turn_share_only_what_does_not_depend_on_others(folder: Path, tmp_path: Path) -> None:
    _build(folder, tmp_path / "store", sequential=False)
    in_turn_ = _build(folder, tmp_path / "store")
    assert set(in_turn_.reused) == APART
    assert in_turn_.written.sha256 == _build(folder, tmp_path / "other").written.sha256
    apart = _build(folder, tmp_path / "store", sequential=False)
    assert apart.quantized == ()
    assert apart.written.sha256 == _build(folder, tmp_path / "plain", sequential=False).written.sha256


def test_a_build_that_only_writes_elsewhere_passes_nothing_through_the_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _build(folder, tmp_path / "store")
    monkeypatch.setattr(Network, "block", lambda *_, **__: pytest.fail("a block is passed"))
    again = _build(folder, tmp_path / "store", "again")
    assert (again.quantized, set(again.reused)) == ((), set(first.quantized))
    one, other = (Reader(built.written.path) for built in (first, again))
    assert all(np.array_equal(a.data, b.data) for a, b in zip(one.tensors, other.tensors, strict=True))


def test_what_the_store_has_lost_is_made_again_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = _build(folder, tmp_path / "store")
    kept = sorted(path for path in (tmp_path / "store" / "tensors").rglob("*") if path.is_file())
    for path in kept[::3]:
        path.unlink()
    kept[1].write_bytes(b"damaged")
    again = _build(folder, tmp_path / "store")
    assert len(again.quantized) == len(kept[::3]) + 1
    assert again.written.sha256 == first.written.sha256


def test_nothing_is_reused_where_the_arithmetic_is_another(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _build(folder, tmp_path / "store")
    monkeypatch.setattr(kept_in_turn, "arithmetic_digest", lambda: "0" * 64)
    assert set(_build(folder, tmp_path / "store").reused) == APART


def _killed(path: Path, store: Path, last: int) -> subprocess.CompletedProcess[str]:
    """A build in a process of its own, killed after `last` blocks."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(store / "xdg")}
    command = [sys.executable, "-c", BUILD, str(path), str(store), str(last)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("store_is_lost", [False, True])
def test_a_build_killed_in_the_pass_goes_on_with_the_first_block_that_is_missing(
    folder: Path, tmp_path: Path, *, store_is_lost: bool
) -> None:
    whole = _build(folder, tmp_path / "whole", "whole", name="small")
    path, store = in_turn(folder), tmp_path / "store"
    killed = _killed(path, store, BLOCKS - 1)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "small.out.gguf").exists()
    assert list(folder.glob("*.rounded"))
    if store_is_lost:
        shutil.rmtree(store)
    again = built(read_build_recipe(path), store)
    assert {block_of(name) for name in again.reused} == {-1, *range(BLOCKS - 1)}
    assert {block_of(name) for name in again.quantized} == {BLOCKS - 1}
    assert again.written.sha256 == whole.written.sha256
    assert not list(folder.glob("*.rounded"))


def test_without_reuse_nothing_of_an_interrupted_build_is_used(folder: Path, tmp_path: Path) -> None:
    whole = _build(folder, tmp_path / "whole", "whole", name="small")
    path = in_turn(folder)
    assert _killed(path, tmp_path / "store", 1).returncode == -signal.SIGKILL
    for rounded in folder.glob("*.rounded/*/*"):
        rounded.write_bytes(bytes(rounded.stat().st_size))
    again = built(read_build_recipe(path), tmp_path / "store", reuse=False)
    assert again.written.sha256 == whole.written.sha256


def _with_gram(folder: Path, **changes: Any) -> None:
    """The statistics of a folder changed in this way."""
    path = folder / "small.gram"
    gram = read_gram(path)
    write_gram(replace(gram, known_digest="", **changes), folder / "changed.gram")
    (folder / "changed.gram").replace(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sequences": None}, "has not the tokens of its windows, which rounding blocks one after the other needs"),
        ({"outputs": frozenset()}, "has not statistics of outputs, which rounding blocks one after the other needs"),
        ({"sequences": np.zeros((3, 32), np.int32)}, "has 3 windows, rounding blocks one after the other needs 8"),
        ({"model": "0" * 64}, "was collected from another model"),
    ],
)
def test_statistics_that_do_not_do_are_refused_before_any_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    _with_gram(folder, **changes)
    monkeypatch.setattr("raq_client.building.inputs._importance", lambda *_, **__: pytest.fail("work has begun"))
    path = in_turn(folder)
    with pytest.raises(InvalidInput, match=words) as refused:
        built(read_build_recipe(path), tmp_path / "store")
    assert "small.gram" in str(refused.value)
    found = verify_recipe(read_build_recipe(path), Workshop(tmp_path / "store"), LocalSolver())
    (failed,) = (one for one in found if one.level is Level.FAIL)
    assert words in failed.text


def test_a_recipe_without_statistics_is_refused_when_it_is_read(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="recipe: sequential rounds with error feedback: give gram"):
        read_build_recipe(in_turn(folder, gram=None))


@pytest.mark.parametrize("options", [("--index", 0, "--of", 2), ("--merge",), ("--cluster", "ray")])
def test_building_in_parts_is_refused(folder: Path, tmp_path: Path, options: Sequence[object]) -> None:
    refused = client("recipe", "build", in_turn(folder), "--store", tmp_path / "store", *options)
    assert refused.code == 2
    assert "small: rounds blocks one after the other (sequential), on one machine" in " ".join(refused.err.split())
    assert not list(folder.glob("*.parts"))
    given = read_build_recipe(in_turn(folder))
    with pytest.raises(InvalidInput, match="on one machine"):
        build(given, HowToBuild(Workshop(tmp_path)), LocalSolver(), units=BuildUnits(given.output.file, FOUND_ONLY))
    check_parts(read_build_recipe(in_turn(folder, sequential=False)))


def test_verify_and_show_say_what_the_pass_needs(folder: Path, tmp_path: Path) -> None:
    size = _build(folder, tmp_path / "store").written.size
    path = in_turn(folder)
    found = {
        one.what: one for one in verify_recipe(read_build_recipe(path), Workshop(tmp_path / "store"), LocalSolver())
    }
    assert found["error feedback"].text == "8 windows of text; blocks one after the other, 8 windows pass through"
    assert found["disk"].text.startswith(f"{2 * size:,} bytes are needed")
    shown = " ".join(client("recipe", "show", path, "--store", tmp_path / "store").out.split())
    assert "error feedback by small.gram, one block after the other, takes more" in shown
    assert "twice its size of disk" in shown


def test_diff_and_digest_tell_them_apart(folder: Path) -> None:
    one, other = in_turn(folder), in_turn(folder, "other", name="small", sequential=False)
    result = client("recipe", "diff", one, other, "--json")
    assert {"name": "sequential", "before": True, "after": False} in result.json["keys"]
    assert read_build_recipe(one).digest() != read_build_recipe(other).digest()


def _manifest(folder: Path, tmp_path: Path) -> Path:
    result = client("recipe", "build", in_turn(folder), "--store", tmp_path / "store", "--threads", 1)
    assert result.code == 0, result.err
    return folder / "small.out.gguf.manifest.json"


def test_a_build_is_replayed_and_attested_where_the_arithmetic_is_the_same(folder: Path, tmp_path: Path) -> None:
    path = _manifest(folder, tmp_path)
    assert json.loads(path.read_text())["quantizer"]["arithmetic"] == arithmetic_digest()
    replayed = client("recipe", "replay", path, "--threads", 1)
    assert replayed.code == 0, replayed.err
    assert client("recipe", "attest", path, "--threads", 1).code == 0
    stated = json.loads((folder / "small.out.gguf.intoto.json").read_text())
    definition = stated["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["quantizer"]["arithmetic"] == arithmetic_digest()
    assert definition["externalParameters"]["recipe"]["sequential"] is True


@pytest.mark.parametrize("other_arithmetic", [True, False])
def test_other_bytes_are_a_difference_only_where_the_arithmetic_is_the_same(
    folder: Path, tmp_path: Path, *, other_arithmetic: bool
) -> None:
    path, model = _manifest(folder, tmp_path), folder / "small.out.gguf"
    data = json.loads(path.read_text())
    model.write_bytes(model.read_bytes()[:-1] + bytes([model.read_bytes()[-1] ^ 1]))
    data["outputs"][model.name]["sha256"] = file_digest(model)
    if other_arithmetic:
        data["quantizer"]["arithmetic"] = "0" * 64
    path.write_text(json.dumps(data))
    for command in (("replay", path), ("attest", path)):
        found = client("recipe", *command, "--threads", 1)
        said = " ".join(found.err.split())
        assert found.code == 6
        assert ("nothing can be said of the build from here" in said) is other_arithmetic
        assert ("the build could not be repeated: what differs is marked" in said) is not other_arithmetic
        assert ("unknown" in found.out, "DIFFERS" in found.out) == (other_arithmetic, not other_arithmetic)
    assert not list(folder.glob("*.intoto.json"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernels of OpenBLAS are chosen by names of x86-64")
def test_kernels_of_another_processor_are_never_taken_for_a_change(folder: Path, tmp_path: Path) -> None:
    """The same NumPy with the kernels that OpenBLAS has for an old processor: what differs then is known to depend."""
    path = _manifest(folder, tmp_path)
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Prescott", "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    command = [sys.executable, "-m", "raq_client", "recipe", "replay", str(path), "--threads", "1", "--json"]
    found = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    differing = [one for one in json.loads(found.stdout)["compared"] if one["recorded"] != one["found"]]
    assert found.returncode == (6 if differing else 0), found.stderr
    assert all(one["what"] == "small.out.gguf: SHA-256" and one["depends"] for one in differing)
    assert ("nothing can be said of the build from here" in " ".join(found.stderr.split())) is bool(differing)


def test_a_splice_names_the_files_whose_tensors_were_corrected_for_others(folder: Path, tmp_path: Path) -> None:
    one = _build(folder, tmp_path / "store").written.path
    other = _build(folder, tmp_path / "store", "apart", sequential=False).written.path
    for base, donor in ((one, other), (other, one)):
        found = client("splice", base, "--take", f"blk.0.*={donor}", "-o", tmp_path / "spliced.gguf", "--force")
        assert found.code == 0, found.err
        (note,) = (line for line in found.err.replace("\n  ", " ").splitlines() if line.startswith("note: "))
        assert "small.out.gguf was rounded one block after the other" in " ".join(note.split())
