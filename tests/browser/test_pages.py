"""The pages in a browser: figures, keyboard, colours, sizes; nothing from elsewhere."""

from pathlib import Path

import pytest

from support.browsers import Browser
from support.commands import client
from support.dashboards import Dashboard
from support.gguf_files import named_model

PAGES = ("model", "plan", "build", "compare")
READY = {
    "model": "return document.querySelector('#ranks li') && document.getElementById('quantity').value === 'worth'",
    "plan": "return document.getElementById('figures').children.length > 5 && document.querySelector('#chart canvas')"
    " && !document.querySelector('#presets button').disabled",
    "build": "return document.getElementById('command').textContent.includes('raq-client')",
    "compare": "return document.getElementById('why').textContent",
}


def visit(page: Browser, dashboard: Dashboard, name: str) -> None:
    page.open(dashboard.url)
    page.until("return location.pathname === '/model'")
    if name != "model":
        page.go(name)
    page.until(READY[name])


ASKED = "return performance.getEntriesByType('resource').filter((each) => each.name.includes('/api/')).length"


def moved_slider(page: Browser) -> list[tuple[list[str], str, str]]:
    """What the page shows at four places of the slider: the words of the command, the figures, the types."""
    most = int(page.run("return document.getElementById('budget').max"))
    shown = []
    for index in (0, most // 3, most // 2, most):
        page.set("#budget", index)
        shown.append((page.text("#command").split(), page.text("#figures"), page.text("#types")))
    return shown


def test_the_slider_shows_what_solve_prints_and_asks_nobody(page: Browser, dashboard: Dashboard, folder: Path) -> None:
    visit(page, dashboard, "plan")
    asked, shown = 0, []
    for _ in range(3):  # the page also asks by itself where files of the folder have changed, but not each time
        page.run("performance.clearResourceTimings()")
        shown = moved_slider(page)
        asked = int(page.run(ASKED))
        if not asked:
            break
    assert asked == 0
    for words, figures, types in (shown[1], shown[2]):
        profile = folder / words[words.index("-p") + 1]
        plan = client("solve", "-p", profile, *words[words.index("-b") :], "--json").json
        assert f"{plan['bytes']:,} bytes" in figures
        assert f"{plan['loss']:.3g}"[:4] in figures
        for name in set(plan["allocation"].values()):
            count = list(plan["allocation"].values()).count(name)
            assert f"{name} {count} " in types


def test_a_script_in_a_models_name_is_shown_and_not_run(page: Browser, dashboard: Dashboard, folder: Path) -> None:
    script = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    named = named_model(folder / "named.gguf", script)
    try:
        page.open(dashboard.url)
        page.go("compare")
        page.until("return [...document.getElementById('model').options].length === 2")
        page.set("#model", "wiki-math-4M-f16.gguf")
        page.until("return document.getElementById('files').textContent.includes('onerror')")
        page.go("model")
        page.until("return [...document.getElementById('model').options].some((each) => each.value === 'named.gguf')")
        page.set("#model", "named.gguf")
        page.until("return document.getElementById('facts').textContent.includes('onerror')")
        assert script in page.text("#facts")
        assert "owned" not in page.run("return document.title")
    finally:
        named.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_and_nothing_is_cut_off(
    page: Browser, dashboard: Dashboard, name: str, width: int, *, dark: bool
) -> None:
    page.view(width, 900, dark=dark)
    visit(page, dashboard, name)
    assert page.axe() == []
    wide = page.run("return document.documentElement.scrollWidth")
    assert wide <= width, page.run(
        "return [...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth)"
        ".map((e) => e.tagName + '#' + e.id + '.' + e.className).slice(0, 9)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_every_control_is_reached_by_the_tab_key(page: Browser, dashboard: Dashboard, name: str) -> None:
    visit(page, dashboard, name)
    controls = page.run(
        "return [...document.querySelectorAll('a, button, select, input, textarea, canvas[tabindex], summary')]"
        ".filter((e) => e.checkVisibility() && !e.disabled && !(e.type === 'radio' && !e.checked))"
        ".map((e) => (e.dataset.seen = 'no', e.id || e.textContent.slice(0, 20)))"
    )
    body = page.element("body")
    for _ in range(3 * len(controls)):
        page.driver.switch_to.active_element.send_keys("\ue004")
        page.run("if (document.activeElement) document.activeElement.dataset.seen = 'yes'")
    unseen = "return [...document.querySelectorAll('[data-seen=no]')].map((e) => e.id || e.outerHTML.slice(0, 80))"
    assert body
    assert page.run(unseen) == []


@pytest.mark.slow
def test_the_map_is_read_and_used_by_keyboard(page: Browser, dashboard: Dashboard) -> None:
    visit(page, dashboard, "plan")
    canvas = page.element("#map canvas")
    canvas.send_keys("\ue014")
    assert page.text("#map .reading").startswith("token_embd.weight: ")
    canvas.send_keys("\ue015" * 20 + "\ue007")
    page.until("return document.getElementById('hold').open")
    page.element("#hold").send_keys("\ue00c")
    page.until("return !document.getElementById('hold').open")
    assert page.text("#no-pins")


@pytest.mark.slow
def test_the_map_has_the_figures_of_the_importance_file(page: Browser, dashboard: Dashboard, folder: Path) -> None:
    shown = client("imatrix", "show", folder / "wiki-math-4M.gsm8k.fisher.imatrix.gguf", "--json").json
    visit(page, dashboard, "model")
    page.set("#quantity", "importance")
    page.run("document.getElementById('as-table').open = true")
    page.until("return document.querySelector('#table table')")
    heads = [each.text for each in page.driver.find_elements("css selector", "#table thead th")]
    rows = {}
    for line in page.driver.find_elements("css selector", "#table tbody tr"):
        cells = [each.text for each in line.find_elements("css selector", "th, td")]
        rows[cells[0]] = dict(zip(heads[1:], cells[1:], strict=True))
    for each in shown:
        block = str(each["block"]) if each["block"] >= 0 else "–"
        assert float(rows[block][each["role"]]) == pytest.approx(each["mean"], rel=6e-3)
    assert rows["–"]["token_embd"] == "no data"  # llama.cpp collects nothing there: neither 0 nor blank
    assert rows["0"]["token_embd"] == ""  # there is no such tensor


@pytest.mark.slow
def test_against_itself_every_ratio_is_one_and_against_another_the_files_are_compared(
    page: Browser, dashboard: Dashboard, folder: Path
) -> None:
    mine, other = "wiki-math-4M.gsm8k.fisher.imatrix.gguf", "wiki-math-4M.wiki.imatrix.gguf"
    found = {
        row["name"]: row for row in client("imatrix", "ratio", folder / mine, folder / other, "--json").json["rows"]
    }
    visit(page, dashboard, "model")
    page.set("#general", other)
    page.until("return [...document.getElementById('quantity').options].some((each) => each.value === 'ratio')")
    page.set("#quantity", "ratio")
    page.element("#map canvas").send_keys("\ue015\ue014")
    name, _, said = page.text("#map .reading").partition(": ")
    assert said.startswith(f"ratio {found[name]['ratio']:.3g}")
    assert "one input with" in said


def test_a_recipe_appears_by_itself_with_its_error(page: Browser, dashboard: Dashboard, folder: Path) -> None:
    visit(page, dashboard, "build")
    recipe = folder / "new.recipe.toml"
    recipe.write_text('format = "raq-recipe-1"\nnme = "x"\n')
    try:
        page.until("return document.getElementById('recipes').textContent.includes('no such key')")
        assert "new.recipe.toml" in page.text("#recipes")
    finally:
        recipe.unlink()
