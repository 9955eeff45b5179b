"""The address at which the project is published, and the texts that name it.

docs/book/publication.toml holds it, and nothing else does by hand; it is empty where the project is
not published. tools/write_address.py writes what follows from it: badges that open a notebook on
Colab, the address to clone from, and `repository-code` of CITATION.cff. The book reads the file
itself (docs/book/conf.py).
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "book" / "publication.toml"

# Where the course starts on Colab, and the notebook for which Colab is asked for a GPU
START = "00_setup"
FOR_GPU = "06_paper_scale"

GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com"

# What stands where there is no address: in the first cell of the notebooks, and in README
QUESTION = 'input("The address that this project can be cloned from: ")'
PLACEHOLDER = "ADDRESS"
EXPLANATION = " ADDRESS: where you found this project."


@dataclass(frozen=True)
class Publication:
    """Where the project is published.

    Args:
        address: Of the repository, without a slash at the end; "" where it is not published.
        branch: That the links lead to.
    """

    address: str
    branch: str

    def badge(self, stem: str) -> str:
        """Return a badge that opens a notebook on Colab; "" without an address on GitHub.

        Colab opens notebooks by their address from GitHub alone.
        """
        if not self.address.startswith(GITHUB):
            return ""
        repository = self.address.removeprefix(GITHUB)
        target = f"{COLAB}/github/{repository}/blob/{self.branch}/notebooks/{stem}.ipynb"
        return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({target})"


def read() -> Publication:
    """Return what docs/book/publication.toml says."""
    settings = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return Publication(settings["address"].rstrip("/"), settings["branch"])


# ---- notebooks


def with_badge(title: str, stem: str) -> str:
    """Return the first cell of a notebook with a badge below its title."""
    badge = read().badge(stem)
    if not badge:
        return title
    first, _, rest = title.partition("\n")
    return f"{first}\n\n{badge}\n{rest}"


def with_default(setup: str) -> str:
    """Return the setup cell, which clones from the address instead of asking for one."""
    address = read().address
    return setup.replace(QUESTION, f'"{address}"') if address else setup


# ---- pages


def front_badge() -> str:
    """Return what README shows: a badge for the notebook with which the course starts."""
    return read().badge(START)


def with_clone_address(readme: str) -> str:
    """Return README whose quick start clones from the address, or from a word that it explains."""
    address = read().address
    explanation = "" if address else EXPLANATION
    readme = re.sub(
        rf"`make`\.(?:{re.escape(EXPLANATION)})?$", f"`make`.{explanation}", readme, flags=re.M
    )
    return re.sub(
        r"^git clone \S+ distilwhisper-lab$",
        f"git clone {address or PLACEHOLDER} distilwhisper-lab",
        readme,
        flags=re.M,
    )


def steps_on_colab() -> str:
    """Return what docs/colab.md says first: which notebook to open, and what its cell clones."""
    published = read()
    course, gpu = (
        f"[{stem[:2]}](../notebooks/{stem}.ipynb) {published.badge(stem)}".rstrip()
        for stem in (START, FOR_GPU)
    )
    notebooks = (
        f"- **The course** starts with notebook {course}: the preset `toy` needs no GPU.\n"
        f"- **With a GPU**: notebook {gpu}, which asks Colab for a T4.\n\n"
    )
    if published.address:
        return f"{notebooks}The first cell clones {published.address}."
    return (
        f"{notebooks}Open it from your copy of the project. Its first cell asks for the address "
        "that you clone the project from. A cell\nabove it answers beforehand:\n\n"
        f"```\n%env LAB_REPOSITORY={PLACEHOLDER}\n```"
    )


# ---- CITATION.cff


def with_repository(citation: str) -> str:
    """Return CITATION.cff with the address as `repository-code`, above the licence."""
    address = read().address
    citation = re.sub(r"^repository-code: .*\n", "", citation, flags=re.M)
    if not address:
        return citation
    return re.sub(r"^license: ", f'repository-code: "{address}"\n\\g<0>', citation, flags=re.M)
