"""The slides, for Sphinx: `make slides` makes them of docs/teach/slides (CONTRIBUTING.md)."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

project = "DistilWhisper Lab"
author = "the authors of DistilWhisper Lab"
language = "en-GB"
root_doc = "01"
include_patterns = ["[0-9]*.md"]

extensions = ["myst_parser", "sphinx_revealjs", "book_formulas"]
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "pictures"

# Each deck is a page of its own, so there is no table of contents
suppress_warnings = ["toc.not_included"]

revealjs_style_theme = "white"
revealjs_static_path = ["static"]
revealjs_css_files = ["slides.css"]
revealjs_script_conf = {
    "width": 1280,
    "height": 720,
    "margin": 0.04,
    "hash": True,
    "slideNumber": "c/t",
    "transition": "none",
    "center": False,
    "pdfSeparateFragments": False,
    "pdfMaxPagesPerSlide": 1,
}
revealjs_script_plugins = [
    {"name": "RevealNotes", "src": "revealjs/plugin/notes/notes.js"},
]
html_permalinks = False
html_favicon = "../static/favicon.svg"
