"""The built pages, and a browser that notes what goes wrong. `make test-all` runs these tests.

They run in the book's environment, `.venv-book`, on what `make book` and `make slides` have built.
"""

import importlib.util
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent


def load_tool():
    """Import tools/book.py, which is not a package."""
    spec = importlib.util.spec_from_file_location("book_tool", ROOT / "tools" / "book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()
BOOK = tool.BUILD / "book"
SLIDES = tool.BUILD / "slides"


class Watched:
    """A tab of the browser, and a list of what went wrong in it."""

    def __init__(self, tab, address):
        self.tab, self.address, self.problems = tab, address, []
        tab.on("console", self.hear)
        tab.on("pageerror", lambda error: self.problems.append(f"error of a script: {error}"))
        tab.on("request", self.see_request)
        tab.on("requestfailed", self.see_failure)
        tab.on("response", self.see_response)

    def hear(self, message):
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type} on the console: {message.text}")

    def see_request(self, request):
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.problems.append(f"a request leaves the page: {request.url}")

    def see_failure(self, request):
        self.problems.append(f"failed ({request.failure}): {request.url}")

    def see_response(self, response):
        if response.status >= 400:
            self.problems.append(f"status {response.status}: {response.url}")

    def open(self, path):
        """Show a page, and forget what was wrong with the one before."""
        self.problems.clear()
        self.tab.goto(f"{self.address}/{path}", wait_until="load")
        self.tab.wait_for_function("[...document.images].every(image => image.complete)")
        return self.tab


@pytest.fixture(scope="session")
def browser():
    """Chromium; where there is none, the tests end with what to install."""
    with sync_playwright() as playwright:
        found = tool.open_browser(playwright)
        yield found
        found.close()


@pytest.fixture(scope="session")
def site():
    """The address at which the built pages are served."""
    with tool.serve(tool.BUILD) as address:
        yield address


@pytest.fixture(scope="session")
def open_tab(browser, site):
    """A function (width, height, colours) -> Watched; tabs are kept for the next call."""
    kept = {}

    def tab(width, height=900, colours="light"):
        key = (width, height, colours)
        if key not in kept:
            size = {"width": width, "height": height}
            context = browser.new_context(viewport=size, color_scheme=colours)
            context.set_default_timeout(20_000)
            kept[key] = Watched(context.new_page(), site)
        return kept[key]

    return tab
