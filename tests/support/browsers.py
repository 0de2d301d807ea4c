"""A headless Chromium, and what tests of pages need of it."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from support.paths import ROOT

SECONDS = 150.0
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # the network is cut: pages must do without
)  # fmt: skip
AXE = ROOT / "tests" / "browser" / "vendor" / "axe.min.js"
Value = TypeVar("Value")


@dataclass
class Browser:
    """A driven browser. Pages are asked by JavaScript and by what a person sees."""

    driver: Any

    def open(self, url: str) -> None:
        """Open an address, and wait until its scripts have run and its content is there."""
        self.driver.get(url)
        self.until("return !document.getElementById('content') || !document.getElementById('content').hidden")

    def go(self, page: str) -> None:
        """Open another page by its link, as a person does."""
        self.driver.find_element("css selector", f'nav a[href="/{page}"]').click()
        self.until(f"return location.pathname === '/{page}' && document.readyState === 'complete'")

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments: object) -> Any:
        """The value of a script once it is true."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = self.run(script, *arguments)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}\n{self.run('return document.body.innerText')}")

    def text(self, selector: str) -> str:
        """The text of an element as it is shown."""
        return str(self.driver.find_element("css selector", selector).text)

    def element(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def set(self, selector: str, value: object) -> None:
        """Give a field a value as a person does: with the events that follow."""
        self.run(
            "const field = document.querySelector(arguments[0]); field.value = arguments[1];"
            "field.dispatchEvent(new Event('input', {bubbles: true}));"
            "field.dispatchEvent(new Event('change', {bubbles: true}));",
            selector,
            value,
        )

    def view(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the window, and whether dark colours are preferred."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        wanted = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})

    def forget(self) -> None:
        """Cookies and what pages stored."""
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.complaints()

    def complaints(self) -> list[str]:
        """What pages wrote to the console as errors since the last call."""
        return [each["message"] for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]

    def axe(self) -> list[str]:
        """What axe-core finds wrong with the page, a line for each."""
        self.driver.execute_script(AXE.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {resultTypes: ['violations']}).then((r) => done(r.violations), (e) => done(String(e)));"
        )
        assert isinstance(found, list), found
        return [
            f"{each['id']}: {node['html'][:120]} {node['failureSummary']}" for each in found for node in each["nodes"]
        ]


def open_browser(profile: Path, *flags: str, trace: str = "") -> Browser:
    """Start Chromium with a profile of its own. `trace`: categories of its trace to keep in the log `performance`."""
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={profile}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if trace:
        options.add_experimental_option("perfLoggingPrefs", {"traceCategories": trace})
    driver = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    driver.set_script_timeout(SECONDS)
    return Browser(driver)


def eventually(read: Callable[[], Value], is_right: Callable[[Value], bool]) -> Value:
    """The value once it is right."""
    end = time.monotonic() + SECONDS
    while not is_right(value := read()):
        assert time.monotonic() < end, json.dumps(value, default=str)[:2000]
        time.sleep(0.05)
    return value
