"""Plain problems: the door for other tools and for sceptics."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from support.commands import client


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {
        "tensors": np.array([f"t{i}" for i in range(5)]),
        "qtypes": np.array(["iq2_ks", "q4_K", "q6_0"]),
        "bytes": np.cumsum(random.integers(10, 90, (5, 3)), axis=1),
        "losses": np.cumsum(random.random((5, 3)), axis=1)[:, ::-1].copy(),
    }


def least(arrays: dict[str, np.ndarray], capacity: int) -> float:
    rows = np.arange(5)
    fitting = [p for p in product(range(3), repeat=5) if arrays["bytes"][rows, p].sum() <= capacity]
    return min(float(arrays["losses"][rows, p].sum()) for p in fitting)


def test_both_forms_give_the_optimum(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    npz, plain = tmp_path / "p.npz", tmp_path / "p.json"
    np.savez(npz, **arrays)
    plain.write_text(json.dumps({key: array.tolist() for key, array in arrays.items()}), encoding="utf-8")
    for capacity in (300, 450, 600):
        found = [client("solve", "--problem", p, "--capacity-bytes", capacity, "--json").json for p in (npz, plain)]
        assert found[0]["loss"] == pytest.approx(least(arrays, capacity), rel=1e-12)
        assert found[0]["allocation"] == found[1]["allocation"]
        assert {"allocation", "bytes", "loss", "bound", "gap", "lambda", "termination"} <= found[0].keys()


def test_the_readmes_certificate(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Anyone can recompute the bound from the price of a byte."""
    np.savez(tmp_path / "p.npz", **arrays)
    found = client("solve", "--problem", tmp_path / "p.npz", "--capacity-bytes", 400, "--json").json
    price = found["lambda"]
    bound = (arrays["losses"] + price * arrays["bytes"]).min(axis=1).sum() - price * 400
    assert bound <= found["loss"] * (1 + 1e-12)


def test_a_real_instance(data: Path, tmp_path: Path) -> None:
    with np.load(data / "instances" / "Qwen3-4B-Instruct-2507.npz") as z:
        sens = np.where(np.isfinite(z["sens"]), z["sens"], 0.0)
        arrays = {key: z[key] for key in ("tensors", "qtypes", "bytes")} | {"weights": z["elements"]}
        arrays["losses"] = sens[:, None] * np.nan_to_num(z["curve"])
    np.savez(tmp_path / "p.npz", **arrays)
    found = client("solve", "--problem", tmp_path / "p.npz", "--budget", "4.5", "--json").json
    assert found["termination"] == "optimal"
    assert found["bits_per_weight"] <= 4.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"losses": None}, "has no array losses"),
        ({"bytes": np.full((5, 3), 1.5)}, "whole numbers"),
        ({"bytes": np.full((4, 3), 7)}, "5 tensors × 3 types"),
        ({"losses": np.full((5, 3), np.nan)}, "loss is nan"),
        ({"losses": np.full((5, 3), -1.0)}, "loss is -1.0"),
        ({"bytes": np.zeros((5, 3), dtype=int)}, "size is 0 bytes"),
        ({"tensors": np.array(["a"] * 5)}, "listed 5 times"),
        ({"tensors": np.array([{}] * 5, dtype=object)}, "allow_pickle"),
    ],
)
def test_every_fault_is_said(
    tmp_path: Path, arrays: dict[str, np.ndarray], change: dict[str, np.ndarray | None], said: str
) -> None:
    changed = {key: array for key, array in (arrays | change).items() if array is not None}
    np.savez(tmp_path / "p.npz", **changed)
    result = client("solve", "--problem", tmp_path / "p.npz", "--capacity-bytes", 400)
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err


def test_the_smallest_size_for_a_loss(tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = client("solve", "-m", model_path, "--types", "Q8_0,Q4_0", "--max-loss", "0.005", "--json").json
    assert found["loss"] <= 0.005
    smaller = client("solve", "-m", model_path, "--types", "Q8_0,Q4_0", "-b", f"{found['bytes'] - 1}B", "--json").json
    assert smaller["loss"] > 0.005
    table = client("solve", "-m", model_path, "--types", "Q8_0,Q4_0", "--max-loss", "0.005").out
    said = dict(line.split(maxsplit=1) for line in table.splitlines()[:3])
    assert said["limit"] == "a loss of at most 0.005"
    assert said["size"].startswith(f"{found['bytes']:,} bytes")
    assert said["proven"] == "no smaller size keeps it"
    assert not {"budget", "slack"} & set(table.split())  # nothing was budgeted
    impossible = client("solve", "-m", model_path, "--types", "Q8_0,Q4_0", "-b", "4.6", "--max-loss", "0.001")
    assert impossible.code == 4
    assert "the least that can be reached" in impossible.err
