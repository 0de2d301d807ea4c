"""From a form to a command: what is missing, what stands in the way, and what no form can say."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.dashboard.commands import ACTIONS, Command, command_for, question
from raq_client.dashboard.folder import Folder
from raq_client.dashboard.refusal import Refusal

WHOLE: dict[str, dict[str, Any]] = {
    "run": {"model": "m.gguf", "imatrix": ["i.gguf"], "budget": "5.0", "text": ["t.txt"], "output": "o.gguf"},
    "profile": {"model": "m.gguf", "imatrix": ["i.gguf"], "output": "o.profile.json"},
    "collect": {"model": "m.gguf", "text": ["t.txt"], "output": "o.gguf"},
    "quantize": {"model": "m.gguf", "plan": "p.json", "output": "o.gguf"},
    "check": {"candidate": "q.gguf", "model": "m.gguf", "text": ["t.txt"]},
    "compare": {"candidates": ["q.gguf", "i.gguf"], "model": "m.gguf", "text": ["t.txt"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    root = tmp_path_factory.mktemp("folder")
    for name in ("m.gguf", "i.gguf", "q.gguf", "t.txt", "p.json", "a=b.txt"):
        (root / name).write_text("x")
    (root / "out.txt").symlink_to(Path("/etc/hostname"))
    return Folder(root)


def test_every_action_has_a_whole_form() -> None:
    assert WHOLE.keys() == ACTIONS.keys()


@pytest.mark.parametrize("action", WHOLE)
def test_a_whole_form_can_be_started_and_one_without_any_field_says_why_not(folder: Folder, action: str) -> None:
    assert command_for(action, WHOLE[action], folder).reasons == ()
    needed = [name for name in WHOLE[action] if name not in {"imatrix", *(["text"] if action == "run" else [])}]
    for name in needed:
        without = {key: value for key, value in WHOLE[action].items() if key != name}
        assert command_for(action, without, folder).reasons, name


def test_the_command_is_what_a_person_types(folder: Folder) -> None:
    fields = WHOLE["run"] | {"pin": ["output.weight=Q6_K", "blk.*=Q4_K"], "windows": "4"}
    assert command_for("run", fields, folder) == Command(
        (
            *("run", "m.gguf", "-i", "i.gguf", "-b", "5.0", "--pin", "output.weight=Q6_K", "--pin", "blk.*=Q4_K"),
            *("-t", "t.txt", "--windows", "4", "--no-trial", "-o", "o.gguf", "--manifest", "o.manifest.json", "--json"),
        ),
        ("m.gguf", "i.gguf", "t.txt"),
        ("o.gguf", "o.manifest.json"),
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "none.gguf"}, "none.gguf: there is no such file"),
        ({"output": "q.gguf"}, "q.gguf: exists; name another, or replace it"),
        ({"output": "m.gguf", "force": True}, "m.gguf: is read by the same command; name another"),
        ({"output": "sub/o.gguf"}, "sub/o.gguf: there is no such folder"),
        ({"output": "o.bin"}, "o.bin: the name must end in .gguf"),
    ],
)
def test_what_stands_in_the_way_is_a_reason(folder: Folder, change: dict[str, Any], reason: str) -> None:
    assert command_for("run", WHOLE["run"] | change, folder).reasons == (reason,)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "../m.gguf"}, {"model": "out.txt"}, {"text": ["/etc/passwd"]}, {"output": "../o.gguf"},
        {"text": ["a=b.txt"]}, {"imatrix": ["i.gguf:2"]}, {"base": "/etc/passwd"}, {"base": "../../x.gguf"},
        {"architecture": "../rules.toml"}, {"budget": "--server=evil:1"}, {"pin": ["--manifest"]}, {"model": 3.5j},
        {"pin": "a\nb"}, {"pin": [1]}, {"pin": {"a": 1}}, {"budget": "5" * 501}, {"force": "yes"}, {"model": True},
    ],
)  # fmt: skip
def test_what_no_form_can_mean_is_refused(folder: Folder, change: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        command_for("run", WHOLE["run"] | change, folder)


@given(
    st.sampled_from(sorted(ACTIONS)),
    st.dictionaries(
        st.sampled_from(["model", "text", "budget", "pin", "output", "base", "windows", "force", "imatrix", "plan"]),
        st.one_of(st.text(max_size=8), st.lists(st.text(max_size=8), max_size=2), st.integers(), st.none()),
    ),
)
def test_no_value_becomes_an_option_or_a_file_elsewhere(folder: Folder, action: str, fields: dict[str, Any]) -> None:
    try:
        command = command_for(action, fields, folder)
    except Refusal:
        return
    known = {"-o", "-i", "-t", "-b", "-a", "-p", "--json", "--no-trial", "--force"}
    known |= {"--model", "--manifest", "--windows", "--pin", "--base", "--fisher", "--types", "--rows"}
    assert {each for each in command.arguments if each.startswith("-")} <= known
    for name in (*command.reads, *command.writes):
        assert folder.path(name).resolve().is_relative_to(folder.root)


def test_a_question_needs_a_profile(folder: Folder) -> None:
    asked = question(["solve"], {"profile": "p.json", "budget": "5.0", "floor": ["blk.*=4"]}, folder)
    assert asked.arguments == ("solve", "-p", "p.json", "-b", "5.0", "--floor", "blk.*=4", "--json")
    with pytest.raises(Refusal, match="choose a profile"):
        question(["solve"], {}, folder)


def test_an_unknown_action_is_not_found(folder: Folder) -> None:
    with pytest.raises(Refusal) as refused:
        command_for("rm", {}, folder)
    assert refused.value.status == 404
