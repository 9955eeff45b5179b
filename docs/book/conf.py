"""The book, for Sphinx: `make book` builds it (CONTRIBUTING.md, "The book").

The project's own folder is the source, so that the links between pages are the same here and where
the project's files are read. Nothing is executed: the notebooks come with their stored outputs.
"""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

publication = tomllib.loads((HERE / "publication.toml").read_text(encoding="utf-8"))
publication_address = publication["address"].rstrip("/")
publication_branch = publication["branch"]

project = "DistilWhisper Lab"
author = "the authors of DistilWhisper Lab"
copyright = "MIT licence"
language = "en-GB"

# ---- pages

root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "docs/book/api/*.rst",
    "docs/teach/**.md",
    "data/**README.md",
    "notebooks/*.ipynb",
]
# Folders that Sphinx must not search, and what `make slides` makes
exclude_patterns = [
    ".*",
    "benchmarks",
    "build",
    "cache",
    "distilwhisper_lib",
    "docs/teach/slides",
    "notebooks/source",
    "notebooks/solutions",
    "results",
    "tests",
    "tools",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}

extensions = [
    "myst_nb",
    "autoapi.extension",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "book_contents",
    "book_formulas",
    "book_links",
    "book_names",
    "book_pictures",
]

myst_enable_extensions = ["dollarmath", "colon_fence", "html_image"]
myst_heading_anchors = 4
myst_dmath_allow_labels = False
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # no page asks another server for a script
html_math_renderer = "pictures"

# ---- the library's names

autoapi_dirs = [str(ROOT / "distilwhisper_lib")]
autoapi_generate_api_docs = False  # the pages are docs/book/api
autoapi_options = ["members", "undoc-members"]
autoapi_python_class_content = "both"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
default_role = "literal"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source"]

# What a module imports from other packages is not read: they are not installed here
suppress_warnings = ["autoapi.python_import_resolution"]

# ---- the site

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_css_files = ["book.css"]
html_context = {"default_mode": "auto"}  # dark or light as the reader's system is
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_last_updated_fmt = None
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search stands in the side bar
    "use_download_button": False,
    "use_fullscreen_button": False,
}
if publication_address:
    html_theme_options |= {
        "repository_url": publication_address,
        "repository_branch": publication_branch,
        "path_to_docs": "",
        "use_repository_button": True,
    }
if publication_address.startswith("https://github.com/"):  # Colab reads from there alone
    html_theme_options["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}

copybutton_exclude = ".linenos, .gp, .go"
