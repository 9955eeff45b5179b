"""Write the address at which the project is published wherever it is named.

    .venv/bin/python tools/write_address.py

The address stands in docs/book/publication.toml. Where it is set, this writes the badges for Colab
(notebooks, README, docs/colab.md), the address to clone from (first cells, README, docs/colab.md)
and `repository-code` (CITATION.cff); where it is empty, it takes them out. The outputs of the
notebooks stay.
"""

import argparse

import publication
import readme_results

import notebooks

PAGES = ("README.md", "docs/colab.md")


def main() -> None:
    """Write pages, CITATION.cff and notebooks."""
    for name in PAGES:
        path = readme_results.ROOT / name
        text = readme_results.filled(name, path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
    citation = publication.ROOT / "CITATION.cff"
    text = publication.with_repository(citation.read_text(encoding="utf-8"))
    citation.write_text(text, encoding="utf-8")
    notebooks.build()
    print(f"address: {publication.read().address or 'none'}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
