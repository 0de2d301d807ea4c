"""What stays where it is: pages while events arrive; and everything with the network cut."""

import json
from pathlib import Path

import pytest

from support.browsers import Browser
from support.dashboards import Dashboard, model_folder, running

MODEL = "wiki-math-4M-f16.gguf"
WATCH = """
window.moved = [];
window.shifted = 0;
new PerformanceObserver((list) => { for (const each of list.getEntries()) window.shifted += each.value; })
  .observe({type: 'layout-shift'});
const seen = () => [...document.querySelectorAll('main [id], header')].filter((each) => each.checkVisibility());
const places = () => new Map(seen()
  .map((each) => [each.id, Math.round(each.getBoundingClientRect().top + scrollY)]));
let before = places();
setInterval(() => {
  const now = places();
  for (const [id, top] of now)
    if (before.has(id) && before.get(id) !== top) window.moved.push([id, before.get(id), top]);
  before = now;
}, 20);
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_moves_while_events_arrive(
    page: Browser, folder: Path, browser_cache: Path, tmp_path: Path, width: int
) -> None:
    root = model_folder(tmp_path / "steady")
    page.view(width, 900)
    with running(root, browser_cache) as dashboard:
        page.open(dashboard.url)
        page.go("build")
        page.until("return document.getElementById('command').textContent.includes('raq-client')")
        fields = {"model": MODEL, "types": "Q8_0,Q4_K,Q2_K", "output": "a.profile.json"}
        first = dashboard.post("/api/jobs", {"action": "profile", "fields": fields}).json["id"]
        dashboard.until(first, "done")
        collect = {"model": MODEL, "text": ["held-out.txt"], "fisher": "4", "output": "b.imatrix.gguf"}
        second = dashboard.post("/api/jobs", {"action": "collect", "fields": collect}).json["id"]
        page.until(f"return document.querySelector('#job-{second}')")
        page.run(WATCH)
        page.until(f"return document.querySelector('#job-{second}[data-state=running] progress')")
        page.until(f"return document.querySelector('#job-{second}[data-state=done]')")
        assert page.run("return window.moved") == []
        assert page.run("return window.shifted") == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "plan", "build", "compare"])
def test_pages_ask_nobody_but_the_dashboard(page: Browser, dashboard: Dashboard, name: str) -> None:
    """Names of other machines lead nowhere in this browser (see its flags), and none is asked for."""
    page.driver.get_log("performance")
    page.open(dashboard.url)
    page.until("return location.pathname === '/model'")
    if name != "model":
        page.go(name)
    page.until("return document.querySelectorAll('select option').length > 2")
    events = [json.loads(each["message"])["message"] for each in page.driver.get_log("performance")]
    asked = {each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"}
    assert len(asked) > 5
    assert {each for each in asked if not each.startswith((f"http://{dashboard.host}/", "data:", "about:"))} == set()
    with pytest.raises(Exception, match="ERR_NAME_NOT_RESOLVED"):
        page.driver.get("http://other.example/")
    page.complaints()
