"""Plain problem files: what is read, and how wrong files are reported."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raq_client.files.problem_file import read_plain_problem
from raq_solver import (
    ActiveBytes,
    AtMost,
    Ceiling,
    DistinctTypes,
    Exclude,
    Floor,
    InvalidInput,
    Monotone,
    Pin,
    Region,
    Source,
    Tie,
)
from raq_solver.constraints import CONSTRAINT_KINDS

FILE = {
    "tensors": ["a", "b"],
    "qtypes": ["big", "small"],
    "bytes": [[20, 10], [4, 2]],
    "losses": [[0.0, 1.5], [0.25, None]],
    "weights": [8, 4],
    "capacity_bytes": 20,
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "problem.json"
    path.write_text(json.dumps(FILE | changes))
    return path


def test_json_and_npz_hold_the_same_problem(tmp_path: Path) -> None:
    from_json = read_plain_problem(written(tmp_path))
    arrays = {"tensors": ["a", "b"], "qtypes": ["big", "small"], "bytes": FILE["bytes"], "weights": [8, 4]}
    np.savez(tmp_path / "problem.npz", losses=np.array([[0.0, 1.5], [0.25, np.inf]]), **arrays)
    assert read_plain_problem(tmp_path / "problem.npz", 20).digest() == from_json.digest()


def test_every_kind_of_constraint_is_read(tmp_path: Path) -> None:
    both = ["a", "b"]
    entries = [
        {"kind": "pin", "tensors": ["b"], "quant_type": "big", "source": "architecture", "reason": "head"},
        {"kind": "floor", "tensors": both, "bits": 4.5},
        {"kind": "ceiling", "tensors": both, "bits": "81/2"},
        {"kind": "exclude", "tensors": ["a"], "quant_types": ["small"]},
        {"kind": "tie", "tensors": both},
        {"kind": "monotone", "tensors": both},
        {"kind": "at_most", "tensors": both, "count": 1, "bits": 8},
        {"kind": "distinct_types", "tensors": both, "count": 2},
        {"kind": "region", "tensors": both, "capacity_bytes": 30},
        {"kind": "active_bytes", "tensors": both, "shares": [1, "1/8"], "capacity_bytes": 30},
    ]
    assert {entry["kind"] for entry in entries} == set(CONSTRAINT_KINDS)
    assert read_plain_problem(written(tmp_path, constraints=entries)).constraints == (
        Pin(("b",), "big", Source.ARCHITECTURE, "head"),
        Floor(("a", "b"), Fraction(9, 2)),
        Ceiling(("a", "b"), Fraction(81, 2)),
        Exclude(("a",), ("small",)),
        Tie(("a", "b")),
        Monotone(("a", "b")),
        AtMost(("a", "b"), 1, Fraction(8)),
        DistinctTypes(("a", "b"), 2),
        Region(("a", "b"), 30),
        ActiveBytes(("a", "b"), (Fraction(1), Fraction(1, 8)), 30),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"losses": [[float("nan"), -1.0], [0.25, None]]}, ["a as big", "a as small"]),
        ({"bytes": [[0, 10], [4, 2]]}, ["a as big: size is 0"]),
        ({"bytes": [[20, 10], [4]]}, ["1 numbers for 2 quant types"]),
        ({"bytes": [[20, 10.5], [4, 2]]}, ["bytes"]),
        ({"tensors": ["a", "a"]}, ["listed 2 times"]),
        ({"capacity_bytes": -1}, ["capacity"]),
        ({"capacity_bytes": None}, ["--capacity-bytes"]),
        ({"constraints": [{"kind": "pin", "tensors": ["c"], "quant_type": "huge"}]}, ["no tensor named c", "huge"]),
        ({"constraints": [{"kind": "pan", "tensors": ["a"]}]}, ["pan"]),
        ({"constraints": [{"kind": "floor", "tensors": ["a"], "bits": "many"}]}, ["4.5 or 9/2"]),
        (
            {
                "constraints": [
                    {"kind": "pin", "tensors": ["a"], "quant_type": "big"},
                    {"kind": "exclude", "tensors": ["a"], "quant_types": ["big"]},
                ]
            },
            ["a: no quant type is left by constraint 1 (Pin) and constraint 2 (Exclude)"],
        ),
        ({"losess": []}, ["losess"]),
    ],
)
def test_wrong_files_are_told_in_full(tmp_path: Path, changes: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(InvalidInput) as error:
        read_plain_problem(written(tmp_path, **changes))
    assert all(words in str(error.value) for words in said)


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "no.npz").write_bytes(b"nothing")
    (tmp_path / "no.json").write_text("{")
    np.savez(tmp_path / "few.npz", tensors=["a"])
    for name, said in (("no.npz", "can't be read"), ("no.json", "can't be read"), ("few.npz", "no array losses")):
        with pytest.raises(InvalidInput, match=said):
            read_plain_problem(tmp_path / name, 1)


def test_a_web_page_saved_as_arrays_is_named(tmp_path: Path) -> None:
    path = tmp_path / "problem.npz"
    path.write_bytes(b"\n<!DOCTYPE html><html><body>Not found</body></html>")
    with pytest.raises(InvalidInput, match="is a web page; download the file itself"):
        read_plain_problem(path, 20)
    path.write_bytes(b"no archive")
    with pytest.raises(InvalidInput, match="can't be read as a plain problem: File is not a zip file"):
        read_plain_problem(path, 20)
