"""Tables as the notebooks show them."""

import numpy as np
import pandas as pd
import pytest

from distilwhisper_lib import show


def rows_of(table) -> list[list[str]]:
    """Return the cells of the HTML of a shown table, row by row."""
    from bs4 import BeautifulSoup

    lines = BeautifulSoup(table._repr_html_(), "html.parser").tbody.find_all("tr")
    return [[cell.text for cell in line.find_all("td")] for line in lines]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([3, 1000], ["3", "1,000"]),
        ([3.0, 1000.0], ["3", "1,000"]),
        ([1.25, 20], ["1.2", "20.0"]),
        ([1.0, None], ["1", "–"]),
        ([np.nan, 0.5], ["–", "0.5"]),
        ([True, False], ["yes", "no"]),
        (["dům", None], ["dům", "–"]),
        ([np.inf, 1.0], ["inf", "1"]),
    ],
)
def test_a_value_has_the_digits_that_mean_something(values, shown):
    table = show(pd.DataFrame({"a": values}))
    assert [row[0] for row in rows_of(table)] == shown
    assert [line.split()[-1] for line in str(table).splitlines()[1:]] == shown


def test_digits_and_length_can_be_chosen():
    table = show(pd.DataFrame({"a": [0.12345], "b": ["one two three"]}), digits=3, longest=8)
    assert rows_of(table) == [["0.123", "one two…"]]


def test_columns_can_have_digits_of_their_own():
    table = show(pd.DataFrame({"a": [0.12345], "p": [0.00123]}), digits={"p": 3})
    assert rows_of(table) == [["0.1", "0.001"]]


def test_text_stands_on_the_left_and_numbers_where_they_stood():
    html = show(pd.DataFrame({"text": ["a"], "n": [1]}))._repr_html_()
    assert ".col0 {" in html and "text-align: left" in html
    assert ".col1 {" not in html


def test_text_is_never_markup():
    html = show(pd.DataFrame({"<b>": ["<i>x</i>"]}, index=["<|cs|>"]))._repr_html_()
    assert "<i>" not in html and "<b>" not in html and "<|cs|>" not in html
    assert "&lt;i&gt;x" in html


def test_the_same_table_is_the_same_text_and_is_not_changed():
    table = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]})
    before = table.copy()
    assert show(table)._repr_html_() == show(table)._repr_html_()
    pd.testing.assert_frame_equal(table, before)


def test_a_series_and_columns_of_one_name_are_shown():
    assert rows_of(show(pd.Series([1, "x"], index=["a", "b"], name="value"))) == [["1"], ["x"]]
    twice = pd.DataFrame([["x", 1.5]], columns=["a", "a"])
    assert rows_of(show(twice)) == [["x", "1.5"]]
