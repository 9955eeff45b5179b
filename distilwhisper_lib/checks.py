"""Checks of options: each is of the right type and in its range before anything is computed.

Options come from Python, from a command line, from environment variables and from JSON. Each check
returns the value, so that it can stand where the value is used:

    batch = check_number("batch", batch, low=1, whole=True)
"""

import difflib
import math
import os
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path

# As many known names are listed in a message; beyond it the nearest ones and their number.
LISTED = 20


def check_number(
    name: str,
    value: float,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> float:
    """Return `value` if it is a finite number in its range; a bool or a text is no number.

    Args:
        name: The option, as whoever gave it knows it: "epochs", "--epochs", "RANK".
        value: What was given.
        low: The least value allowed.
        high: The greatest value allowed.
        above: The value must be greater than this.
        below: The value must be less than this.
        whole: Whether it must be a whole number (of an integer type).

    Returns:
        The value as it was given.

    Raises:
        ValueError: If it is not such a number.
    """
    needed = "a whole number" if whole else "a number"
    needed += _range_in_words(low, high, above, below)
    kind = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind):
        # numpy's bool is no Real; a 0-d array or tensor is refused too: `.item()` gives the number.
        raise ValueError(f"{name} is {_shown(value)}: {needed} is needed.")
    inside = (
        math.isfinite(value)
        and (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
        and (below is None or value < below)
    )
    if not inside:
        raise ValueError(f"{name} is {_shown(value)}: {needed} is needed.")
    return value


def check_flag(name: str, value: bool) -> bool:
    """Return `value` if it is True or False; texts such as "false" and the numbers 0 and 1 are not.

    Raises:
        ValueError: If it is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {_shown(value)}: True or False is needed.")
    return value


def check_choice(name: str, value: str, known: Iterable[str]) -> str:
    """Return `value` if it is one of `known`.

    Raises:
        ValueError: If it is not; the message says which are known, and which is nearest.
    """
    known = list(known)
    # A list or a dictionary as value cannot be looked up in a set, so compare one by one.
    if any(type(value) is type(one) and value == one for one in known):
        return value
    names = [str(one) for one in known]
    listed = ", ".join(names[:LISTED])
    if len(names) > LISTED:
        listed += f", … ({len(names)} in all)"
    known_names = f"{listed or 'none'}{nearest(value, names) or '.'}"
    raise ValueError(f"{name} is {_shown(value)}: known are {known_names}")


def check_text(name: str, value: str) -> str:
    """Return `value` if it is a text with something in it.

    Raises:
        ValueError: If it is no string, or an empty or blank one.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {_shown(value)}: a text that is not empty is needed.")
    return value


def check_path(name: str, value: str | Path) -> Path:
    """Return the path that `value` is: a text that is not empty, or a path.

    Raises:
        ValueError: If it is neither.
    """
    is_path = isinstance(value, str | os.PathLike) and bool(str(value).strip())
    if not is_path or "\0" in str(value):
        raise ValueError(f"{name} is {_shown(value)}: a name or a path is needed.")
    return Path(value)


def check_list(name: str, values: Iterable) -> list:
    """Return the values of a list, a tuple or the like; a single text is none.

    Raises:
        ValueError: If it is no list.
    """
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        raise ValueError(f"{name} is {_shown(values)}: a list is needed.")
    return list(values)


def nearest(value: object, known: Iterable[str]) -> str:
    """Return ". Did you mean NAME?" for the known name nearest to `value`, or an empty text."""
    if not isinstance(value, str):
        return ""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(value.lower(), list(by_lower), n=1)
    return f". Did you mean {by_lower[found[0]]}?" if found else ""


def number_in(name: str, text: str, *, whole: bool = False, **limits: float) -> float:
    """Return the number in a text (of an environment variable or a command line), checked.

    Args:
        name: The variable or option, as it is written: "RANK", "--epochs".
        text: What was given.
        whole: Whether it must be a whole number.
        limits: `low`, `high`, `above`, `below`, as for `check_number`.

    Raises:
        ValueError: If the text is no such number.
    """
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = text
    return check_number(name, value, whole=whole, **limits)


def _shown(value):
    """Return a value as a message shows it, long ones cut."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _range_in_words(low, high, above, below):
    """Return the allowed range in words, with a blank before it, or an empty text."""
    if low is not None and high is not None:
        return f" from {low} to {high}"
    parts = []
    if low is not None:
        parts.append(f"from {low} on")
    if above is not None:
        parts.append(f"above {above}")
    if high is not None:
        parts.append(f"of at most {high}")
    if below is not None:
        parts.append(f"below {below}")
    return " " + " and ".join(parts) if parts else ""
