"""Saving a plan into raq.toml: nothing else in it is lost."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.dashboard.folder import Folder
from raq_client.dashboard.refusal import Refusal
from raq_client.dashboard.saving import KEYS, difference, settings_text, write
from raq_client.files.settings import Settings

KEY = st.sampled_from([name.replace("-", "_") for name in KEYS] + ["server", "rows", "unknown", "distinct_types"])
VALUE = st.one_of(
    st.text("ab=*.é\"'", max_size=6), st.integers(0, 99), st.lists(st.text("xy=", max_size=4), max_size=3)
)


def toml(content: dict[str, Any]) -> str:
    import tomlkit

    return tomlkit.dumps(content)


@given(st.dictionaries(KEY, VALUE), st.dictionaries(st.sampled_from(KEYS), VALUE))
def test_given_fields_are_set_empty_ones_removed_all_others_kept(
    before: dict[str, Any], fields: dict[str, Any]
) -> None:
    after = tomllib.loads(settings_text(toml(before), fields))
    expected = before | {name.replace("-", "_"): value for name, value in fields.items()}
    empty = {name.replace("-", "_") for name, value in fields.items() if value in ("", [])}
    assert after == {name: value for name, value in expected.items() if name not in empty}


def test_comments_order_and_tables_stay() -> None:
    before = '# mine\nserver = "a:1"  # ours\n\nbudget = "4.0"\n[memory]\nvram = "24GiB"\n'
    after = settings_text(before, {"budget": "5.0", "pin": ["output.weight=Q6_K"]})
    assert after.startswith('# mine\nserver = "a:1"  # ours\n\nbudget = "5.0"\n')
    assert tomllib.loads(after)["memory"] == {"vram": "24GiB"}
    assert tomllib.loads(after)["pin"] == ["output.weight=Q6_K"]


def test_every_field_is_a_key_that_raq_reads() -> None:
    assert {name.replace("-", "_") for name in KEYS} <= set(Settings.model_fields)


def test_what_says_the_same_already_makes_no_difference() -> None:
    text = settings_text("", {"budget": "5.0"})
    assert difference(text, settings_text(text, {"budget": "5.0"}), "raq.toml") == ""
    assert '+budget = "6.0"' in difference(text, settings_text(text, {"budget": "6.0"}), "raq.toml")


def test_a_file_that_is_no_toml_is_left_alone() -> None:
    with pytest.raises(Refusal, match="not TOML"):
        settings_text("budget = = 5", {"budget": "5.0"})


def test_writing_replaces_only_when_told_to_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    write(folder, "raq.toml", "a", replace=False)
    with pytest.raises(Refusal, match="exists"):
        write(folder, "raq.toml", "b", replace=False)
    write(folder, "raq.toml", "c", replace=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"raq.toml": "c"}
    with pytest.raises(Refusal, match="can't be written"):
        write(folder, "none/raq.toml", "d", replace=False)
