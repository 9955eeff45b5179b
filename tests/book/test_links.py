"""Every link of the book leads somewhere, and no page takes anything from another server."""

import importlib.util
import re
from functools import cache
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from conftest import BOOK, ROOT

PAGES = sorted(p for p in BOOK.rglob("*.html") if not p.relative_to(BOOK).parts[0].startswith("_"))
SOURCES = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(BOOK).as_posix())


@cache
def soup_of(page):
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors_of(page):
    return {element["id"] for element in soup_of(page).find_all(id=True)}


def addresses(page):
    """Return all that a page links to or takes, as (what, address)."""
    found = [("a", element["href"]) for element in soup_of(page).find_all("a", href=True)]
    for tag, name in SOURCES.items():
        elements = soup_of(page).find_all(tag, attrs={name: True})
        found += [(tag, element[name]) for element in elements]
    return found


def problem_of(page, tag, address):
    """Return what is wrong with an address on a page, "" where nothing is."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        if tag != "a" and parts.scheme != "data":
            return "comes from another server"
        well_formed = parts.scheme == "https" and re.fullmatch(r"[\w.-]+\.\w+", parts.netloc)
        return "" if well_formed or parts.scheme == "data" else "is not of the form https://host/"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_file():
        return "does not exist"
    if not parts.fragment or target.suffix != ".html":
        return ""
    known = unquote(parts.fragment) in anchors_of(target)
    return "" if known else "has an anchor that does not exist"


@each_page
def test_links_of_a_page_lead_somewhere(page):
    found = [(tag, a, problem_of(page, tag, a)) for tag, a in addresses(page)]
    assert len(found) > 20
    assert not [entry for entry in found if entry[2]]


@pytest.mark.parametrize(
    ("tag", "address", "problem"),
    [
        ("a", "docs/methods.html", "does not exist"),
        ("a", "docs/method.html#nowhere", "anchor"),
        ("a", "#nowhere", "anchor"),
        ("a", "http://example.org/", "form"),
        ("a", "https://example/", "form"),
        ("script", "https://example.org/a.js", "another server"),
        ("img", "//example.org/a.png", "another server"),
        ("a", "https://example.org/a", ""),
        ("a", "docs/method.html", ""),
    ],
)
def test_a_wrong_link_is_found(tag, address, problem):
    found = problem_of(BOOK / "index.html", tag, address)
    assert problem in found and bool(problem) == bool(found)


def test_style_sheets_take_nothing_from_elsewhere():
    sheets = list((BOOK / "_static").rglob("*.css"))
    assert len(sheets) > 5
    pattern = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])(?:https?:)?//""")
    assert not [sheet for sheet in sheets if pattern.search(sheet.read_text(encoding="utf-8"))]


def load_names():
    """Import docs/book/book_names.py, which reads the library's table of public names."""
    path = ROOT / "docs" / "book" / "book_names.py"
    spec = importlib.util.spec_from_file_location("book_names", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


book_names = load_names()
FOLDERS = {book_names.folder_of(module) for module in book_names.all_modules(ROOT)}


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_every_public_name_has_its_place_in_the_book(folder):
    page = BOOK / "docs" / "book" / "api" / f"{folder}.html"
    assert page.is_file(), f"write docs/book/api/{folder}.rst, like its neighbours"
    anchors = anchors_of(page)
    for module, names in book_names.public_modules(folder, ROOT).items():
        full = f"{book_names.LIBRARY}.{module}"
        if names is None:
            assert [anchor for anchor in anchors if anchor.startswith(f"{full}.")]
        else:
            assert not {f"{full}.{name}" for name in names} - anchors


def test_docstrings_are_told_in_sections():
    text = soup_of(BOOK / "docs" / "book" / "api" / "method.html").get_text(" ")
    for heading in ("Parameters", "Returns", "Raises"):
        assert text.count(heading) > 5
    assert not re.search(r"(?m)^\s*(Args|Returns|Raises):\s*$", text.replace("Returns :", ""))
