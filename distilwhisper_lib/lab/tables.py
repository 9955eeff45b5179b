"""Tables as the notebooks show them: text on the left, numbers with digits that mean something."""

import html
from collections.abc import Mapping
from functools import partial
from numbers import Integral, Real

import pandas as pd
from pandas.io.formats.style import Styler

from ..files import short_hash

NOTHING = "–"  # stands where a table has no value
WIDEST = "26em"  # of a column of text, which is broken into lines beyond


class Shown:
    """A table that Jupyter shows as HTML, and that prints as plain text.

    Args:
        table: Texts alone.
        on_the_left: Positions of the columns that are text; the others are numbers, on the right.
    """

    def __init__(self, table: pd.DataFrame, on_the_left: list[int]):
        self._table = table
        self._on_the_left = on_the_left

    def _repr_html_(self) -> str:
        identity = short_hash(self._table.to_csv())  # the same table is the same text again
        styler = Styler(self._table, uuid=identity, cell_ids=False)
        styler = styler.format(html.escape).format_index(_escaped).format_index(_escaped, axis=1)
        left = [("text-align", "left")]
        text = [*left, ("overflow-wrap", "break-word"), ("max-width", WIDEST)]
        rules = [{"selector": ".row_heading, .index_name", "props": left}]
        rules += [{"selector": f".col{number}", "props": text} for number in self._on_the_left]
        return styler.set_table_styles(rules).to_html(table_attributes='class="dataframe"')

    def __repr__(self) -> str:
        return self._table.to_string()


def show(
    table: pd.DataFrame | pd.Series,
    digits: int | Mapping[str, int] = 1,
    longest: int | None = None,
) -> Shown:
    """Return a table that is easy to read in a notebook.

    Text stands on the left and is broken into lines. Whole numbers have no decimals, missing values
    are dashes.

    Args:
        table: The table; a Series becomes a column.
        digits: Decimals of the columns whose numbers are not whole; or a number of decimals for
            some columns by name, such as {"p": 3}, where all others have one.
        longest: Longer texts are cut, and end in "…".
    """
    if isinstance(table, pd.Series):
        table = table.to_frame()
    texts = table.astype(object).copy()
    on_the_left: list[int] = []
    for position in range(table.shape[1]):
        column = table.iloc[:, position]
        numbers = [value for value in column if _is_number(value)]
        if len(numbers) < column.notna().sum():
            on_the_left.append(position)
        whole = all(float(value).is_integer() for value in numbers)
        decimals = digits if isinstance(digits, int) else digits.get(table.columns[position], 1)
        as_text = partial(_text, digits=0 if whole else decimals, longest=longest)
        texts.isetitem(position, column.astype(object).map(as_text))
    return Shown(texts, on_the_left)


def _is_number(value: object) -> bool:
    """Whether a value is a number that can be shown as one: neither missing nor infinite."""
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return is_real and bool(pd.notna(value)) and abs(float(value)) != float("inf")


def _text(value: object, digits: int, longest: int | None) -> str:
    """Return a value of a table as it is shown."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_number(value):
        return f"{value:,}" if isinstance(value, Integral) else f"{value:,.{digits}f}"
    if value is None or (isinstance(value, Real) and bool(pd.isna(value))):
        return NOTHING
    text = str(value)
    if longest is not None and len(text) > longest:
        return text[: longest - 1].rstrip() + "…"
    return text


def _escaped(label: object) -> str:
    """Return a row's or column's label for HTML."""
    return html.escape(str(label))
