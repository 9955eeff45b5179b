"""Make the book and the slides, in the book's own environment (see CONTRIBUTING.md, "The book").

    .venv-book/bin/python tools/book.py pages     the site in build/book (make book)
    .venv-book/bin/python tools/book.py slides    HTML and PDF in build/slides (make slides)
    .venv-book/bin/python tools/book.py browser   look for Chromium; root on Debian installs it

Nothing is executed, and a warning is an error. PDFs are printed by Chromium, which the tests of
the pages need too; the variable BOOK_BROWSER names another one that is built on it.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "docs" / "book"
BUILD = ROOT / "build"
DECKS = ROOT / "docs" / "teach" / "slides"

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NO_BROWSER = (
    "Chromium is not found: install it (Debian: apt-get install chromium), or name a browser that "
    "is built on it in the variable BOOK_BROWSER, then start again"
)
# reveal.js says by an event when the pages for print are laid out
LISTEN = "addEventListener('pdf-ready', () => { window.laidOut = true })"
READY = "window.laidOut && [...document.images].every(picture => picture.complete)"


def main(arguments: list[str] | None = None) -> None:
    """Make one of the two, or look for the browser, from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["pages", "slides", "browser"])
    options = parser.parse_args(arguments)
    if options.command == "pages":
        make_pages()
    elif options.command == "slides":
        make_slides()
    else:
        print(f"the browser: {get_browser()}")


def make_pages(source: Path = ROOT, target: Path = BUILD / "book") -> None:
    """Write the site of the pages in `source`, anew."""
    run_sphinx("html", CONFIGURATION, source, target)
    pages = sum(1 for _ in target.rglob("*.html"))
    print(f"{pages} pages: {target / 'index.html'}")


def make_slides(source: Path = DECKS, target: Path = BUILD / "slides") -> None:
    """Write each deck as a page and as a PDF."""
    decks = sorted(path.stem for path in source.glob("[0-9]*.md"))
    if not decks:
        sys.exit(f"there are no slides: write {source / '01.md'}")
    run_sphinx("revealjs", CONFIGURATION / "slides", source, target)
    print_decks(target, decks)
    print(f"{len(decks)} decks, each as .html and .pdf: {target}")


def run_sphinx(builder: str, configuration: Path, source: Path, target: Path) -> None:
    """Build with Sphinx into an empty folder; exits where there is an error or a warning."""
    cache = target.with_name(f"{target.name}-cache")
    for folder in (target, cache):
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", builder]
    command += ["-c", str(configuration), "-d", str(cache), str(source), str(target)]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    for folder in (cache, target.parent / "jupyter_execute"):  # myst-nb leaves the latter
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode:
        sys.exit(f"{target.name} was not made: mend what the lines above name, then start again")


def print_decks(folder: Path, decks: list[str]) -> None:
    """Print decks into PDFs, a slide a page, as reveal.js lays them out for print."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, serve(folder) as address:
        browser = open_browser(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.add_init_script(LISTEN)
        for deck in decks:
            page.goto(f"{address}/{deck}.html?print-pdf")
            page.wait_for_function(READY)
            page.pdf(
                path=folder / f"{deck}.pdf",
                prefer_css_page_size=True,
                print_background=True,
                tagged=True,
            )
        browser.close()


def open_browser(playwright, *further: str):
    """Start Chromium for playwright, without a window; `further` are arguments of its own."""
    # As root Chromium only starts without its sandbox; it opens nothing but pages of this folder
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    arguments = [*further, *(["--no-sandbox"] if root else [])]
    path = find_browser()
    if path is None:
        sys.exit(NO_BROWSER)
    return playwright.chromium.launch(executable_path=path, args=arguments)


def find_browser() -> str | None:
    """Return the path of Chromium, or of what BOOK_BROWSER names."""
    chosen = os.environ.get("BOOK_BROWSER")
    if chosen:
        return shutil.which(chosen)
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def get_browser() -> str:
    """Return the path of Chromium; root on Debian installs it where it is missing."""
    path = find_browser()
    can_install = shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0
    if path is None and can_install and not os.environ.get("BOOK_BROWSER"):
        print("- installing chromium", flush=True)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
        done = subprocess.run(install, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stderr[-2000:]}\nInstalling chromium failed. {NO_BROWSER}")
        path = find_browser()
    if path is None:
        sys.exit(NO_BROWSER)
    return path


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine while the block runs; gives the address."""
    handler = partial(QuietHandler, directory=str(folder))
    server = PatientServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class PatientServer(ThreadingHTTPServer):
    """Lets many requests wait: the search asks for every page that it finds, all at once."""

    request_queue_size = 128


class QuietHandler(SimpleHTTPRequestHandler):
    """Answers without a line for each request."""

    def log_message(self, *_) -> None:
        """Print nothing."""


if __name__ == "__main__":
    main()
