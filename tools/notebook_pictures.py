"""Curves and bars, read off the pictures that are stored in the notebooks.

The outputs of a notebook hold pictures, not the numbers that were drawn.
"""

import base64
import io
from functools import cache

import matplotlib.image
import nbformat
import numpy as np
from matplotlib.colors import to_rgb

from distilwhisper_lib import METHODS
from notebooks import NOTEBOOKS, code_cells

EPOCHS = 6  # of the trainings at laptop


@cache
def panels(stem: str, code: str) -> list[np.ndarray]:
    """Return the panels of the picture below a cell, row by row: arrays (height, width, 3).

    A panel lies above its lower axis, a long black line, and right of its left one.
    """
    image = picture(stem, code)
    black = image.max(-1) < 0.3
    found = []
    for row in range(1, len(black)):
        for left, right in long_runs(black[row], len(black[row]) // 4):
            if black[row - 1, left:right].all():
                continue  # the second row of a thick line
            # A tick at zero lengthens the lower axis to the left, so the other axis is looked for.
            heights = [int(np.argmin(black[row - 1 :: -1, left + x])) for x in range(10)]
            start = left + int(np.argmax(heights))
            found.append(image[row - max(heights) : row, start + 2 : right])
    if not found:
        raise LookupError(f"{stem}: no axes in the picture of the cell with {code!r}")
    return found


def picture(stem: str, code: str) -> np.ndarray:
    """Return the picture that the first cell with `code` has drawn: (height, width, 3), 0 to 1."""
    notebook = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    for cell in code_cells(notebook):
        if code not in cell.source:
            continue
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                data = base64.b64decode(output["data"]["image/png"])
                return matplotlib.image.imread(io.BytesIO(data), format="png")[..., :3]
    raise LookupError(f"{stem} has no picture below a cell with {code!r}")


def long_runs(line: np.ndarray, shortest: int) -> list[tuple[int, int]]:
    """Return start and end of the stretches of True that are at least so long."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(int)))
    stretches = zip(edges[::2], edges[1::2], strict=True)
    return [(int(start), int(end)) for start, end in stretches if end - start >= shortest]


def curve(panel: np.ndarray, system: str) -> np.ndarray:
    """Return the height of a system's line in each column of a panel: 0 below, 1 on top.

    NaN where the line is covered by another one.
    """
    is_line = np.abs(panel - np.array(to_rgb(METHODS[system].colour))).max(-1) < 0.03
    columns = np.flatnonzero(is_line.any(0))
    if not len(columns):
        raise LookupError(f"the picture has no line in the colour of {system!r}")
    height = len(panel)
    heights = np.full(panel.shape[1], np.nan)
    for column in columns:
        heights[column] = 1 - (np.flatnonzero(is_line[:, column]).mean() + 0.5) / height
    return heights[columns[0] : columns[-1] + 1]


def by_epoch(panel: np.ndarray, system: str) -> list[float]:
    """Return the heights of the dots of a curve, one after each epoch."""
    heights = curve(panel, system)
    dots = np.linspace(3, len(heights) - 4, EPOCHS)  # a dot has a radius of about 3 points
    return [float(np.nanmedian(heights[round(x) - 2 : round(x) + 3])) for x in dots]


def last(panel: np.ndarray, system: str) -> float:
    """Return the height of a curve at its end."""
    return float(np.nanmean(curve(panel, system)[-3:]))


def bars(panel: np.ndarray, system: str) -> list[float]:
    """Return the heights of a system's bars in a panel, one for each of six layers: 0 to 1."""
    is_bar = np.abs(panel - np.array(to_rgb(METHODS[system].colour))).max(-1) < 0.03
    return [float(part.mean(0).max()) for part in np.array_split(is_bar, 6, axis=1)]
