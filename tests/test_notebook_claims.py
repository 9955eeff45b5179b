"""What the notebooks say of results is what their outputs show."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools")]

import notebook_claims as tool  # noqa: E402 (tools/notebook_claims.py)

SOURCES = {path.stem: path for path in tool.sources()}


@pytest.mark.parametrize("stem", tool.CLAIMS)
def test_each_claim_stands_in_its_notebook_and_holds(stem):
    text = " ".join(tool.paragraphs(SOURCES[stem]))
    for claim in tool.CLAIMS[stem]():
        assert claim.passage in text, claim.passage
        assert claim.holds(), f"{stem}: the outputs do not show that {claim.passage!r}"


@pytest.mark.parametrize("stem", tool.CLAIMS)
def test_a_read_paragraph_is_short_and_its_numbers_belong_to_claims(stem):
    claims = tool.CLAIMS[stem]()
    paragraphs = list(tool.read_paragraphs(SOURCES[stem]))
    assert len(paragraphs) > 5
    for paragraph in paragraphs:
        assert len(paragraph.split()) <= tool.MOST_WORDS, paragraph
        unbound = tool.unbound_numbers(paragraph, claims)
        assert not unbound, f"bound to no result: {', '.join(unbound)} in {paragraph!r}"


def test_a_number_is_a_result_unless_it_is_code_a_formula_or_a_reference():
    free = "**Read:** notebook 05, notebooks 01 and 02, section 7, exercise 1.2, $2x$, `n = 3`."
    assert tool.unbound_numbers(free, []) == []
    assert tool.unbound_numbers("it has 3 points, -1.5 of 1,000", []) == ["3", "-1.5", "1,000"]
    claim = tool.Claim("3 points", lambda: True)
    assert tool.unbound_numbers("it has 3 points of 7", [claim]) == ["7"]
