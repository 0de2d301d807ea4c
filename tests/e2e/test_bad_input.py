"""Every mistake a user can make: one clear sentence, the right exit code, never a traceback."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client.importance.imatrix_file import read_importance
from support.commands import Result, client
from support.gguf_files import small_model, write


def refused(result: Result, *patterns: str, code: int = 2) -> None:
    assert result.code == code, result.err
    for pattern in patterns:
        assert re.search(pattern, result.err), result.err
    assert "Traceback" not in result.err
    assert all(line.startswith("raq-client: ") for line in result.err.strip().splitlines())


def test_not_a_gguf(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04 something else entirely")
    refused(client("solve", "-b", "5", "-m", path), "not a GGUF")


def test_truncated(tmp_path: Path, model_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model_path.read_bytes()[:5_000_000])
    refused(client("solve", "-b", "5", "-m", path), r"bytes")


def test_imatrix_of_another_model(tmp_path: Path, imatrix_path: Path) -> None:
    path = small_model(tmp_path / "other.gguf")
    expected = r"blk\.0\.attn_k\.weight.*and 23 more: in .*not a tensor"
    refused(client("solve", "-b", "8", "-m", path, "-i", imatrix_path), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_bad_numbers_in_an_imatrix(tmp_path: Path, data: Path, model_path: Path, value: float) -> None:
    content = bytearray((data / "wiki-math-4M.gsm8k.imatrix.dat").read_bytes())
    name = b"blk.0.attn_k.weight"
    place = content.index(name) + len(name) + 8
    content[place : place + 4] = np.float32(value).tobytes()
    path = tmp_path / "bad.dat"
    path.write_bytes(bytes(content))
    refused(client("solve", "-b", "5", "-m", model_path, "-i", path), r"blk\.0\.attn_k\.weight.*not finite")


def test_good_imatrix_is_what_the_bad_one_differs_from(data: Path) -> None:
    assert len(read_importance(data / "wiki-math-4M.gsm8k.imatrix.dat").entries) == 28


def one_tensor(path: Path, weights: np.ndarray) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.attn_q.weight", weights)
    write(writer)
    return path


@pytest.mark.parametrize("rows", [(), ("--rows", "100")])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_weight_that_is_no_number(tmp_path: Path, bad: float, rows: tuple[str, ...]) -> None:
    weights = np.ones((300, 512), np.float32)
    weights[:, 17] = bad
    model = one_tensor(tmp_path / "m.gguf", weights)
    found = client("profile", model, "-o", tmp_path / "p.json", "--types", "Q4_K", *rows)
    refused(found, r"blk\.0\.attn_q\.weight: weight 17 of row \d+ is (nan|-inf); .*damaged")
    assert not (tmp_path / "p.json").exists()


def test_rows_that_no_block_divides(tmp_path: Path) -> None:
    model = one_tensor(tmp_path / "m.gguf", np.ones((4, 40), np.float16))
    plan = tmp_path / "plan.json"
    plan.write_text('{"allocation": {"blk.0.attn_q.weight": "Q8_0"}}')
    refused(
        client("quantize", model, "-a", plan, "-o", tmp_path / "out.gguf"),
        r"blk\.0\.attn_q\.weight: rows of 40 weights can't be stored as Q8_0",
    )


def test_a_type_that_raq_does_not_know(tmp_path: Path) -> None:
    model = one_tensor(tmp_path / "m.gguf", np.ones((4, 32), np.float16))
    content = bytearray(model.read_bytes())
    place = content.index(b"blk.0.attn_q.weight") + 19 + 4 + 2 * 8
    content[place : place + 4] = (99).to_bytes(4, "little")
    model.write_bytes(bytes(content))
    refused(client("solve", "-b", "5", "-m", model), r"blk\.0\.attn_q\.weight is stored in a type raq does not know")


def test_an_imatrix_of_other_widths(tmp_path: Path, imatrix_path: Path) -> None:
    model = one_tensor(tmp_path / "m.gguf", np.ones((4, 512), np.float16))
    refused(client("solve", "-b", "9", "-m", model, "-i", imatrix_path), r"blk\.0\.attn_q\.weight.*\b256\b.*\b512\b")


def test_budget_under_the_least(model_path: Path) -> None:
    result = client("solve", "-b", "2.0", "-m", model_path)
    refused(result, r"even the smallest types need 2\.3757 bpw \(1,324,032 bytes\); the budget is 2 ", code=4)


def test_budget_over_the_most(model_path: Path) -> None:
    result = client("solve", "-b", "17GB", "-m", model_path)
    assert result.code == 0
    assert "16.0083 bpw (8,922,112 bytes)" in result.err


@pytest.mark.parametrize("budget", ["", "five", "5 apples", "-3", "0", "1e400", "170"])
def test_what_is_no_budget(model_path: Path, budget: str) -> None:
    refused(client("solve", f"--budget={budget}", "-m", model_path), "budget|bits per weight")


def test_all_unknown_types_with_near_misses(model_path: Path) -> None:
    refused(client("solve", "-b", "5", "-m", model_path, "--types", "Q4K,Q9_9"), r"Q4K: .*Q4_K", r"Q9_9: no such")


def test_all_wrong_demands_at_once(model_path: Path) -> None:
    result = client(
        "solve", "-b", "5", "-m", model_path,
        "--pin", "output.wieght=Q6_K", "--pin", "output.weight", "--floor", "blk.*=much", "--tie", "nothing*",
    )  # fmt: skip
    refused(
        result,
        r"output\.wieght matches no tensor \(did you mean output\.weight",
        "write PATTERN=TYPE",
        "much",
        r"nothing\*",
    )


def test_a_pin_that_the_model_can_not_have(model_path: Path) -> None:
    refused(client("solve", "-b", "5", "-m", model_path, "--pin", "output_norm.weight=Q6_K"), "output_norm.weight")


def test_nothing_to_solve_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(client("solve", "-b", "5"), "--model", "--profile")


def test_settings_with_unknown_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raq.toml").write_text('modle = "x"\ntext = 3\nserver = []\n', encoding="utf-8")
    refused(client("solve", "-b", "5"), r"modle: no such key \(did you mean model", "text", "server")


def test_output_exists(tmp_path: Path, model_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    refused(client("run", model_path, "-b", "5", "-o", out), "--force")
    assert out.read_bytes() == b"precious"


def test_nobody_serves(model_path: Path) -> None:
    refused(client("solve", "-b", "5", "-m", model_path, "--server", "127.0.0.1:1"), "no raq server answers", code=5)


def test_no_text(tmp_path: Path, model_path: Path) -> None:
    refused(client("check", model_path, "-m", model_path, "-t", tmp_path / "none.txt"), "none.txt: can't be read")
    short = tmp_path / "short.txt"
    short.write_text("Too short.", encoding="utf-8")
    refused(client("check", model_path, "-m", model_path, "-t", short), "at least 2 windows")


def test_an_unknown_architecture_is_quantized_but_not_checked(tmp_path: Path, data: Path) -> None:
    path, out = small_model(tmp_path / "odd.gguf", architecture="no-such-thing"), tmp_path / "out.gguf"
    made = client("run", path, "-b", "6", "-o", out)
    assert made.code == 0, made.err
    assert out.exists()
    refused(client("check", out, "-m", path, "-t", data / "gsm8k.evaluation.txt"), "has no tokenizer")


def test_a_check_that_is_not_passed_has_its_own_code(tmp_path: Path, model_path: Path, data: Path) -> None:
    out = tmp_path / "out.gguf"
    assert client("run", model_path, "-b", "2.7", "-o", out).code == 0
    result = client(
        "check", out, "-m", model_path, "-t", data / "gsm8k.evaluation.txt", "--windows", "2", "--max-kl", "0.001"
    )
    refused(result, "above 0.001", code=6)


def test_ctrl_c_leaves_nothing(tmp_path: Path, model_path: Path) -> None:
    out = tmp_path / "out" / "out.gguf"
    out.parent.mkdir()
    code = (
        "import time, raq_native\n"
        "from raq_client.quantizing import quantize\n"
        "from raq_client.cli.app import main\n"
        "def slow(*a, **k):\n"
        "    print('quantizing', flush=True); time.sleep(30)\n"
        "raq_native.quantize = slow\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "run", model_path, "-b", "4", "-o", out, "--types", "Q8_0,Q4_0,Q2_K"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("quantizing"):
                break
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert list(out.parent.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_standard_output_is_full(data: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", "from raq_client.cli.app import main; main()", "base", "Q4_K_M"]
        path = data / "wiki-math-4M-f16.gguf"
        done = subprocess.run([*command, str(path)], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    refused(Result(done.returncode, "", done.stderr), "standard output: No space left on device")
