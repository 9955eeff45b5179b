"""Every page of the book in a browser, on a telephone and on a desk."""

import json
import re

import pytest
from conftest import BOOK, ROOT

PAGES = sorted(
    path.relative_to(BOOK).as_posix()
    for path in BOOK.rglob("*.html")
    if not path.relative_to(BOOK).parts[0].startswith("_")
)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TELEPHONE, DESK = 380, 1280

# What is wider than the window and stands in nothing that scrolls
STICKS_OUT = """() => {
    const scrolls = element => /auto|scroll/.test(getComputedStyle(element).overflowX);
    const found = [];
    for (const element of document.querySelectorAll(".bd-article-container *")) {
        const box = element.getBoundingClientRect();
        if (box.width === 0 || box.right <= window.innerWidth + 1) continue;
        let around = element.parentElement;
        while (around.tagName !== "MAIN" && !scrolls(around)) around = around.parentElement;
        if (around.tagName === "MAIN") found.push(element.outerHTML.slice(0, 120));
    }
    return found;
}"""
WITHOUT_TEXT = """() => [
    ...[...document.images].filter(image => !image.alt.trim()),
    ...[...document.querySelectorAll("svg.formula")].filter(formula => !formula.ariaLabel),
].map(image => image.outerHTML.slice(0, 120))"""
NOT_SHOWN = "() => [...document.images].filter(i => i.naturalWidth === 0).map(i => i.src)"


def cells_of(path, kind):
    """Return the cells of a notebook that are code or markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


def test_the_book_is_built_and_whole():
    assert PAGES, "build/book has no pages: run make book"
    wanted = [path.relative_to(ROOT).with_suffix(".html") for path in NOTEBOOKS]
    for pattern in ("*.md", "docs/*.md", "docs/teach/*.md", "data/README.md", "data/*/README.md"):
        wanted += [p.relative_to(ROOT).with_suffix(".html") for p in ROOT.glob(pattern)]
    missing = {path.as_posix() for path in wanted} - set(PAGES)
    assert not missing, "run make book"
    assert {"index.html", "search.html", "genindex.html"} <= set(PAGES)


@pytest.mark.parametrize("width", [TELEPHONE, DESK])
@pytest.mark.parametrize("page", PAGES)
def test_page_is_shown_without_a_fault(page, width, open_tab):
    watched = open_tab(width)
    tab = watched.open(f"book/{page}")
    assert not watched.problems
    assert tab.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
    assert not tab.evaluate(STICKS_OUT)
    assert not tab.evaluate(WITHOUT_TEXT)
    assert not tab.evaluate(NOT_SHOWN)
    assert tab.title() and tab.locator("html").get_attribute("lang") == "en-GB"


@pytest.mark.parametrize(
    ("element", "check"),
    [
        ("<p style='width: 2000px'>wide</p>", STICKS_OUT),
        ("<img src='_static/favicon.svg'>", WITHOUT_TEXT),
        ("<svg class='formula'></svg>", WITHOUT_TEXT),
        ("<img alt='none' src='nowhere.png'>", NOT_SHOWN),
    ],
    ids=["wide", "picture", "formula", "missing"],
)
def test_the_checks_find_what_they_are_for(element, check, open_tab):
    tab = open_tab(TELEPHONE).open("book/index.html")
    assert not tab.evaluate(check)
    insert = "html => document.querySelector('article').insertAdjacentHTML('beforeend', html)"
    tab.evaluate(insert, element)
    tab.wait_for_load_state("networkidle")
    assert tab.evaluate(check)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("console.error('a fault')", "a fault"),
        ("setTimeout(() => { throw new Error('a fault') })", "a fault"),
        ("fetch('https://example.invalid/a').catch(() => 0)", "a request leaves the page"),
        ("fetch('nowhere')", "status 404"),
    ],
    ids=["console", "script", "outside", "missing"],
)
def test_what_goes_wrong_in_a_page_is_noted(code, problem, open_tab):
    watched = open_tab(TELEPHONE)
    tab = watched.open("book/index.html")
    assert not watched.problems
    tab.evaluate(f"() => {{ {code} }}")
    tab.wait_for_timeout(200)
    assert any(problem in noted for noted in watched.problems), watched.problems


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_its_stored_outputs(path, open_tab):
    outputs = [output for cell in cells_of(path, "code") for output in cell["outputs"]]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    tables = sum(
        "<table" in "".join(output.get("data", {}).get("text/html", "")) for output in outputs
    )
    tab = open_tab(DESK).open(f"book/notebooks/{path.stem}.html")
    assert tab.locator(".cell_output img").count() == pictures
    assert tab.locator(".cell_output table").count() >= tables
    assert pictures + tables > 0


def test_a_picture_of_a_notebook_has_its_caption_as_text(open_tab):
    tab = open_tab(DESK).open("book/notebooks/05_comparison.html")
    texts = tab.evaluate("[...document.querySelectorAll('.cell_output img')].map(i => i.alt)")
    assert len(set(texts)) == len(texts)
    assert all(len(text.split()) > 4 and not text.startswith("Figure") for text in texts), texts


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_formulas_are_drawn(path, open_tab):
    text = "\n".join("".join(cell["source"]) for cell in cells_of(path, "markdown"))
    blocks = [" ".join(block.split()) for block in re.findall(r"(?s)\$\$(.+?)\$\$", text)]
    tab = open_tab(DESK).open(f"book/notebooks/{path.stem}.html")
    drawn = "[...document.querySelectorAll('div.formula svg')]"
    labels = tab.evaluate(f"{drawn}.map(formula => formula.ariaLabel)")
    assert [" ".join(label.split()) for label in labels] == blocks
    assert "$$" not in tab.locator("article").inner_text()


def test_a_hint_is_folded_and_opens(open_tab):
    tab = open_tab(TELEPHONE).open("book/notebooks/02_language_experts.html")
    hints = tab.locator("details", has=tab.locator("summary", has_text="Hint"))
    assert hints.count() >= 3
    inside = hints.first.locator("p").first
    assert not inside.is_visible()
    hints.first.locator("summary").click()
    assert inside.is_visible() and len(inside.inner_text()) > 20


def test_a_wide_table_scrolls_inside_itself(open_tab):
    tab = open_tab(TELEPHONE).open("book/docs/claims.html")
    frames = "[...document.querySelectorAll('.pst-scrollable-table-container')]"
    wide = f"{frames}.filter(frame => frame.scrollWidth > frame.clientWidth + 20)"
    assert tab.evaluate(f"{wide}.length") > 0
    tab.evaluate(f"{wide}[0].scrollLeft = 20")
    assert tab.evaluate(f"{wide}[0].scrollLeft") == 20


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("LoRA", "notebooks/04"),
        ("gate_budget_loss", "docs/book/api/method"),
        ("bootstrap", "docs/statistics"),
    ],
)
def test_search_finds(words, page, open_tab):
    watched = open_tab(DESK)
    tab = watched.open(f"book/search.html?q={words}")
    said = "document.querySelector('.search-summary').innerText"
    tab.wait_for_function(f"/found|matching/.test({said})")
    tab.wait_for_load_state("networkidle")  # each page that is found is read for its summary
    found = tab.evaluate("[...document.querySelectorAll('ul.search li a')].map(a => a.href)")
    assert any(page in address for address in found), found
    assert not watched.problems


def test_search_and_contents_can_be_reached_on_a_telephone(open_tab):
    tab = open_tab(TELEPHONE).open("book/index.html")
    link = tab.locator("nav a", has_text="Running the course").first
    assert not link.is_visible()
    tab.locator("button.primary-toggle:visible").click()
    link.wait_for(state="visible")
    link.click()
    tab.wait_for_url("**/docs/running.html")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_colours_follow_the_system_and_a_button_changes_them(colours, open_tab):
    tab = open_tab(DESK, colours=colours).open("book/notebooks/03_distillation.html")
    brightness = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)[0]"
    before = tab.evaluate(brightness)
    assert before > 200 if colours == "light" else before < 60
    ink = tab.evaluate("getComputedStyle(document.querySelector('svg.formula path')).fill")
    shade = int(re.search(r"\d+", ink)[0])
    assert abs(shade - before) > 120, "formulas can't be seen"
    seen = {before}
    for mode in ("dark", "light"):
        tab.locator("button.theme-switch-button:visible").first.click()
        tab.locator(f"button.theme-change-button[data-mode={mode}]:visible").click()
        seen.add(tab.evaluate(brightness))
    tab.evaluate("localStorage.clear()")
    assert min(seen) < 60 and max(seen) > 200


def test_pages_open_from_the_disk(browser):
    tab = browser.new_page()
    problems = []
    tab.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto((BOOK / "index.html").as_uri())
    tab.locator("nav a", has_text="03 Distillation").first.click()
    tab.wait_for_url("**/03_distillation.html")
    assert tab.locator("article h1").inner_text().startswith("03 Distillation")
    assert not problems
    tab.close()
