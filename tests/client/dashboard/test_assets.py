"""The pages' own files: small, whole, from nowhere else; scripts and pages fit together."""

import re
from importlib.resources import files

import pytest

from raq_client.dashboard.app import PAGES, STATIC

TEMPLATES = STATIC.parent / "templates"
MODULES = sorted(STATIC.glob("*.js"))
OTHER_ADDRESS = re.compile(r"(?:https?:)?//[a-z0-9-]+\.[a-z]")


def test_all_assets_together_are_small() -> None:
    assert sum(path.stat().st_size for path in STATIC.iterdir()) <= 150_000


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_its_assets(page: str) -> None:
    text = (TEMPLATES / "base.html").read_text().replace("{{ page }}", page) + (TEMPLATES / f"{page}.html").read_text()
    assert {"style.css", f"{page}.js"} <= set(re.findall(r'"/static/([\w.]+)"', text))


def imported(module: str) -> list[str]:
    return re.findall(r'from "\./(\w+\.js)"', (STATIC / module).read_text())


@pytest.mark.parametrize("path", [*MODULES, *TEMPLATES.iterdir(), STATIC / "style.css"], ids=lambda path: path.name)
def test_nothing_comes_from_another_address(path: object) -> None:
    from pathlib import Path

    assert isinstance(path, Path)
    assert not OTHER_ADDRESS.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(TEMPLATES.iterdir()), ids=lambda path: path.name)
def test_pages_have_no_inline_script_or_style(path: object) -> None:
    from pathlib import Path

    assert isinstance(path, Path)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)


def elements(page: str) -> set[str]:
    text = (TEMPLATES / "base.html").read_text() + (TEMPLATES / f"{page}.html").read_text()
    for name in re.findall(r'{% include "(\w+\.html)" %}', text):
        text += (TEMPLATES / name).read_text()
    return set(re.findall(r'\bid="([^"]+)"', text))


@pytest.mark.parametrize("page", PAGES)
def test_every_element_that_a_script_names_is_on_its_page(page: str) -> None:
    scripts = [
        f"{page}.js",
        *(name for name in imported(f"{page}.js") if name in {"points.js", "presets.js", "recipes.js"}),
    ]
    named = {name for each in scripts for name in re.findall(r'\bat\("([a-z-]+)"\)', (STATIC / each).read_text())}
    if page == "plan":
        named -= {"recipes", "no-recipes"}  # showRecipes is the page Build's
    made_by_the_script = {name for name in named if name.startswith(("field-", "about-", "recipe-pin"))}
    assert named - made_by_the_script <= elements(page)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_modules_import_what_there_is(path: object) -> None:
    from pathlib import Path

    assert isinstance(path, Path)
    for names, module in re.findall(r"import \{([^}]+)\} from \"\./(\w+\.js)\"", path.read_text()):
        exported = set(re.findall(r"export (?:async )?(?:const|function|class) (\w+)", (STATIC / module).read_text()))
        assert {name.strip() for name in names.split(",")} <= exported
    assert "innerHTML" not in path.read_text()


def test_they_are_part_of_the_package() -> None:
    packaged = files("raq_client.dashboard")
    assert packaged.joinpath("static", "model.js").is_file()
    assert packaged.joinpath("templates", "base.html").is_file()
