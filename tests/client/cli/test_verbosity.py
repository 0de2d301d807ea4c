"""--quiet and --verbose, before a command's name and after it."""

from pathlib import Path

import pytest

from support.commands import client


@pytest.mark.parametrize("words", [("-q", "imatrix", "show"), ("imatrix", "show", "--quiet")])
def test_quiet_leaves_results_only(imatrix_path: Path, words: tuple[str, ...]) -> None:
    loud, quiet = client("imatrix", "show", imatrix_path), client(*words, imatrix_path)
    assert "distinct inputs" in loud.err
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out == loud.out


def test_quiet_does_not_hide_errors(tmp_path: Path) -> None:
    result = client("-q", "imatrix", "show", tmp_path / "none.gguf")
    assert result.code == 2
    assert result.err.startswith("raq-client: ")


@pytest.mark.parametrize("words", [("-v", "imatrix", "show"), ("imatrix", "show", "-v")])
def test_verbose_adds_versions_time_and_memory(imatrix_path: Path, words: tuple[str, ...]) -> None:
    result = client(*words, imatrix_path)
    assert result.code == 0
    assert "Python 3." in result.err
    assert "s of processor time, at most" in result.err
    assert result.out == client("imatrix", "show", imatrix_path).out


def test_verbose_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    plain, verbose = (client(*words, "imatrix", "show", tmp_path / "none.gguf") for words in ((), ("-v",)))
    assert "Traceback" not in plain.err
    assert "Traceback" in verbose.err
    assert plain.err in verbose.err
    assert verbose.code == plain.code == 2


def test_a_command_is_as_loud_as_its_own_call_says(imatrix_path: Path) -> None:
    client("-q", "imatrix", "show", imatrix_path)
    assert client("imatrix", "show", imatrix_path).err
