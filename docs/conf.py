"""The documentation site: the pages of this folder, and a reference made from docstrings and from the commands' help.

`just docs` builds it with warnings as errors, without a network; the pages need none either.
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring

import raq_native

project = "raq"
release = version_of("raq")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["deployment"]
html_theme = "furo"
html_title = f"raq {release}"
html_copy_source = False

man_pages = [
    ("reference/raq-client", "raq-client", "choose the best quant type for every tensor of a GGUF model", [], 1),
    ("reference/raq-server", "raq-server", "the solver of raq as a gRPC service", [], 1),
]

default_role = "py:obj"  # `name` in a docstring is code, and a link where the name is in the reference
myst_heading_anchors = 3
smartquotes = False  # quotation marks in docstrings are those of code

add_module_names = False
python_use_unqualified_type_names = True
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

_GOOGLE = Config(napoleon_google_docstring=True, napoleon_numpy_docstring=False)
_NATIVE_STUB = Path(__file__).parent.parent / "bindings_native" / "raq_native" / "_raq_native.pyi"


def read_docstring(app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Docstrings as this project writes them: Google's sections, fenced code, `Name`s, and |x| for a magnitude.

    The extension napoleon would take what stands before a colon for a property's type; reStructuredText knows no
    fences, ends no code before a letter, and would take |x| for the name of a substitution.
    """
    text = GoogleDocstring(list(_restructured(lines)), _GOOGLE, app, "method")  # type: ignore[arg-type]  # not Sphinx's
    lines[:] = str(text).splitlines()


def _restructured(lines: Iterable[str]) -> Iterator[str]:
    fenced = example = False
    for line in lines:
        if fence := re.fullmatch(r"```(\w*)", line):
            fenced = not fenced
            yield from (f".. code-block:: {fence[1] or 'text'}", "") if fenced else ("",)
            continue
        example = line.startswith(">>>") or (example and line != "")
        yield f"   {line}" if fenced else line if example else _prose(line)


def _prose(line: str) -> str:
    parts = re.split(r"(`+[^`]+`+)", line)  # plain text, code, plain text, …
    plain = [part.replace("|", r"\|") for part in parts[::2]]
    ended = [code + r"\ " * after[:1].isalnum() for code, after in zip(parts[1::2], plain[1:], strict=True)]
    return "".join(part for pair in zip(plain, [*ended, ""], strict=True) for part in pair)


def show_native_signatures() -> None:
    """Let autodoc see the functions and classes of the committed stub: compiled ones have no signature."""
    text = re.sub(r"Annotated\[(NDArray\[)numpy\.(\w+)\], dict\([^\]]*\)\]", r"\1\2]", _NATIVE_STUB.read_text("utf-8"))
    stub = ModuleType("raq_native")
    exec(compile(f"from __future__ import annotations\n{text}", str(_NATIVE_STUB), "exec"), vars(stub))  # noqa: S102
    for name in raq_native.__all__:
        if inspect.isroutine(found := getattr(stub, name, None)) or inspect.isclass(found):
            setattr(raq_native, name, found)


def setup(app: Sphinx) -> None:
    """Register the hooks."""
    show_native_signatures()
    app.connect("autodoc-process-docstring", read_docstring)
