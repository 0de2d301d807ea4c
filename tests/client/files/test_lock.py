"""The lock of an output: held by one process, free again when that ends in whatever way."""

import subprocess
import sys
from pathlib import Path

import pytest

from raq_client.files.lock import output_lock
from raq_solver.errors import InvalidInput

HOLD = """
import sys, time
from pathlib import Path
from raq_client.files.lock import output_lock
with output_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        refused = pytest.raises(InvalidInput, match=f"out.gguf: is being written by process {holder.pid}")
        try:
            with refused, output_lock(target):
                pass
        finally:
            holder.kill()
    with output_lock(target):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), output_lock(tmp_path / "a"):
        raise ZeroDivisionError
    with output_lock(tmp_path / "a"), output_lock(tmp_path / "b"):
        assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="can't be written"), output_lock(tmp_path / "none" / "a"):
        pass
