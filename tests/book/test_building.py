"""What the configuration makes of a small project: links, buttons, and what it refuses."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, tool

MODULE = '''
def save(path):
    """Save |it|.

    Args:
        path: Where.
    """
'''
LIBRARY = '_PUBLIC = {"files": ["save"]}\n_MODULES = {}\n'
FILES = {
    "README.md": (
        "# Project\n\nSee the [method](docs/method.md#the-gate), the [licence](LICENSE), the "
        "[tools](tools), a [table](results/table.csv) and a [card](tests/card.md).\n"
    ),
    "docs/README.md": "# Documentation\n\n- [method.md](method.md): how?\n",
    "docs/method.md": "# Method\n\n## The gate\n\nIt is $g = \\sigma(G)$.\n",
    "docs/teach/slides/01.md": "# Slides\n",
    "LICENSE": "free",
    "tools/tool.py": "",
    "tests/card.md": "# Card\n",
    "results/table.csv": "a,b\n",
    "distilwhisper_lib/__init__.py": LIBRARY,
    "distilwhisper_lib/files.py": MODULE,
}
# A picture of one pixel
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def notebook(below):
    """Return a notebook with a picture, and a text below it."""
    output = {"output_type": "display_data", "data": {"image/png": PIXEL}, "metadata": {}}
    about = {"metadata": {}, "id": "a"}
    cells = [
        {"cell_type": "markdown", "source": "# 00 Setup\n\nText.", "metadata": {}, "id": "t"},
        {"cell_type": "code", "source": "1", "outputs": [output], "execution_count": 1, **about},
        {"cell_type": "markdown", "source": below, "metadata": {}, "id": "b"},
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def project(tmp_path):
    """A folder with a small project and the configuration of the book."""
    folder = tmp_path / "project"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    write_notebook(folder, "*The picture: a dot in the middle.*\n\nMore.")
    left_out = shutil.ignore_patterns("__*", "api")
    shutil.copytree(ROOT / "docs" / "book", folder / "docs" / "book", ignore=left_out)
    return folder


def write_notebook(folder, below):
    path = folder / "notebooks" / "00_setup.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(notebook(below)), encoding="utf-8")


def build(folder):
    """Return the exit status and the messages of a build, as `make book` does it."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c"]
    command += [str(folder / "docs" / "book"), str(folder), str(folder / "build")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def page(folder, name):
    return (folder / "build" / name).read_text(encoding="utf-8")


def test_without_an_address_files_come_along_and_folders_are_text(project):
    status, said = build(project)
    assert status == 0, said
    html = page(project, "index.html")
    assert html == page(project, "README.html")
    assert 'href="docs/method.html#the-gate"' in html
    for name in ("LICENSE", "table.csv", "card.md"):
        (copy,) = (project / "build" / "_downloads").rglob(name)
        assert copy.relative_to(project / "build").as_posix() in html
    assert ">tools</span>" in html and 'href="tools' not in html
    assert 'alt="a dot in the middle."' in page(project, "notebooks/00_setup.html")
    assert "colab" not in page(project, "notebooks/00_setup.html")
    assert 'aria-label="g = \\sigma(G)"' in page(project, "docs/method.html")
    assert not (project / "build" / "docs" / "teach").exists()


def test_a_badge_of_another_server_becomes_a_link_of_words(project):
    badge = "[![Open in Colab](https://example.invalid/badge.svg)](https://example.invalid/open)"
    (project / "README.md").write_text(f"# Project\n\n{badge}\n", encoding="utf-8")
    status, said = build(project)
    assert status == 0, said
    html = page(project, "README.html")
    assert "badge.svg" not in html
    assert re.search(r'href="https://example.invalid/open"[^>]*>Open in Colab</a>', html)


def test_with_an_address_links_lead_there_and_notebooks_have_a_button_for_colab(project):
    settings = project / "docs" / "book" / "publication.toml"
    text = settings.read_text(encoding="utf-8")
    # In two parts: the address is made up
    address = "https://github." + "com/someone/distilwhisper-lab"
    settings.write_text(text.replace('address = ""', f'address = "{address}"'), encoding="utf-8")
    status, said = build(project)
    assert status == 0, said
    html = page(project, "README.html")
    assert f'href="{address}/blob/main/LICENSE"' in html
    assert f'href="{address}/tree/main/tools"' in html
    assert f'href="{address}/blob/main/tests/card.md"' in html
    path = "someone/distilwhisper-lab/blob/main/notebooks/00_setup.ipynb"
    assert f"https://colab.research.google.com/github/{path}" in page(
        project, "notebooks/00_setup.html"
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("docs/method.md", "# Method\n\n## The gate\n\n[x](nowhere.md)\n", "nowhere.md"),
        ("docs/method.md", "# Method\n\n## A gate\n", "the-gate"),
        ("docs/method.md", "# Method\n\n## The gate\n\n$\\nosuch x$\n", "not known: \\nosuch"),
        ("docs/method.md", "# Method\n\n## The gate\n\n$\\frac{1$\n", "can't be drawn"),
        ("docs/method.md", "# Method\n\n## The gate\n\n![](picture.png)\n", "picture.png"),
        ("README.md", "# Project\n\n[tools](tool)\n", "'tool'"),
    ],
    ids=["page", "anchor", "unknown command", "formula", "picture", "folder"],
)
def test_a_mistake_in_a_page_ends_the_build(name, text, message, project):
    (project / name).write_text(text, encoding="utf-8")
    status, said = build(project)
    assert status != 0 and message in said


def test_a_picture_without_a_caption_ends_the_build(project):
    write_notebook(project, "No caption.")
    status, said = build(project)
    assert status != 0 and "begin the text with a caption in italics" in said


def test_public_names_are_described_and_an_undefined_one_ends_the_build(project):
    page_of_names = project / "docs" / "book" / "api" / "index.rst"
    page_of_names.parent.mkdir()
    page_of_names.write_text("Files\n=====\n\n.. public-names:: single\n", encoding="utf-8")
    status, said = build(project)
    assert status == 0, said
    described = page(project, "docs/book/api/index.html")
    assert 'id="distilwhisper_lib.files.save"' in described and "Save |it|." in described

    library = project / "distilwhisper_lib" / "__init__.py"
    library.write_text(LIBRARY.replace("save", "store"), encoding="utf-8")
    status, said = build(project)
    assert status != 0 and "distilwhisper_lib.files.store is not defined" in said

    page_of_names.write_text("Files\n=====\n\n.. public-names:: nothing\n", encoding="utf-8")
    status, said = build(project)
    assert status != 0 and "no public names in 'nothing'" in said


# ---- the tool


def test_without_a_browser_the_tool_says_what_to_install(monkeypatch):
    monkeypatch.setenv("BOOK_BROWSER", "no-such-browser")
    assert tool.find_browser() is None
    with pytest.raises(SystemExit, match="apt-get install chromium.*BOOK_BROWSER"):
        tool.get_browser()
    with pytest.raises(SystemExit, match="Chromium is not found"):
        tool.open_browser(None)


def test_root_on_debian_gets_the_browser(monkeypatch):
    asked = []
    found = iter([None, "chromium"])
    monkeypatch.delenv("BOOK_BROWSER", raising=False)
    monkeypatch.setattr(tool, "find_browser", lambda: next(found))
    monkeypatch.setattr(tool.shutil, "which", lambda name: name)
    monkeypatch.setattr(tool.os, "geteuid", lambda: 0)
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(tool.subprocess, "run", lambda command, **_: asked.append(command) or done)
    assert tool.get_browser() == "chromium"
    assert asked[0][:2] == ["apt-get", "install"] and asked[0][-1] == "chromium"


def test_other_users_do_not_install(monkeypatch):
    monkeypatch.delenv("BOOK_BROWSER", raising=False)
    monkeypatch.setattr(tool, "find_browser", lambda: None)
    monkeypatch.setattr(tool.os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="Chromium is not found"):
        tool.get_browser()


def test_a_failed_build_is_told(tmp_path, capfd):
    source = tmp_path / "slides"
    source.mkdir()
    with pytest.raises(SystemExit, match="there are no slides: write .*01.md"):
        tool.make_slides(source, tmp_path / "out")
    (source / "01.md").write_text("# Title\n\n## Slide\n\n![a dot](dot.png)\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="out was not made: mend what the lines above name"):
        tool.make_slides(source, tmp_path / "out")
    assert "dot.png" in capfd.readouterr().err
