"""Solving around a base: moves, their ledger, exo, architecture, memory targets, several domains."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.imatrix_file import read_importance, write_importance
from raq_client.models.model_file import open_model
from raq_solver.quant_types import CATALOGUE
from support.commands import client

MEMORY = ("--vram", "16MiB", "--vram-context", "4k", "--kv", "q8_0", "--overhead", "1MiB")


@pytest.fixture
def model(model_path: Path, imatrix_path: Path) -> tuple[object, ...]:
    return ("-m", model_path, "-i", imatrix_path)


@pytest.fixture
def domain(tmp_path: Path, imatrix_path: Path) -> Path:
    """Importance of a text that drives blk.1.ffn_down twice and blk.2.ffn_down half as hard."""
    factors = {"blk.1.ffn_down.weight": 2.0, "blk.2.ffn_down.weight": 0.5}
    whole = read_importance(imatrix_path)
    entries = {
        name: Entry((entry.sums * np.float32(factors.get(name, 1.0))).astype(np.float32), entry.counts.copy())
        for name, entry in whole.entries.items()
    }
    path = tmp_path / "domain.gguf"
    write_importance(Importance(entries, ("a domain",), whole.chunk_count, whole.chunk_size), path)
    return path


def solved(*arguments: object) -> Any:
    result = client("solve", *arguments, "--json")
    assert result.code == 0, result.err
    return result.json


def bits(allocation: dict[str, str], name: str) -> float:
    return float(CATALOGUE[allocation[name]].bits_per_weight)


def test_without_a_budget_the_base_is_the_budget(model: tuple[object, ...], model_path: Path) -> None:
    plan = solved(*model, "--base", "Q4_K_M")
    exchange, base = plan["exchange"], plan["base"]["allocation"]
    sizes = {t.name: CATALOGUE[base[t.name]].size(t.weights) for t in open_model(model_path).tensors}
    assert plan["capacity_bytes"] == sum(sizes.values()) == 2_870_784
    assert exchange["opening_bytes"] == 0
    assert exchange["freed_bytes"] - exchange["spent_bytes"] == exchange["sink_bytes"] == plan["slack_bytes"]
    assert exchange["base_loss"] + exchange["loss"] == pytest.approx(plan["loss"])
    assert exchange["loss"] < 0
    moved = {move["tensor"]: (move["before"], move["after"]) for move in exchange["moves"]}
    assert moved == {n: (base[n], t) for n, t in plan["allocation"].items() if t != base[n]}
    text = client("solve", *model, "--base", "q4_k_m").out
    assert "base Q4_K_M" in text
    assert f"freed {exchange['freed_bytes']:,} bytes" in text


def test_any_kind_of_base_gives_the_same_types(model: tuple[object, ...], model_path: Path, tmp_path: Path) -> None:
    plan = solved(*model, "--base", "Q4_K_M")
    allocation, lines, file = (tmp_path / name for name in ("plan.json", "types.txt", "base.gguf"))
    allocation.write_text(client("solve", *model, "-b", "4.6", "--json").out)
    lines.write_text(client("solve", *model, "-b", "4.6", "--format", "llama.cpp").out)
    assert client("quantize", model_path, "-a", allocation, *model[2:], "-o", file).code == 0
    bases = [solved(*model, "--base", base, "-b", "4.6") for base in (allocation, lines, file)]
    assert bases[0]["base"]["allocation"] == bases[1]["base"]["allocation"] == bases[2]["base"]["allocation"]
    # The optimum of the same budget has nothing to gain.
    assert all(base["exchange"]["loss"] == pytest.approx(0, abs=1e-12) for base in bases)
    recipe = tmp_path / "mine.toml"
    recipe.write_text('format = "raq-recipe-1"\nname = "mine"\n[base]\nmixture = "Q4_K_M"\n')
    assert solved(*model, "--base", recipe)["allocation"] == plan["allocation"]


def test_overrides_over_a_mixture(model: tuple[object, ...], tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("^blk\\.0\\.ffn_down\\.weight$=Q8_0\n")
    base = solved(*model, "--base", "Q4_K_M", "--overrides", lines, "--counting", "resolved")["base"]["allocation"]
    plain = solved(*model, "--base", "Q4_K_M")["base"]["allocation"]
    assert base == plain | {"blk.0.ffn_down.weight": "Q8_0"}


def test_moves_of_a_ratio_stay_with_its_candidates(model: tuple[object, ...], domain: Path, imatrix_path: Path) -> None:
    ratio = ("--moves", "ratio", "--domain", domain, "--general", imatrix_path)
    plan = solved(*model, "--base", "Q4_K_M", *ratio)
    base, found = plan["base"]["allocation"], plan["allocation"]
    assert plan["ratio"] == {"demote": ["blk.2.ffn_down.weight"], "promote": ["blk.1.ffn_down.weight"]}
    assert {name for name in base if base[name] != found[name]} <= {"blk.1.ffn_down.weight", "blk.2.ffn_down.weight"}
    assert bits(found, "blk.2.ffn_down.weight") <= bits(base, "blk.2.ffn_down.weight")
    assert bits(found, "blk.1.ffn_down.weight") >= bits(base, "blk.1.ffn_down.weight")
    (price,) = plan["prices"]
    assert price["group"] == "ratio"
    free = solved(*model, "--base", "Q4_K_M")
    assert price["loss"] == pytest.approx(plan["loss"] - free["loss"])
    assert {one["tensor"] for one in plan["convergence"]} == {n for n in base if base[n] != "F32"}


def test_who_names_a_tensor_may_move_it(model: tuple[object, ...], domain: Path, imatrix_path: Path) -> None:
    ratio = ("--moves", "ratio", "--domain", domain, "--general", imatrix_path, "--pin", "blk.0.attn_q.weight=Q5_K")
    plan = solved(*model, "--base", "Q4_K_M", *ratio, "-b", "5.2")
    assert plan["allocation"]["blk.0.attn_q.weight"] == "Q5_K"


def test_exo_is_paid_by_the_rest(model: tuple[object, ...]) -> None:
    plan = solved(*model, "-b", "5.0", "--exo", "blk.1.attn_v.weight")
    free = solved(*model, "-b", "5.0")
    assert plan["allocation"]["blk.1.attn_v.weight"] == "F16"
    (price,) = plan["prices"]
    assert price["taken"] > 0
    assert price["rest"] > 0
    assert price["loss"] == pytest.approx(plan["loss"] - free["loss"])
    assert price["loss"] >= 0


def test_architecture_rules_hold_and_have_a_price(model: tuple[object, ...]) -> None:
    free, ruled = solved(*model, "-b", "3.7"), solved(*model, "-b", "3.7", "--architecture", "default")
    assert bits(free["allocation"], "output.weight") < 5.5 <= bits(ruled["allocation"], "output.weight")
    (price,) = ruled["prices"]
    assert price["group"] == "architecture"
    assert price["loss"] == pytest.approx(ruled["loss"] - free["loss"])
    assert price["loss"] > 0


def test_memory_is_a_budget(model: tuple[object, ...]) -> None:
    plan = solved(*model, *MEMORY)
    memory = plan["memory"]
    terms = {term["name"]: term["size"] for term in memory["terms"]}
    # 4 blocks × 2 heads × 32 numbers, keys and values, 34 bytes for 32 of them.
    assert terms["keys and values"] == 4096 * 4 * 2 * 2 * 64 * 34 // 32
    assert terms["overhead"] == 2**20
    assert sum(terms.values()) + memory["weights_bytes"] == memory["memory_bytes"] == 2**24
    assert plan["bytes"] <= plan["capacity_bytes"] == memory["weights_bytes"]
    assert "left for weights" in client("solve", *model, *MEMORY).out


def test_what_stays_on_the_host_takes_nothing_of_the_device(model: tuple[object, ...]) -> None:
    plan, hosted = solved(*model, *MEMORY), solved(*model, *MEMORY, "--host", "token_embd.weight")
    on_host = hosted["memory"]["on_host"]["token_embd.weight"]
    assert hosted["allocation"]["token_embd.weight"] == "Q8_0"
    assert hosted["bytes"] - on_host <= hosted["memory"]["weights_bytes"] == plan["memory"]["weights_bytes"]
    assert hosted["loss"] < plan["loss"]


def test_several_domains_count_by_their_weights(
    model_path: Path, imatrix_path: Path, domain: Path, tmp_path: Path
) -> None:
    both = tmp_path / "both.gguf"
    client("imatrix", "merge", f"{imatrix_path}:0.7", f"{domain}:0.3", "-o", both)
    weighed = solved("-m", model_path, "-b", "4.5", "-i", f"{imatrix_path}:0.7", "-i", f"{domain}:0.3")
    blended = solved("-m", model_path, "-b", "4.5", "-i", both)
    assert weighed["allocation"] == blended["allocation"]
    assert weighed["loss"] == pytest.approx(blended["loss"], rel=1e-6)


def test_a_project_may_have_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_path: Path, imatrix_path: Path
) -> None:
    lines = (f'model = "{model_path}"', f'imatrix = "{imatrix_path}"', 'base = "Q4_K_M"', 'architecture = "default"')
    (tmp_path / "raq.toml").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    assert solved()["base"]["name"] == "Q4_K_M"


def test_a_project_may_have_a_budget_and_a_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_path: Path, imatrix_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f'model = "{model_path}"', f'imatrix = "{imatrix_path}"', "budget = 4.5"]
    (tmp_path / "raq.toml").write_text("\n".join(lines))
    capacity = solved()["capacity_bytes"]
    assert solved("-b", "5")["capacity_bytes"] > capacity
    assert solved("--vram", "32M", "--vram-context", "2k")["capacity_bytes"] != capacity, "a flag takes its place"
    assert client("vram", "--vram", "1G", "--json").json["context"] > 0
    result = client("run", "-o", "out.gguf", "--json")
    assert result.code == 0, result.err
    assert result.json["file"]["tensor_bytes"] <= capacity
    (tmp_path / "raq.toml").write_text("\n".join([*lines, "[memory]", 'vram = "11M"', "context = 512"]))
    assert solved()["capacity_bytes"] < capacity, "the smaller of both"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give a --budget, a --base whose size is kept, or a device's memory"),
        (("--base", "Q4_KM"), "did you mean Q4_K_M"),
        (("--base", "no.gguf"), "no.gguf"),
        (("--base", "ra1"), "is for a model with architecture qwen35"),
        (("--base", "Q4_K_M", "--moves", "ratio"), "--domain"),
        (("-b", "5", "--moves", "ratio", "--domain", "{i}", "--general", "{i}"), "moves need a --base"),
        (("-b", "5", "--exo", "blk.9.*"), "blk.9.* matches no tensor"),
        (("-b", "5", "--architecture", "no.toml"), "no.toml"),
        (("-b", "5", "--overrides", "{i}"), "give a --base, such as Q4_K_M"),
        (("-b", "5", "--vram-context", "8k"), "give --vram too"),
        (("--vram", "24"), "write it with a unit, such as 24GiB"),
        (("--vram", "1MiB"), "shorten the context"),
        ((*MEMORY[:4], "--kv", "q9_0"), "did you mean Q8_0"),
        ((*MEMORY[:4], "--kv", "f16,f16,f16"), "give one type, or two"),
        (("--base", "{i}", "-b", "5"), "an importance file, not a model"),
    ],
)
def test_mistakes_are_named(
    model: tuple[object, ...], imatrix_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = client("solve", *model, *(one.format(i=imatrix_path) for one in arguments))
    assert result.code == 2, result.out
    assert words in result.err
    assert "Traceback" not in result.err


def test_moves_are_drawn(model: tuple[object, ...], tmp_path: Path) -> None:
    picture = tmp_path / "moves.svg"
    result = client("solve", *model, "--base", "Q4_K_M", "--plot", picture)
    assert result.code == 0
    assert "from Q4_K_M to the optimum of 2,870,784 bytes" in picture.read_text()
    without = client("solve", *model, "-b", "5", "--plot", picture)
    assert without.code == 2
    assert "give --base" in without.err


def test_plans_become_recipes_that_extend_one_another(
    model: tuple[object, ...], model_path: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(client("solve", *model, "--base", "Q4_K_M", "--format", "recipe").out)
    plan = solved(*model, "--base", first, "-b", "5.5")
    second.write_text(client("solve", *model, "--base", first, "-b", "5.5", "--format", "recipe").out)
    found = client("recipe", "verify", second, model_path, "--json").json
    assert [step["bytes"] for step in found["steps"]] == [2_870_784, plan["bytes"]]
    assert found["steps"][1]["allocation"] == plan["allocation"]
    assert found["differs"] == []
    without = client("solve", *model, "-b", "5", "--format", "recipe")
    assert without.code == 2
    assert "a recipe starts from a base" in without.err


def test_demands_know_braces_and_ranges(model: tuple[object, ...]) -> None:
    found = solved(*model, "-b", "5", "--pin", "blk.{1..2}.ffn_{gate,up}.weight=Q3_K")["allocation"]
    assert [found[f"blk.{b}.ffn_{r}.weight"] for b in (1, 2) for r in ("gate", "up")] == ["Q3_K"] * 4
    result = client("solve", *model, "-b", "5", "--pin", "blk.{1..9}.ffn_up.weight=Q3_K")
    assert result.code == 2
    assert "blk.9.ffn_up.weight matches no tensor" in result.err


def test_a_server_answers_alike(
    model: tuple[object, ...], domain: Path, imatrix_path: Path, server_address: str
) -> None:
    asked = ("--base", "Q4_K_M", "--moves", "ratio", "--domain", domain, "--general", imatrix_path, "-b", "5.3")
    asked = (*asked, "--exo", "blk.0.attn_v.weight", "--architecture", "default")
    here, there = solved(*model, *asked), solved(*model, *asked, "--server", server_address)
    for part in ("allocation", "loss", "bound", "exchange", "prices"):
        assert here[part] == there[part]


def test_run_carries_a_base_through(model_path: Path, imatrix_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    result = client("run", model_path, "--base", "Q4_K_M", "-i", imatrix_path, "-o", out, "--json")
    assert result.code == 0, result.err
    assert result.json["file"]["tensor_bytes"] == result.json["plan"]["bytes"] <= 2_870_784
    assert result.json["plan"]["exchange"]["loss"] < 0


def test_both_sides_are_solved_together_where_the_host_has_a_memory(model: tuple[object, ...]) -> None:
    host = ("--host", "token_embd.weight", "--host", "blk.0.*")
    pinned = solved(*model, *MEMORY, *host)
    room = sum(pinned["memory"]["on_host"].values())
    joint = solved(*model, *MEMORY, *host, "--host-memory", f"{room}B")
    taken = joint["memory"]["on_host"]
    assert taken.keys() == pinned["memory"]["on_host"].keys()
    assert sum(taken.values()) <= room
    assert joint["bytes"] - sum(taken.values()) <= joint["memory"]["weights_bytes"]
    assert joint["loss"] <= pinned["loss"] * (1 + 1e-9)
    half = solved(*model, *MEMORY, *host, "--host-memory", f"{room // 2}B")
    assert sum(half["memory"]["on_host"].values()) <= room // 2
    assert half["loss"] > joint["loss"]


def test_a_memory_of_the_host_needs_tensors_on_it(model: tuple[object, ...]) -> None:
    result = client("solve", *model, *MEMORY, "--host-memory", "1MB")
    assert result.code == 2
    assert "is for which tensors? Name them with --host" in result.err
    everything = client("solve", *model, *MEMORY, "--host-memory", "1MB", "--host", "*")
    assert everything.code == 2
    assert "every tensor is on the host" in everything.err
