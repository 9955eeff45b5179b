"""The demo's page with the tiny Whisper, in a browser with a made-up microphone (make test-all).

The tests run in the book's environment, which has the browser's driver; the page in its own,
`.venv-demo`, and its worker in the course's.
"""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent

# Chromium's made-up microphone beeps once a second
MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")

# Of Gradio's own scripts: a part that a component does not have, and the end of a stream of answers
OF_GRADIO = (
    "Method not implemented.",
    "/gradio_api/queue/data?",
    "/gradio_api/upload_progress?",  # of a file that is there before the stream of its progress
)

TRAIN = """
from distilwhisper_lib import Lab
lab = Lab("smoke")
for name in ("teacher", "fine-tuning", "experts"):
    lab.train(name)
"""

# Imported by every Python that is started with its folder on PYTHONPATH: notes whom it calls
NOTE_CALLS = """
import os, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        with open(os.environ["CALLS"], "a") as file:
            print(event, arguments[1 if event == "socket.connect" else 0], file=file)
sys.addaudithook(note)
"""


def load(name, path):
    """Import a file that is in no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


book = load("book_conftest", ROOT / "tests" / "book" / "conftest.py")


class Served:
    """A demo that runs.

    Attributes:
        address: Of its page.
        process: The page's.
        calls: A file with what page and worker have called.
    """

    def __init__(self, address, process, calls):
        self.address, self.process, self.calls = address, process, calls


def start(folder, preset="smoke", **variables):
    """Start the demo at a preset, with a cache of its own; returns it once its page is served."""
    hooks = folder / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(NOTE_CALLS, encoding="utf-8")
    calls = folder / "calls.txt"
    calls.touch()
    environment = environment_of(folder) | {"LAB_PRESET": preset, "CALLS": str(calls)}
    environment |= {"PYTHONPATH": str(hooks), **variables}
    command = [".venv-demo/bin/python", "-m", "distilwhisper_lib", "demo"]
    with open(folder / "said.txt", "w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [*command, "--python", ".venv/bin/python"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    said = []
    for line in process.stdout:
        said.append(line)
        found = re.search(r"http://[\w.]+:\d+", line)
        if found:
            return Served(found[0], process, calls)
    said += (folder / "said.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    raise AssertionError(f"the demo has not started: {''.join(said)}")


def environment_of(folder):
    """Return the variables of a process that has a cache of its own and a single thread."""
    own = {"LAB_CACHE": str(folder / "cache"), "LAB_RESULTS": str(folder / "results")}
    return os.environ | own | {"LAB_PRECISION": "no", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The demo at `smoke`, in whose lab some methods are trained."""
    folder = tmp_path_factory.mktemp("demo")
    subprocess.run(
        [".venv/bin/python", "-c", TRAIN],
        cwd=ROOT,
        env=environment_of(folder),
        capture_output=True,
        check=True,
    )
    served = start(folder)
    yield served
    served.process.terminate()
    served.process.wait(timeout=20)


@pytest.fixture(scope="session")
def browser():
    """Chromium with a made-up microphone; without it the tests end with what to install."""
    with sync_playwright() as playwright:
        found = book.tool.open_browser(playwright, *MICROPHONE)
        yield found
        found.close()


class Page(book.Watched):
    """The page in a tab of the browser."""

    def open(self):
        """Show the page, with the example."""
        self.tab.goto(self.address)
        self.tab.locator("#sound, #missing").first.wait_for()
        return self

    def faults(self):
        """Return what went wrong, but for what Gradio's scripts do themselves."""
        return [fault for fault in self.problems if not any(own in fault for own in OF_GRADIO)]

    def part(self, name):
        """Return the text of a part of the page."""
        return self.tab.locator(f"#{name}").inner_text()

    def wait_for(self, name, text):
        """Wait until a part of the page has a text; returns all of the part's."""
        self.tab.locator(f"#{name}").get_by_text(text).first.wait_for()
        return self.part(name)

    def choose_file(self, path):
        """Choose a file in place of the one before, and let it be transcribed."""
        tab = self.tab
        tab.get_by_role("tab", name="A file of yours").click()
        clear = tab.locator("#file button[aria-label='Clear']")
        if clear.count():
            clear.click()
        tab.locator("#file input[type=file]").set_input_files(path)
        tab.locator("#file").get_by_text(path.stem).first.wait_for()
        tab.locator("#of-file").click()


@pytest.fixture
def page(demo, browser):
    """The page of the demo, just opened; its faults are looked at when the test has passed."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(20_000)
    shown = Page(context.new_page(), demo.address).open()
    yield shown
    context.close()
    assert not shown.faults()
