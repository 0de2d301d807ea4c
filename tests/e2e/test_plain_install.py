"""`pip install raq` without extras: its size, README's main job, and what needs an extra says which before it works."""

from pathlib import Path

import numpy as np
import pytest

from support.commands import Result
from support.gguf_files import MODEL_4M
from support.paths import DATA
from support.plain_install import disk_bytes, plain, plain_distributions

FISHER = DATA / "wiki-math-4M.gsm8k.fisher.imatrix.gguf"
TEXT = DATA / "gsm8k.evaluation.txt"
OWN = 13_000_000
"""Room for raq itself: its files take 12 MB on disk."""


def test_it_takes_less_than_250_megabytes() -> None:
    sizes = {name: disk_bytes(found) for name, found in plain_distributions().items()}
    assert sizes["numpy"] > 20_000_000, "the files are counted"
    assert sum(sizes.values()) + OWN < 250_000_000, sizes


def test_it_does_the_main_job(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    ran = plain(
        "run",
        MODEL_4M,
        "-b",
        5.0,
        "-i",
        FISHER,
        "-t",
        TEXT,
        "--windows",
        2,
        "--no-trial",
        "--against",
        "Q4_K_M",
        "-o",
        out,
    )
    assert ran.code == 0, ran.err
    assert "KL divergence, mean" in ran.out
    assert out.stat().st_size > 2_700_000


def _refused(ran: Result, extra: str) -> None:
    assert ran.code == 2, ran.err
    assert f"pip install 'raq[{extra}]'" in ran.err
    assert len(ran.err.splitlines()) <= 2, ran.err


@pytest.mark.parametrize(
    "options",
    [
        ("--at-most", "blk.*.ffn_down.weight=1:4"),
        ("--distinct-types", 2),
        ("--active-bytes", "2MB"),
        ("-i", DATA / "wiki-math-4M.gsm8k.imatrix.gguf", "--worst-case"),
    ],
    ids=lambda options: str(options[-2 if len(options) == 2 else -1]),
)
def test_limits_on_several_tensors_need_the_solver(options: tuple[object, ...], tmp_path: Path) -> None:
    _refused(plain("run", MODEL_4M, "-b", 5.0, "-i", FISHER, *options, "-o", tmp_path / "out.gguf"), "solver")


def test_a_problem_from_elsewhere_needs_it_too(tmp_path: Path) -> None:
    problem = tmp_path / "problem.npz"
    sizes, losses = [[9, 5], [9, 5]], [[0.0, 1.0], [0.0, 3.0]]
    np.savez(problem, tensors=np.array(["a", "b"]), qtypes=np.array(["x", "y"]), bytes=sizes, losses=losses)
    assert plain("solve", "--problem", problem, "--capacity-bytes", 15).code == 0
    _refused(plain("solve", "--problem", problem, "--capacity-bytes", 15, "--distinct-types", 1), "solver")


def test_a_server_needs_grpc(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    _refused(plain("run", MODEL_4M, "-b", 5.0, "-i", FISHER, "--server", "127.0.0.1:1", "-o", out), "remote")
    _refused(plain(module="raq_server.cli"), "server")


def test_error_feedback_needs_no_extra(tmp_path: Path) -> None:
    words = ("imatrix", "collect", MODEL_4M, "-t", TEXT, "-o", tmp_path / "i.gguf", "--gram", tmp_path / "g.gram")
    collected = plain(*words, "--windows", 8, "--context", 64, "--fisher", 0)
    assert collected.code == 0, collected.err
