"""The whole road in a browser: model, slider, a tensor held, saved, built, watched, compared; a restart on the way."""

import json
import tomllib
from pathlib import Path

import pytest

from support.browsers import Browser, eventually
from support.dashboards import Dashboard, model_folder, running, start
from support.paths import DATA

MODEL = "wiki-math-4M-f16.gguf"


def measured(root: Path, folder: Path) -> Path:
    """A new folder with what `folder` has."""
    made = model_folder(root)
    (made / "wiki-math-4M.profile.json").write_bytes((folder / "wiki-math-4M.profile.json").read_bytes())
    return made


def hold_output(page: Browser) -> None:
    """Hold output.weight at Q8_0 by the map of types, with the keyboard."""
    canvas = page.element("#map canvas")
    canvas.send_keys("\ue014")
    eventually(lambda: page.text("#map .reading"), lambda text: text.startswith("token_embd.weight"))
    canvas.send_keys("\ue014\ue007")
    page.until("return document.getElementById('hold').open")
    assert page.text("#hold-title") == "Hold output.weight"
    page.set("#hold-type", "Q8_0")
    page.element("#hold button.primary").click()
    page.until("return document.getElementById('command').textContent.includes('--pin output.weight=Q8_0')")


def build(page: Browser, output: str) -> None:
    """Fill in the form of a build that is there already, and start it."""
    page.until("return document.getElementById('field-output')")
    page.set("#field-text", "held-out.txt")
    page.set("#field-windows", "4")
    page.set("#field-output", output)
    page.until("return document.getElementById('command').textContent.includes(arguments[0])", output)
    page.until("return !document.getElementById('start').disabled")
    page.element("#start").click()


@pytest.mark.slow
def test_from_a_model_to_a_verdict(page: Browser, folder: Path, browser_cache: Path, tmp_path: Path) -> None:
    root = model_folder(tmp_path / "flow")
    with running(root, browser_cache) as dashboard:
        page.open(dashboard.url)
        page.until(
            "const b = document.getElementById('measure-start'); return b.checkVisibility() && !b.disabled"
        )  # the model is not measured yet
        page.element("#measure-start").click()
        page.until("return document.getElementById('quantity').value === 'worth'")  # now it is, without a reload
        page.go("plan")
        page.until("return document.getElementById('figures').children.length > 5")
        page.set("#budget", page.run("return Math.floor(document.getElementById('budget').max / 2)"))
        hold_output(page)
        assert "cost of what you hold" in page.text("#figures")
        page.element("#save").click()
        saved = eventually(lambda: root / "raq.toml", Path.exists)
        budget = page.text("#command").split()[5]
        assert tomllib.loads(saved.read_text()) == {
            "model": MODEL,
            "imatrix": ["wiki-math-4M.gsm8k.fisher.imatrix.gguf"],
            "budget": budget,
            "pin": ["output.weight=Q8_0"],
        }
        page.element("#to-build").click()
        build(page, "first.gguf")
        page.until("return document.querySelector('#jobs .job[data-state=done] .outcome')")
        plan = json.loads((root / "first.manifest.json").read_text())["plan"]
        assert plan["allocation"]["output.weight"] == "Q8_0"
        assert f"{plan['bytes'] * 8 / 4458752:.3f} bpw" in page.text("#jobs")
        page.set("#field-budget", "3.6")
        page.set("#field-constraints", "")
        build(page, "second.gguf")
        page.until("return document.querySelectorAll('#jobs .job[data-state=done] .outcome').length === 2")
        compare_both(page)


def compare_both(page: Browser) -> None:
    """Compare the two files that were built, on other text."""
    page.go("compare")
    page.until("return document.querySelectorAll('#files .badge.same').length === 2")
    page.set("#text", "held-out.txt")
    page.set("#windows", "4")
    for name in ("first.gguf", "second.gguf"):
        page.element(f'#files input[aria-label="Choose {name}"]').click()
    page.until("return !document.getElementById('compare').disabled")
    page.element("#compare").click()
    page.until("return document.querySelector('.verdict')")
    assert "first.gguf is better than second.gguf" in page.text(".verdict").replace("\n", " ")


@pytest.mark.slow
def test_a_restart_in_the_middle_of_a_build(page: Browser, folder: Path, browser_cache: Path, tmp_path: Path) -> None:
    root = measured(tmp_path / "restart", folder)
    (root / "long.txt").write_bytes((DATA / "gsm8k.evaluation.txt").read_bytes())  # longer than a restart takes
    fields = {"model": MODEL, "text": ["long.txt"], "fisher": "30", "output": "long.imatrix.gguf"}
    first: Dashboard = start(root, browser_cache)
    page.open(first.url)
    number = first.post("/api/jobs", {"action": "collect", "fields": fields}).json["id"]
    page.go("build")
    page.until("return document.querySelector('#jobs .job[data-state=running] progress')")
    assert first.stop() == 130
    page.until("return document.getElementById('messages').textContent.includes('Jobs go on without it')")
    page.complaints()  # that it did not answer
    with running(root, browser_cache) as second:
        page.open(second.url)
        page.go("build")
        page.until(f"return document.querySelector('#job-{number} progress')")
        page.until(f"return document.querySelector('#jobs #job-{number}[data-state=done]')")
        assert "long.imatrix.gguf" in page.text(f"#job-{number} .command")


@pytest.mark.slow
def test_a_failure_shows_the_tools_sentence_and_its_log(
    page: Browser, folder: Path, browser_cache: Path, tmp_path: Path
) -> None:
    root = measured(tmp_path / "failing", folder)
    (root / "torn.gguf").write_bytes((root / MODEL).read_bytes()[:-1000])
    with running(root, browser_cache) as dashboard:
        page.open(dashboard.url)
        page.go("build")
        dashboard.post("/api/jobs", {"action": "profile", "fields": {"model": "torn.gguf", "output": "x.profile.json"}})
        page.until("return document.querySelector('#jobs .job[data-state=failed] .error')")
        assert "torn.gguf: the file is cut off" in page.text("#jobs .error")
        assert page.element('#jobs a[download][href="/api/jobs/1/log"]').is_displayed()
        (root / "torn.gguf").write_bytes((root / MODEL).read_bytes())
        page.element('[aria-label="Try job 1 again"]').click()
        page.until("return document.querySelector('#jobs .job[data-state=done]')")
