"""Headless Chromium, where there is one: Debian's chromium and chromium-driver, driven by selenium."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.browsers import Browser, open_browser
from support.dashboards import Dashboard, model_folder, running

UNANSWERED = (
    *("net::ERR_CONNECTION_REFUSED", "net::ERR_INCOMPLETE_CHUNKED_ENCODING", "net::ERR_EMPTY_RESPONSE"),
    "503 (Service Unavailable)",  # it is ending
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip where there is no Chromium; RAQ_BROWSER=required makes that a failure."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing and os.environ.get("RAQ_BROWSER") != "required":
        reason = f"no {' and no '.join(missing)} on this machine (Debian: apt-get install chromium chromium-driver)"
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests, which forgets everything between them."""
    with tempfile.TemporaryDirectory(prefix="raq-chromium-", ignore_cleanup_errors=True) as profile:
        found = open_browser(Path(profile))
        yield found
        found.driver.quit()


@pytest.fixture
def page(browser: Browser) -> Iterator[Browser]:
    """The browser with nothing remembered; what its pages complained of is an error of the test.

    That a dashboard does not answer is none: some tests end theirs under an open page.
    """
    browser.forget()
    browser.view(1280, 900)
    yield browser
    assert [each for each in browser.complaints() if not any(code in each for code in UNANSWERED)] == []


@pytest.fixture(scope="session")
def browser_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its importance, a text, and its profile as `raq-client profile` writes it."""
    from support.commands import client

    root = model_folder(tmp_path_factory.mktemp("browser") / "models")
    importance = root / "wiki-math-4M.gsm8k.fisher.imatrix.gguf"
    model, profile = root / "wiki-math-4M-f16.gguf", root / "wiki-math-4M.profile.json"
    types = "Q8_0,Q6_K,Q5_K,Q4_K,Q3_K,Q2_K"
    assert client("profile", model, "-i", importance, "--types", types, "-o", profile, "--no-cache").code == 0
    return root


@pytest.fixture(scope="session")
def dashboard(folder: Path, browser_cache: Path) -> Iterator[Dashboard]:
    with running(folder, browser_cache) as found:
        yield found
