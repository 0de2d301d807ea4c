import pytest

from raq_client.recipes.patterns import expand, matches, matching
from raq_solver.errors import InvalidInput

NAMES = [f"blk.{block}.ffn_{part}.weight" for block in range(3) for part in ("up", "gate")]


@pytest.mark.parametrize(
    ("pattern", "globs"),
    [
        ("output.weight", ("output.weight",)),
        ("b.{1..3}.w", ("b.1.w", "b.2.w", "b.3.w")),
        ("{a,b}.{0..1}", ("a.0", "a.1", "b.0", "b.1")),
        ("x{a,}y", ("xay", "xy")),
        ("{3..1}", ()),
    ],
)
def test_braces_stand_for_lists_and_ranges(pattern: str, globs: tuple[str, ...]) -> None:
    assert expand(pattern) == globs


def test_a_pattern_is_the_whole_name() -> None:
    assert matches("blk.{0..1}.ffn_*.weight", NAMES[0])
    assert not matches("ffn_up", NAMES[0])
    assert not matches("blk.{1..2}.*", NAMES[0])


def test_matches_come_in_the_order_of_patterns_each_once() -> None:
    found = matching(["blk.2.*", "blk.{2,1}.ffn_up.weight"], NAMES, "here")
    assert found == ("blk.2.ffn_up.weight", "blk.2.ffn_gate.weight", "blk.1.ffn_up.weight")


def test_every_glob_must_match() -> None:
    with pytest.raises(InvalidInput) as error:
        matching(["blk.{2..4}.ffn_up.weight", "nothing"], NAMES, "move 1")
    assert [fault.what.split(" (")[0] for fault in error.value.faults] == [
        "blk.3.ffn_up.weight matches no tensor",
        "blk.4.ffn_up.weight matches no tensor",
        "nothing matches no tensor",
    ]
    assert {fault.where for fault in error.value.faults} == {"move 1"}


@pytest.mark.parametrize("pattern", ["{a,b}" * 22, "blk.{0..999999999}.w", "{" + "," * 100_001 + "}"])
def test_a_short_pattern_that_stands_for_very_many_is_refused_at_once(pattern: str) -> None:
    with pytest.raises(InvalidInput, match="its braces stand for more than 100,000 names"):
        matches(pattern, "blk.0.w")


def test_braces_in_braces_and_ranges_of_impossible_length() -> None:
    assert expand("{a,b{c,d}}") == ("a", "bc", "a", "bd")
    digits = "9" * 5_000
    assert expand(f"{{1..{digits}}}") == (f"1..{digits}",)
