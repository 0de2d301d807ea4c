from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from raq_client.files.user_files import parse_user_text
from raq_client.models.quantizable import candidates
from raq_client.models.read_table import read_table
from raq_client.models.table import ModelTable
from raq_client.recipes.architecture import RuleSet, architecture_constraints, read_rules
from raq_solver.constraints import Ceiling, Constraint, Exclude, Floor, Pin, Source, Tie
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE, QuantType, quant_type
from raq_solver.tensors import Tensor
from support.published_shapes import PUBLISHED

HEAD = 'format = "raq-architecture-1"\nname = "mine"\nversion = 3\n'
ALL = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")


def _table(*names: str, width: int = 256) -> ModelTable:
    return ModelTable("m", "llama", tuple(Tensor(name, (width, 4), CATALOGUE["F16"]) for name in names))


def _candidates(table: ModelTable, types: Sequence[str] = ALL) -> Mapping[str, tuple[QuantType, ...]]:
    asked = [quant_type(name) for name in types]
    return {tensor.name: candidates(tensor, asked, architecture=table.architecture) for tensor in table.tensors}


def _rules(text: str) -> RuleSet:
    return parse_user_text(HEAD + text, RuleSet, "mine.toml", "rules")


def _found(text: str, table: ModelTable, types: Sequence[str] = ALL) -> tuple[Constraint, ...]:
    return architecture_constraints(_rules(text), table, _candidates(table, types))


def _rule(demand: str, tensors: str = "*") -> str:
    return f'[[rules]]\nname = "r"\ntensors = ["{tensors}"]\nreason = "because"\n{demand}\n'


TABLE = _table("blk.0.ffn_up.weight", "blk.0.ffn_gate.weight", "blk.1.ffn_up.weight", "output.weight")


def test_constraints_say_whose_knowledge_they_are() -> None:
    (floor,) = _found(_rule("floor = 4.5", "blk.0.*"), TABLE)
    assert isinstance(floor, Floor)
    assert (floor.tensors, floor.bits) == (("blk.0.ffn_up.weight", "blk.0.ffn_gate.weight"), 4.5)
    assert (floor.source, floor.reason) == (Source.ARCHITECTURE, "mine 3: r (because)")


def test_every_demand_becomes_its_constraint() -> None:
    (ceiling,) = _found(_rule("ceiling = 5.5", "output.weight"), TABLE)
    assert isinstance(ceiling, Ceiling)
    (pin,) = _found(_rule('pin = "q6_k"', "output.weight"), TABLE)
    assert isinstance(pin, Pin)
    assert pin.quant_type == "Q6_K"
    (exclude,) = _found(_rule('exclude = ["Q2_K", "IQ1_S"]', "output.weight"), TABLE)
    assert isinstance(exclude, Exclude)
    assert exclude.quant_types == ("Q2_K",)
    (tie,) = _found(_rule('tie = "block"', "blk.*"), TABLE)
    assert isinstance(tie, Tie)
    assert set(tie.tensors) == {"blk.0.ffn_up.weight", "blk.0.ffn_gate.weight"}
    (all_tied,) = _found(_rule('tie = "all"', "blk.*"), TABLE)
    assert len(all_tied.tensors) == 3


def test_blocks_count_from_both_ends() -> None:
    table = _table(*(f"blk.{block}.ffn_up.weight" for block in range(5)))
    (floor,) = _found(_rule("floor = 4.5\nblocks = [0, -1]"), table)
    assert floor.tensors == ("blk.0.ffn_up.weight", "blk.4.ffn_up.weight")


def test_knowledge_gives_way_to_what_is_possible() -> None:
    few = ("Q4_K", "Q3_K")
    (floor,) = _found(_rule("floor = 8.0", "output.weight"), TABLE, few)
    assert isinstance(floor, Floor)
    assert floor.bits == quant_type("Q4_K").bits_per_weight
    (ceiling,) = _found(_rule("ceiling = 2.0", "output.weight"), TABLE, few)
    assert isinstance(ceiling, Ceiling)
    assert ceiling.bits == quant_type("Q3_K").bits_per_weight
    assert _found(_rule('pin = "Q8_0"', "output.weight"), TABLE, few) == ()
    assert _found(_rule('exclude = ["Q4_K", "Q3_K"]', "output.weight"), TABLE, few) == ()


def test_rules_for_companions_wait_for_them() -> None:
    rule = _rule('floor = 4.5\nbeside = "blk.*.ssm_*"', "output.weight")
    assert _found(rule, TABLE) == ()
    assert len(_found(rule, _table("output.weight", "blk.0.ssm_a.weight"))) == 1


def test_what_has_no_choice_is_left_alone() -> None:
    table = _table("blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight")
    assert _found(_rule("floor = 4.5"), table) == ()


def test_no_rules_are_rules_too() -> None:
    assert architecture_constraints(read_rules("none"), TABLE, _candidates(TABLE)) == ()


def test_the_shipped_rules_name_reasons_and_sources() -> None:
    rules = read_rules("default")
    assert (rules.name, rules.version) == ("default", 1)
    assert all(rule.reason and rule.source for rule in rules.rules)


@pytest.mark.parametrize("types", [ALL, ("Q3_K", "Q2_K"), ("F16",)])
def test_the_shipped_rules_never_empty_a_row(shapes: Path, types: Sequence[str]) -> None:
    for name in PUBLISHED:
        table = read_table(shapes / f"{name}_tensors.csv")
        offered = _candidates(table, types)
        for constraint in architecture_constraints(read_rules("default"), table, offered):
            assert isinstance(constraint, Floor)
            for tensor in constraint.tensors:
                assert any(found.bits_per_weight >= constraint.bits for found in offered[tensor])


def test_a_hybrid_is_known_by_its_recurrent_parts(shapes: Path) -> None:
    table = read_table(shapes / "qwen36_27b_tensors.csv")
    found = architecture_constraints(read_rules("default"), table, _candidates(table))
    assert {
        constraint.reason.split(":")[1].split(" (")[0].strip(): len(constraint.tensors) for constraint in found
    } == {
        "recurrent gates": 96,
        "recurrent output": 48,
        "few attention blocks of a hybrid": 32,
        "output head": 1,
        "token embedding": 1,
        "first and last block": 3,
    }


def test_every_fault_of_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        HEAD
        + _rule("floor = 4.5\nflor = 1")
        + _rule('pin = "Q9"')
        + _rule("floor = 4.5\nceiling = 5.0")
        + '[[rules]]\nname = "x"\ntensors = []\nreason = ""\n'
    )
    with pytest.raises(InvalidInput) as error:
        read_rules(str(path))
    text = str(error.value)
    assert "rules.0.flor: no such key (did you mean floor" in text
    assert "Q9: no such quant type" in text
    assert "exactly one of floor, ceiling, pin, exclude and tie" in text
    assert "rules.3.tensors" in text


@pytest.mark.parametrize("text", ["format = ", "[[["])
def test_what_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"can.t be read as a set of architecture rules"):
        read_rules(str(path))


def test_an_absent_file_is_refused() -> None:
    with pytest.raises(InvalidInput, match="can't be read"):
        read_rules("absent.toml")
