"""Every slide in a browser, and the PDF of each deck."""

import re

import pytest
from conftest import ROOT, SLIDES

DECKS = sorted(path.stem for path in (ROOT / "docs" / "teach" / "slides").glob("[0-9]*.md"))
WIDTH, HEIGHT = 1280, 720
each_deck = pytest.mark.parametrize("deck", DECKS)

# What sticks out of a slide of 1,280 x 720, and pictures without text or without a picture
FAULTS = """() => {
    const scale = Reveal.getScale();
    const slide = Reveal.getCurrentSlide();
    const room = Reveal.getViewportElement().getBoundingClientRect();
    const found = [];
    for (const element of slide.querySelectorAll("*:not(aside, aside *)")) {
        const box = element.getBoundingClientRect();
        if (box.width && (box.bottom > room.bottom + 1 || box.right > room.right + 1))
            found.push("sticks out: " + element.outerHTML.slice(0, 100));
        if (element.scrollHeight > element.clientHeight + 4 && element.tagName === "CODE")
            found.push("is cut: " + element.outerHTML.slice(0, 100));
    }
    for (const image of slide.querySelectorAll("img")) {
        if (!image.alt.trim()) found.push("no text: " + image.src);
        if (!image.naturalWidth) found.push("not shown: " + image.src);
        if (image.getBoundingClientRect().height < 100 * scale) found.push("tiny: " + image.src);
    }
    return found;
}"""


def test_there_are_decks_and_all_are_built():
    assert DECKS
    for deck in DECKS:
        for kind in ("html", "pdf"):
            assert (SLIDES / f"{deck}.{kind}").is_file(), "run make slides"


@each_deck
def test_every_slide_fits_and_is_shown_without_a_fault(deck, open_tab):
    watched = open_tab(WIDTH, HEIGHT)
    tab = watched.open(f"slides/{deck}.html")
    tab.wait_for_function("Reveal.isReady()")
    number = tab.evaluate("Reveal.getTotalSlides()")
    assert number > 2
    faults = []
    for index in range(number):
        tab.evaluate(f"Reveal.slide({index}, 0)")
        assert tab.evaluate("Reveal.getSlidePastCount()") == index
        faults += [f"slide {index + 1} {fault}" for fault in tab.evaluate(FAULTS)]
    assert not faults
    assert not watched.problems


@pytest.mark.parametrize(
    ("element", "fault"),
    [
        ("<p style='height: 900px'>long</p>", "sticks out"),
        ("<p style='width: 1400px'>wide</p>", "sticks out"),
        ("<img src='_static/favicon.svg' width='400' height='300'>", "no text"),
        ("<img alt='x' src='_static/favicon.svg' width='40' height='30'>", "tiny"),
    ],
    ids=["long", "wide", "text", "tiny"],
)
def test_the_check_finds_what_it_is_for(element, fault, open_tab):
    tab = open_tab(WIDTH, HEIGHT).open(f"slides/{DECKS[0]}.html")
    tab.wait_for_function("Reveal.isReady()")
    insert = "html => Reveal.getCurrentSlide().insertAdjacentHTML('beforeend', html)"
    tab.evaluate(insert, element)
    tab.wait_for_load_state("networkidle")
    assert any(fault in found for found in tab.evaluate(FAULTS))


@each_deck
def test_pdf_has_a_page_for_each_slide(deck, open_tab):
    tab = open_tab(WIDTH, HEIGHT).open(f"slides/{deck}.html")
    tab.wait_for_function("Reveal.isReady()")
    data = (SLIDES / f"{deck}.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", data))
    assert pages == tab.evaluate("Reveal.getTotalSlides()")


@each_deck
def test_what_the_teacher_says_is_in_the_notes_and_not_on_the_slide(deck, open_tab):
    source = (ROOT / "docs" / "teach" / "slides" / f"{deck}.md").read_text(encoding="utf-8")
    written = len(re.findall(r"(?m)^[`:]{3,}\{revealjs-notes\}", source))
    tab = open_tab(WIDTH, HEIGHT).open(f"slides/{deck}.html")
    notes = tab.locator(".slides aside.notes")
    assert notes.count() == written > 0
    assert not any(note.is_visible() for note in notes.all())
