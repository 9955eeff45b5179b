"""The contents of the book: which pages it has, in which order, and the start page.

The pages themselves say nothing about it, because they are read elsewhere too. The table of
contents is added to the start page while it is read.
"""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

LISTED = "the pages that docs/README.md lists"

# Heading in the side bar -> pages; a star stands for all others, by their file names
PARTS = {
    "Notebooks": ["notebooks/*"],
    "Documentation": ["docs/README", LISTED, "docs/*"],
    "Teaching": ["docs/teach/README", "docs/teach/*", "docs/teach/*/*"],
    "Data": ["data/README", "data/*/README"],
    "Library": ["docs/book/api/index"],
    "Project": ["CONTRIBUTING", "CHANGELOG"],
}


def setup(app: Sphinx) -> dict:
    """Register what adds the contents and what writes the start page."""
    app.connect("source-read", add_contents)
    app.connect("build-finished", write_start_page)
    return {"parallel_read_safe": True}


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the table of contents to the root page; it shows in the side bar alone."""
    if docname != app.config.root_doc:
        return
    left = sorted(app.env.found_docs - {docname})
    for caption, patterns in PARTS.items():
        pages = []
        for pattern in patterns:
            wanted = docs_in_order(Path(app.srcdir)) if pattern == LISTED else [pattern]
            for name in wanted:
                pages += [page for page in left if matches(page, name)]
                left = [page for page in left if page not in pages]
        if pages:
            lines = ["", "", "```{toctree}", ":hidden:", f":caption: {caption}", ""]
            source[0] += "\n".join([*lines, *pages, "```", ""])


def matches(page: str, pattern: str) -> bool:
    """Whether a page fits a pattern, whose star stands for a name without a slash."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]+"), page) is not None


def docs_in_order(root: Path) -> list[str]:
    """Return the pages of docs/ in the order in which docs/README.md lists them."""
    text = (root / "docs" / "README.md").read_text(encoding="utf-8")
    return [f"docs/{name}" for name in re.findall(r"(?m)^- \[[^\]]+\]\(([\w-]+)\.md\)", text)]


def write_start_page(app: Sphinx, problem: Exception | None) -> None:
    """Write index.html, a copy of the root page: what a server and a reader look for first."""
    if problem is None and app.builder.format == "html":
        folder = Path(app.outdir)
        shutil.copyfile(folder / f"{app.config.root_doc}.html", folder / "index.html")
