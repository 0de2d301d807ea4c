"""Sizes with a name, recipes saved from a plan, files on the frontier, and two importance files against each other."""

import json
import tomllib
from pathlib import Path

import pytest

from support.browsers import Browser, eventually
from support.commands import client
from support.dashboards import Dashboard, model_folder, running

MODEL = "wiki-math-4M-f16.gguf"
MINE = "wiki-math-4M.gsm8k.fisher.imatrix.gguf"
OTHER = "wiki-math-4M.wiki.imatrix.gguf"
PROFILE = "wiki-math-4M.profile.json"
PLAN_READY = (
    "return document.getElementById('figures').children.length > 5"
    " && !document.querySelector('#presets button').disabled"
)


def open_page(page: Browser, dashboard: Dashboard, name: str) -> None:
    page.open(dashboard.url)
    page.until("return location.pathname === '/model'")
    if name != "model":
        page.go(name)


@pytest.mark.slow
def test_a_preset_is_raqs_and_a_recipe_saved_from_it_builds_its_very_bytes(
    page: Browser, folder: Path, browser_cache: Path, tmp_path: Path
) -> None:
    root = model_folder(tmp_path / "presets")
    (root / PROFILE).write_bytes((folder / PROFILE).read_bytes())
    context = ("--vram-context", "32k", "--kv", "f16")
    found = client("suggest", "--presets", "-p", root / PROFILE, *context, "--json").json
    with running(root, browser_cache) as dashboard:
        open_page(page, dashboard, "plan")
        page.until(PLAN_READY)
        for each in found:
            row = page.text("#presets").split(each["preset"][1:])[1].split("\n")[0]
            assert f"{each['bytes']:,}" in row
            assert f"{each['memory_bytes'] / 2**20:.2f} MiB" in row
        recommended = found[1]
        page.element("#preset-recommended").click()
        page.until(
            "return document.getElementById('figures').textContent.includes(arguments[0])", f"{recommended['bytes']:,}"
        )
        assert f"{recommended['memory_bytes'] / 2**20:.2f} MiB" in page.text("#figures")
        page.element("#save-recipe").click()
        page.until("return document.getElementById('recipe').open")
        page.set("#recipe-name", "kept.recipe.toml")
        page.element("#recipe-save").click()
        saved = eventually(lambda: root / "kept.recipe.toml", Path.exists)
        text = saved.read_text(encoding="utf-8")
        stated = tomllib.loads(text)
        assert (stated["model"], stated["imatrix"]) == (MODEL, [MINE])
        assert "# PATTERN=TYPE" in text  # the comments of `recipe new`
        built = client("recipe", "build", saved, "--store", tmp_path / "store").code
        assert built == 0
        manifest = json.loads((root / f"{stated['output']['file']}.manifest.json").read_text())
        assert manifest["plan"]["bytes"] == recommended["bytes"]


@pytest.mark.slow
def test_a_saved_recipe_is_replaced_only_after_its_difference_was_seen(
    page: Browser, dashboard: Dashboard, folder: Path
) -> None:
    recipe = folder / "twice.recipe.toml"
    open_page(page, dashboard, "plan")
    page.until(PLAN_READY)
    try:
        save_as(page, recipe.name)
        page.until("return !document.getElementById('recipe').open")
        before = recipe.read_text()
        page.set("#budget", 0)
        save_as(page, recipe.name)
        page.until("return document.getElementById('recipe-save').textContent === 'Replace'")
        assert recipe.read_text() == before
        assert "-budget = " in page.text("#recipe-difference")
        page.element("#recipe-save").click()
        page.until("return !document.getElementById('recipe').open")
        assert recipe.read_text() != before
    finally:
        recipe.unlink(missing_ok=True)


def save_as(page: Browser, name: str) -> None:
    page.element("#save-recipe").click()
    page.until("return document.getElementById('recipe').open")
    page.set("#recipe-name", name)
    page.element("#recipe-save").click()


@pytest.mark.slow
def test_a_recipe_can_start_from_a_mixture_and_hold_a_role_of_the_model(page: Browser, dashboard: Dashboard) -> None:
    open_page(page, dashboard, "plan")
    page.until(PLAN_READY)
    page.element("#save-recipe").click()
    page.until(
        "return document.querySelectorAll('#recipe-start option').length > 20 && document.querySelector('.holder')"
    )
    page.set("#recipe-start", "base Q4_K_M")
    page.until("return document.getElementById('recipe-base').value === 'Q4_K_M' && document.querySelector('.holder')")
    roles = page.run("return [...document.querySelectorAll('.holder option')].map((each) => each.value)")
    assert {"token_embd.weight", "blk.*.attn_q.weight", "blk.*.ffn_down.weight"} <= set(roles)
    page.set(".holder select", "blk.*.attn_q.weight")
    page.set(".holder input", "Q6_K")
    page.run("document.querySelector('.holder button').click()")
    assert page.run("return document.getElementById('recipe-pin').value") == "blk.*.attn_q.weight=Q6_K"
    assert page.axe() == []


@pytest.mark.slow
def test_an_audited_file_is_a_point_of_the_frontier(
    page: Browser, dashboard: Dashboard, folder: Path, tmp_path: Path
) -> None:
    made, plan = folder / "audited.gguf", tmp_path / "plan.json"
    held = client("solve", "-p", folder / PROFILE, "-b", "4.5", "--pin", "output.weight=Q8_0", "--json")
    plan.write_text(held.out)
    assert client("quantize", folder / MODEL, "-a", plan, "-i", folder / MINE, "-o", made).code == 0
    try:
        found = client("audit", made, "-p", folder / PROFILE, "--json").json
        open_page(page, dashboard, "plan")
        page.until(PLAN_READY)
        page.until("return document.getElementById('file-points').textContent.includes('audited.gguf')")
        assert "files here, predicted" not in page.text("#legend")
        page.element("#audit-all").click()
        page.until("return document.getElementById('legend').textContent.includes('files here, predicted')")
        row = page.text("#file-points tbody")
        assert f"{found['loss']:.3g}" in row
        assert f"+{100 * found['excess']:.1f} %" in row
    finally:
        made.unlink()


@pytest.mark.slow
def test_a_file_against_itself_is_an_exact_match_and_against_another_the_blocks_that_differ_are_named(
    page: Browser, dashboard: Dashboard, folder: Path
) -> None:
    contrast = client("imatrix", "paths", folder / MINE, "--contrast", folder / OTHER, "--json").json
    open_page(page, dashboard, "model")
    page.set("#imatrix", MINE)
    page.set("#general", MINE)
    page.until("return document.getElementById('banner').textContent.startsWith('Exact match: all 16 inputs')")
    page.set("#general", OTHER)
    page.until("return document.getElementById('banner').textContent.includes('Most distinctive blocks')")
    said = page.text("#banner")
    assert said.startswith("16 of 16 inputs differ.")
    cells = [each for block in contrast["blocks"] for each in block["deltas"] if each is not None]
    assert f"{sum(each != 0 for each in cells)} of {len(cells)} cells differ." in said
    assert f"Most distinctive blocks: {contrast['most_distinctive'][0]} (" in said


@pytest.mark.slow
def test_several_files_of_a_text_give_intervals(page: Browser, dashboard: Dashboard, folder: Path) -> None:
    more = folder / "more.imatrix.gguf"
    more.write_bytes((folder / OTHER).read_bytes())
    try:
        parts = ("--domain-part", more, "--general-part", more)
        found = client("imatrix", "ratio", folder / MINE, folder / OTHER, *parts, "--json").json["rows"]
        row = next(each for each in found if each["role"] == "ffn_down" and each["block"] == 0)
        open_page(page, dashboard, "model")
        page.set("#general", OTHER)
        page.until(
            "return [...document.querySelectorAll('#domain-parts option')].some((each) => each.value === arguments[0])",
            more.name,
        )
        for name in ("domain-parts", "general-parts"):
            page.set(f"#{name}", more.name)
        page.until("return document.getElementById('banner').textContent.includes('95 % interval')")
        answer = dashboard.get(
            f"/api/ratio?domain={MINE}&general={OTHER}&domain-part={more.name}&general-part={more.name}"
        )
        assert next(each for each in answer["rows"] if each["name"] == row["name"])["interval"] == row["interval"]
    finally:
        more.unlink()


@pytest.mark.slow
def test_the_ranking_begins_with_the_worth_of_a_byte_and_can_be_switched(
    page: Browser, dashboard: Dashboard, folder: Path
) -> None:
    means = {each["name"]: each["mean"] for each in client("imatrix", "show", folder / MINE, "--json").json}
    open_page(page, dashboard, "model")
    page.until("return document.getElementById('ranks').children.length === 12")
    page.until("return document.getElementById('ranking').value === 'worth'")
    page.set("#ranking", "importance")
    page.until("return document.getElementById('ranking-note').textContent.includes('does not rank tensors')")
    names = [each.text.split()[0] for each in page.driver.find_elements("css selector", "#ranks li")]
    assert [means[name] for name in names] == sorted(means.values(), reverse=True)[:12]
    page.set("#ranking", "bytes")
    page.until("return !document.getElementById('ranking-note').textContent.includes('does not rank tensors')")
    first = page.driver.find_element("css selector", "#ranks li").text.split()[0]
    assert first in {"token_embd.weight", "output.weight"}  # 4,096 rows of 256: the largest matrices


@pytest.mark.slow
def test_a_file_without_a_manifest_is_listed_as_such(page: Browser, browser_cache: Path, tmp_path: Path) -> None:
    root = model_folder(tmp_path / "models")
    types = tmp_path / "types"
    types.write_text("blk.*=q4_0\n", encoding="utf-8")
    assert client("quantize", root / MODEL, "-a", types, "-o", root / "somebodys.gguf").code == 0
    with running(root, browser_cache) as dashboard:
        open_page(page, dashboard, "compare")
        page.until("return document.querySelector('#files tbody tr')")
        rows = [each.text for each in page.driver.find_elements("css selector", "#files tbody tr")]
    (row,) = [each for each in rows if each.startswith("somebodys.gguf")]
    assert "no manifest" in row
