"""Formulas as pictures (SVG) in the page, made while the book is built: no script, no font."""

import html
import re
from functools import cache

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LOGGER = logging.getLogger(__name__)
SIZE = 16  # while drawing, in pixels
EM = 14.8  # pixels of the drawing that fill an em of the page: its letters then look equally large

ziamath.config.svg2 = False  # every formula holds its own shapes: ids of a page stay unique


def setup(app: Sphinx) -> dict:
    """Register the renderer under the name "pictures"."""
    app.add_html_math_renderer("pictures", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def visit_inline(writer: HTML5Translator, node: nodes.math) -> None:
    """Write a formula that stands in a line."""
    writer.body.append(picture(node.astext(), True, node))
    raise nodes.SkipNode


def visit_block(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula that stands alone; a wide one scrolls."""
    drawn = picture(node.astext(), False, node)
    writer.body.append(f'<div class="formula">{drawn}</div>\n')
    raise nodes.SkipNode


def picture(latex: str, inline: bool, node: nodes.Node) -> str:
    """Return a formula as SVG; a warning names one that cannot be drawn."""
    try:
        return draw(latex.strip(), inline)
    except ValueError as problem:
        LOGGER.warning("%s", problem, location=node, type="book", subtype="formula")
        return f"<code>{html.escape(latex)}</code>"


@cache
def draw(latex: str, inline: bool) -> str:
    """Return a formula as SVG that stands on the line, in the colour of the text around it.

    Raises:
        ValueError: Where the formula has a mistake, or a command that ziamath does not know.
    """
    try:
        formula = ziamath.Latex(latex, size=SIZE, inline=inline, color="currentColor")
        svg = formula.svg()
    except Exception as problem:  # ziamath and latex2mathml have no common class of errors
        raise ValueError(f"the formula {latex!r} can't be drawn: mend its LaTeX") from problem
    unknown = re.findall(r"\\[A-Za-z]+", formula.mathmlstr())
    if unknown:
        raise ValueError(f"the formula {latex!r} has a command that is not known: {unknown[0]}")

    left, top, width, height = map(float, re.search(r'viewBox="([^"]+)"', svg)[1].split())
    style = f"width:{width / EM:.3f}em;height:{height / EM:.3f}em;"
    style += f"vertical-align:{-(top + height) / EM:.3f}em"
    opening = (
        f'<svg class="formula" role="img" aria-label="{html.escape(latex)}" style="{style}" '
        f'viewBox="{left:g} {top:g} {width:g} {height:g}">'
    )
    return re.sub(r"^<svg[^>]*>", lambda _: opening, svg)
