"""Names without folders: nothing of an absolute path is left but its last part, and nothing else is changed."""

from hypothesis import given
from hypothesis import strategies as st

from raq_client.files.names import without_folders

PART = st.from_regex(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-]( [A-Za-z0-9_-]+)?", fullmatch=True)
START = st.sampled_from(["/", "~/", "~me/", "../", "../../", "C:\\"])
AROUND = st.sampled_from(["{}", "--text={}", "2 × {} + 3 × {}", "math={}", "'{}'"])


@given(START, st.lists(PART, min_size=1, max_size=5), AROUND)
def test_the_last_part_alone_is_left(start: str, parts: list[str], around: str) -> None:
    join = "\\" if start.endswith("\\") else "/"
    path = start + join.join(parts)
    assert without_folders(around.replace("{}", path)) == around.replace("{}", parts[-1])


@given(st.lists(PART, min_size=1, max_size=4))
def test_names_of_models_and_paths_below_are_kept(parts: list[str]) -> None:
    for text in ("/".join(parts), f"hf:{'/'.join(parts)}:Q4_K", f"https://{'/'.join(parts)}", "4.5bpw", "a/b: c"):
        assert without_folders(text) == text
