"""Every picture has an alternative text; a notebook's picture takes the caption below it.

A picture of another server, such as a badge, becomes its alternative text: no page of the book asks
another server for anything.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
BEGINNING = re.compile(r"^(The picture|The figure|Figure|Picture)( shows)?:? ")


def setup(app: Sphinx) -> dict:
    """Register the steps.

    Pictures are described after the outputs of the notebooks have become nodes. Those of other
    servers are replaced before Sphinx collects pictures.
    """
    app.connect("doctree-read", replace_pictures_of_others, priority=400)
    app.connect("doctree-read", describe_pictures)
    return {"parallel_read_safe": True}


def replace_pictures_of_others(app: Sphinx, doctree: nodes.document) -> None:
    """Put the alternative text in the place of each picture that another server has."""
    for picture in list(doctree.findall(nodes.image)):
        if picture["uri"].startswith(("http://", "https://")):
            picture.replace_self(nodes.Text(picture.get("alt", "")))


def describe_pictures(app: Sphinx, doctree: nodes.document) -> None:
    """Give each picture without an alternative text one; warn where there is no caption."""
    for picture in doctree.findall(nodes.image):
        if picture.get("alt", "").strip():
            continue
        text = caption_below(picture)
        if text:
            picture["alt"] = text
        else:
            LOGGER.warning(
                "a picture without alternative text: write it, or below a notebook's cell begin "
                "the text with a caption in italics (*The picture: ...*)",
                location=picture,
                type="book",
                subtype="picture",
            )


def caption_below(picture: nodes.Node) -> str:
    """Return the text of the paragraph in italics that follows a picture's cell, "" without one."""
    for element in (picture, *ancestors(picture)):
        following = element.next_node(nodes.Element, descend=False, siblings=True)
        if following is None:
            continue
        if isinstance(following, nodes.paragraph) and is_italic(following):
            words = " ".join(following.astext().split())
            return BEGINNING.sub("", words)
        if isinstance(following, nodes.paragraph | nodes.section):
            return ""
    return ""


def ancestors(node: nodes.Node) -> list[nodes.Node]:
    """Return the elements around a node, from the inside out, up to its section."""
    found = []
    while node.parent is not None and not isinstance(node.parent, nodes.section | nodes.document):
        node = node.parent
        found.append(node)
    return found


def is_italic(paragraph: nodes.paragraph) -> bool:
    """Whether a paragraph is in italics as a whole."""
    return len(paragraph) == 1 and isinstance(paragraph[0], nodes.emphasis)
