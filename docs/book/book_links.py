"""Links to what is no page of the book: source files, tables and folders.

With an address of publication they lead there. Without one a file comes along, to be downloaded,
and a folder's name becomes plain text.
"""

import posixpath
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict:
    """Register the settings and the step; it comes before Sphinx collects what is downloaded."""
    app.add_config_value("publication_address", "", "env", str)
    app.add_config_value("publication_branch", "main", "env", str)
    app.connect("doctree-read", settle_links, priority=400)
    return {"parallel_read_safe": True}


def settle_links(app: Sphinx, doctree: nodes.document) -> None:
    """Replace each link to a file or folder of the project that is no page."""
    for link in list(doctree.findall(is_of_markdown)):
        path = path_of(app, link)
        if path is not None:
            settle(app, link, path)


def is_of_markdown(node: nodes.Node) -> bool:
    """Whether a node is a link in Markdown that has not been resolved yet."""
    kinds = (addnodes.pending_xref, addnodes.download_reference)
    return isinstance(node, kinds) and node.get("reftype") == "myst"


def path_of(app: Sphinx, link: nodes.Element) -> str | None:
    """Return what a link means, relative to the project; None where it is a page or no path."""
    target = link["reftarget"].partition("#")[0]
    if link["refdomain"] == "doc":
        if target in app.env.found_docs:
            return None
        path = f"{target}.md"  # a page that the book leaves out
    else:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(app.env.docname), target))
    return path if target and (Path(app.srcdir) / path).exists() else None


def settle(app: Sphinx, link: nodes.Element, path: str) -> None:
    """Put into a link's place what leads to the file or folder."""
    folder = (Path(app.srcdir) / path).is_dir()
    address = app.config.publication_address
    if address:
        kind = "tree" if folder else "blob"
        new = nodes.reference(refuri=f"{address}/{kind}/{app.config.publication_branch}/{path}")
    elif folder:
        new = nodes.inline()
    else:
        new = addnodes.download_reference(reftarget=f"/{path}", refdoc=app.env.docname)
        new["reftype"] = "myst"
    new += link.children
    link.replace_self(new)
