"""Blocks rounded one after the other, from the command line and from Python: nearer files, and clear refusals."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

import raq
from raq_client.files.lock import output_lock
from raq_client.quantizing.spool import Blocks, Spool
from raq_solver.tensors import Tensor
from support.commands import client
from support.gguf_files import Reader

ALL_Q3 = "token_embd.weight=Q5_K\nblk\\..*=Q3_K\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sequential")


def _collected(data: Path, model_path: Path, path: Path, windows: int) -> Path:
    text = path.with_suffix(".txt")
    text.write_text((data / "gsm8k.calibration.txt").read_text(encoding="utf-8")[: 625 * windows], encoding="utf-8")
    result = client(
        *("imatrix", "collect", model_path, "-t", text, "-o", path.with_suffix(".imatrix.gguf"), "--gram", path),
        *("--context", 128, "--windows", windows, "--fisher", 8, "--threads", 1),
    )
    assert result.code == 0, result.err
    return path


@pytest.fixture(scope="module")
def gram(data: Path, model_path: Path, folder: Path) -> Path:
    return _collected(data, model_path, folder / "4m.gram", 64)


@pytest.fixture(scope="module")
def short_gram(data: Path, model_path: Path, folder: Path) -> Path:
    """Statistics whose few windows pass in a moment, where it does not matter how near the file is."""
    return _collected(data, model_path, folder / "short.gram", 16)


@pytest.fixture(scope="module")
def plan(folder: Path) -> Path:
    path = folder / "types.txt"
    path.write_text(ALL_Q3, encoding="utf-8")
    return path


def _kl(data: Path, folder: Path, model_path: Path, file: Path) -> float:
    text = folder / "held-out.txt"
    text.write_text((data / "gsm8k.evaluation.txt").read_text(encoding="utf-8")[:6000], encoding="utf-8")
    result = client("check", file, "-m", model_path, "-t", text, "--json")
    assert result.code == 0, result.err
    return float(result.json["overall"]["kl"]["value"])


def test_a_sequential_file_of_the_same_size_is_nearer(
    data: Path, folder: Path, model_path: Path, imatrix_path: Path, gram: Path, plan: Path
) -> None:
    one, other = folder / "apart.gguf", folder / "in-turn.gguf"
    common = ("quantize", model_path, "-a", plan, "-i", imatrix_path, "--gram", gram)
    assert client(*common, "-o", one).code == 0
    result = client(*common, "-o", other, "--sequential")
    assert result.code == 0, result.err
    assert one.stat().st_size == pytest.approx(other.stat().st_size, abs=64)  # a key more
    assert _kl(data, folder, model_path, other) < 0.95 * _kl(data, folder, model_path, one)
    assert Reader(other).fields["raq.sequential.windows"].contents() == 64
    assert not list(folder.glob("*.rounded"))


def test_an_interrupted_pass_goes_on_with_its_own_options_only(
    folder: Path, model_path: Path, imatrix_path: Path, short_gram: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted pass rounded for other types, or by other statistics, is no part of another file."""
    out, others = folder / "cut.gguf", folder / "others.txt"
    others.write_text(ALL_Q3.replace("Q3_K", "Q4_K"), encoding="utf-8")
    common = ("quantize", model_path, "--gram", short_gram, "-o", out, "--sequential", "--threads", 1)
    kept = Spool.keep

    def stop_after(tensors: int) -> None:
        left = iter(range(tensors))

        def keep(self: Spool, tensor: Tensor, blocks: Iterable[Blocks]) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            kept(self, tensor, blocks)

        monkeypatch.setattr(Spool, "keep", keep)

    stop_after(9)
    for options in (("-a", others), ("-a", plan, "-i", imatrix_path)):
        cut = client(*common, *options)
        assert (cut.code, out.exists()) == (130, False)
        assert f"{out}.rounded holds what is rounded; run the same command again" in " ".join(cut.err.split())
        stop_after(5)
    monkeypatch.setattr(Spool, "keep", kept)
    with output_lock(out):
        second = client(*common, "-a", plan)
    assert (second.code, "is being written by process" in second.err) == (2, True)
    assert client(*common, "-a", plan).code == 0
    assert not Path(f"{out}.rounded").exists()
    again = client(*common[:5], folder / "uncut.gguf", *common[6:], "-a", plan)
    assert again.code == 0, again.err
    assert out.read_bytes() == (folder / "uncut.gguf").read_bytes()


def test_run_and_python_write_the_same_tensors(
    folder: Path, model_path: Path, imatrix_path: Path, short_gram: Path
) -> None:
    one, other = folder / "run.gguf", folder / "python.gguf"
    common = ("--types", "Q3_K,Q4_K", "-i", imatrix_path, "--gram", short_gram, "--threads", 1)
    result = client("run", model_path, "-b", "4.2", *common, "-o", one, "--sequential")
    assert result.code == 0, result.err
    model = raq.open(model_path, imatrix=imatrix_path, gram=short_gram, types=["Q3_K", "Q4_K"], threads=1)
    model.plan("4.2").quantize(other, sequential=True)
    for tensor, same in zip(Reader(one).tensors, Reader(other).tensors, strict=True):
        assert tensor.data.tobytes() == same.data.tobytes(), tensor.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sequential",), "needs Gram statistics"),
        (("--sequential", "--gram", "GRAM", "--index", "0", "--of", "2"), "on one machine"),
        (("--sequential", "--gram", "GRAM", "--prune-layers", "1"), "prune it first"),
    ],
)
def test_what_has_no_meaning_is_refused(
    folder: Path, model_path: Path, imatrix_path: Path, gram: Path, plan: Path, options: Sequence[str], message: str
) -> None:
    given = [str(gram) if each == "GRAM" else each for each in options]
    output = folder / "refused.gguf"
    result = client("quantize", model_path, "-a", plan, "-i", imatrix_path, *given, "-o", output)
    assert result.code == 2
    assert message in result.err
    assert not output.exists()


def test_run_refuses_to_plan_only(model_path: Path, gram: Path) -> None:
    result = client("run", model_path, "-b", "4.2", "--gram", gram, "--sequential", "--plan-only")
    assert result.code == 2
    assert "--plan-only writes none" in result.err


def test_the_steps_of_a_ladder_are_rounded_in_turn(
    data: Path, folder: Path, model_path: Path, imatrix_path: Path, short_gram: Path
) -> None:
    common = (
        "ladder",
        model_path,
        "-b",
        "4.2",
        "-i",
        imatrix_path,
        "--gram",
        short_gram,
        "--types",
        "Q3_K,Q4_K",
        "--sequential",
    )
    refused = client(*common)
    assert refused.code == 2
    assert "--sequential: is how files are written: give --folder" in refused.err
    text = folder / "ladder.txt"
    text.write_text((data / "gsm8k.evaluation.txt").read_text(encoding="utf-8")[:6000], encoding="utf-8")
    result = client(*common, "-t", text, "--windows", 2, "-o", folder / "ladder")
    assert result.code == 0, result.err
    (step,) = (folder / "ladder").glob("*.gguf")
    assert Reader(step).fields["raq.sequential.windows"].contents() == 16
    assert not list((folder / "ladder").glob("*.rounded"))
