import _ctypes
import ctypes
import shutil
from pathlib import Path

import pytest

from raq_client import engine
from raq_client.engine.layout import CONTEXT_PARAMS, MODEL_PARAMS, OpaqueParams, unexpected_fields, write_field
from raq_client.engine.library import Log, _not_opened, open_library
from raq_solver.errors import InvalidInput
from support.engine_models import MODEL


def test_the_library_is_opened_once_and_knows_its_version() -> None:
    library = open_library()
    assert library is open_library(library.path)
    assert library.version[0].isdigit()


def test_a_library_can_be_named_by_path_or_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(engine.ENVIRONMENT_VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(InvalidInput, match=r"none\.so: there is no such libllama"):
        engine.load(MODEL)
    with pytest.raises(InvalidInput, match=r"holds no libllama\.so"):
        engine.load(MODEL, library=tmp_path)
    monkeypatch.delenv(engine.ENVIRONMENT_VARIABLE)
    inside = tmp_path / "lib" / "libllama.so"
    inside.parent.mkdir()
    inside.symlink_to(engine.find_library())
    assert engine.find_library(tmp_path) == inside


def test_a_file_that_is_no_libllama_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    with pytest.raises(InvalidInput, match="cannot be opened as a shared library"):
        open_library(text)
    other = tmp_path / "other.so"
    shutil.copy(_ctypes.__file__, other)
    with pytest.raises(InvalidInput, match="is not a libllama that raq can use: it lacks llama_backend_init"):
        open_library(other)


def test_a_library_that_the_system_lacks_is_named_with_the_way_out(tmp_path: Path) -> None:
    program = Path(_ctypes.__file__).read_bytes()
    for needed, package in (("libgomp.so.1", "apt-get install libgomp1"), ("libother.so.1", "install the package")):
        error = OSError(f"{needed}: cannot open shared object file: No such file or directory")
        assert package in _not_opened(error)
    assert b"libffi.so" in program
    copy = tmp_path / "copy.so"
    copy.write_bytes(program.replace(b"libffi.so", b"libffj.so"))  # the loader itself says that this one is missing
    with pytest.raises(InvalidInput, match=r"needs the library libffj\.so\S*, which this system lacks; install"):
        open_library(copy)


@pytest.mark.parametrize("layout", [MODEL_PARAMS, CONTEXT_PARAMS], ids=["model", "context"])
def test_a_changed_default_of_any_described_field_is_noticed(layout: dict[str, tuple[int, str, float]]) -> None:
    def defaults() -> OpaqueParams:
        calls = open_library().calls
        known = calls.llama_model_default_params if layout is MODEL_PARAMS else calls.llama_context_default_params
        params: OpaqueParams = known()
        return params

    assert unexpected_fields(defaults(), layout) == []
    for name in layout:
        changed = defaults()
        write_field(changed, layout, name, 7)
        assert unexpected_fields(changed, layout) == [name]


def test_fields_shifted_by_an_inserted_one_are_noticed() -> None:
    params = open_library().calls.llama_context_default_params()
    raw = bytes(params.raw)
    for offset in range(0, 104, 4):
        shifted = OpaqueParams()
        ctypes.memmove(shifted.raw, raw[:offset] + b"\0\0\0\0" + raw[offset:-4], len(raw))
        assert unexpected_fields(shifted, CONTEXT_PARAMS)


def test_the_log_joins_continued_lines_and_drops_function_names() -> None:
    log = Log()
    log.callback(2, b"load: all is well\n", None)
    log.callback(4, b"load_model: it is ", None)
    log.callback(5, b"broken: badly\n", None)
    log.callback(4, b"other: failed to load model\n", None)
    assert log.errors() == "it is broken: badly"
    log.clear()
    assert log.errors() == "it gives no reason"
