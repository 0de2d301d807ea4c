"""Names of models elsewhere, and the file of a repository that each means."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.files.settings import read_settings
from raq_client.hub.names import HubName, chosen_files, parse_hub_name
from raq_solver.errors import InvalidInput

WORD = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,12}", fullmatch=True)
FILES = [
    "README.md",
    "mmproj-F16.gguf",
    "m-BF16-00001-of-00002.gguf",
    "m-BF16-00002-of-00002.gguf",
    "m-Q4_K_M.gguf",
    "Q8_0/m.gguf",
    "m-IQ4_XS.gguf",
    "m-Q4_K.gguf",
]


@given(st.tuples(WORD, WORD), st.none() | WORD, st.just("") | WORD)
def test_a_name_is_read_back_from_its_text(repo: tuple[str, str], revision: str | None, wanted: str) -> None:
    name = HubName("/".join(repo), revision, wanted)
    assert parse_hub_name(str(name)) == name
    assert parse_hub_name(str(Path(str(name)))) == name


@pytest.mark.parametrize("text", ["hf:", "hf:org", "hf:org/repo@", "hf:org/repo:", "hf:a/b/c", "hf:org/repo q"])
def test_what_is_no_name_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(InvalidInput, match="hf:org/repo"):
        parse_hub_name(text)


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ("", ("m-BF16-00001-of-00002.gguf", "m-BF16-00002-of-00002.gguf")),
        ("q4_k_m", ("m-Q4_K_M.gguf",)),
        ("Q4_K", ("m-Q4_K.gguf",)),
        ("Q8_0", ("Q8_0/m.gguf",)),
        ("m-BF16-00002-of-00002.gguf", ("m-BF16-00001-of-00002.gguf", "m-BF16-00002-of-00002.gguf")),
        ("mmproj-F16.gguf", ("mmproj-F16.gguf",)),
    ],
)
def test_one_model_is_meant(wanted: str, meant: tuple[str, ...]) -> None:
    assert chosen_files("hf:o/r", FILES, wanted) == meant


def test_what_fits_several_or_none_is_refused_with_the_choice() -> None:
    with pytest.raises(InvalidInput, match=r"no model in Q6_K; name one .*m-Q4_K_M\.gguf"):
        chosen_files("hf:o/r", FILES, "Q6_K")
    with pytest.raises(InvalidInput, match="several models"):
        chosen_files("hf:o/r", ["a-Q4_0.gguf", "b-Q4_0.gguf"], "Q4_0")
    with pytest.raises(InvalidInput, match="several models"):
        chosen_files("hf:o/r", ["a-Q4_0.gguf", "b-Q4_0.gguf"], "")
    with pytest.raises(InvalidInput, match=r"did you mean m-Q4_K_M\.gguf"):
        chosen_files("hf:o/r", FILES, "m-Q4_KM.gguf")
    assert chosen_files("hf:o/r", ["model.safetensors"], "") == ()


def test_a_name_in_the_project_file_stays_a_name(tmp_path: Path) -> None:
    (tmp_path / "raq.toml").write_text('model = "hf:org/repo@main:BF16"\nprofile = "p.json"\n')
    found = read_settings(tmp_path)
    assert (str(found.model), found.profile) == ("hf:org/repo@main:BF16", tmp_path / "p.json")
