"""The address of publication: one file, from which every place that names it is written."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import publication  # noqa: E402
import readme_results  # noqa: E402

import notebooks as builder  # noqa: E402 (tools/notebooks.py)

# In parts: the address is made up
HOST = "https://github." + "com"
ADDRESS = f"{HOST}/someone/distilwhisper-lab"
ELSEWHERE = "https://git." + "example.invalid/someone/distilwhisper-lab"
BADGE = r"\[!\[Open in Colab\]\(https://colab\.research\.google\.com/assets/colab-badge\.svg\)\]\((\S+)\)"
STEMS = [path.stem for path in builder.sources()]
PAGES = ("README.md", "docs/colab.md")
STALE = "run .venv/bin/python tools/write_address.py"


def opens(stem: str) -> str:
    """Return the address at which Colab opens a notebook of the made-up project."""
    place = "someone/distilwhisper-lab/blob/main/notebooks"
    return f"https://colab.research.google.com/github/{place}/{stem}.ipynb"


def write_address(tree: Path, address: str) -> None:
    """Set the address of a copied project and call the program that writes it everywhere."""
    settings = tree / "docs" / "book" / "publication.toml"
    text = settings.read_text(encoding="utf-8")
    text = re.sub(r'^address = "[^"]*"', f'address = "{address}"', text, flags=re.M)
    settings.write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, tree / "tools" / "write_address.py"], cwd=tree, check=True)


def contents(tree: Path) -> dict[str, str]:
    """Return the files of a project that may name the address: their texts."""
    names = [*PAGES, "CITATION.cff", *(f"notebooks/{stem}.ipynb" for stem in STEMS)]
    names += [path.relative_to(tree).as_posix() for path in (tree / "notebooks").rglob("*.ipynb")]
    return {name: (tree / name).read_text(encoding="utf-8") for name in names}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the project that names no address."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("docs", "notebooks", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("data", "distilwhisper_lib", "results"):
        (folder / name).symlink_to(ROOT / name)
    if publication.read().address:
        write_address(folder, "")
    return folder


@pytest.fixture(scope="module")
def unpublished(tree):
    """The texts without an address."""
    return contents(tree)


@pytest.fixture(scope="module")
def published(tree, unpublished):
    """The texts with an address on GitHub."""
    write_address(tree, ADDRESS)
    return contents(tree)


@pytest.fixture
def address(tmp_path, monkeypatch):
    """A function that gives the tools another address, in this process."""

    def use(text: str) -> None:
        path = tmp_path / "publication.toml"
        path.write_text(f'address = "{text}"\nbranch = "main"\n', encoding="utf-8")
        monkeypatch.setattr(publication, "FILE", path)

    return use


def notebook(texts: dict[str, str], stem: str):
    """Return a notebook of these texts."""
    return nbformat.reads(texts[f"notebooks/{stem}.ipynb"], as_version=4)


# ---- without an address


def test_without_an_address_nothing_has_a_badge_or_names_one(unpublished):
    assert len(unpublished) >= 2 * len(STEMS)
    for name, text in unpublished.items():
        assert "colab-badge" not in text and "colab.research.google" not in text, name
    assert "git clone ADDRESS distilwhisper-lab" in unpublished["README.md"]
    assert publication.EXPLANATION in unpublished["README.md"]
    assert "LAB_REPOSITORY=ADDRESS" in unpublished["docs/colab.md"]
    assert "repository-code" not in yaml.safe_load(unpublished["CITATION.cff"])


def test_what_is_committed_is_what_the_address_gives():
    """Pages and notebooks are compared in test_readme.py and test_notebooks.py."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert publication.with_repository(text) == text, STALE
    assert not publication.read().address.endswith(".git")  # Colab's links would lead nowhere


# ---- with an address


@pytest.mark.parametrize("stem", STEMS)
def test_each_notebook_has_a_badge_below_its_title(stem, published):
    title = notebook(published, stem).cells[0]
    lines = title.source.splitlines()
    assert title.cell_type == "markdown" and lines[0].startswith(f"# {stem[:2]} ")
    assert re.fullmatch(BADGE, lines[2])[1] == opens(stem)
    assert lines[1] == lines[3] == ""


@pytest.mark.parametrize("stem", STEMS)
def test_the_first_cell_clones_from_the_address_and_does_not_ask(
    stem, published, tmp_path, monkeypatch
):
    cell = builder.code_cells(notebook(published, stem))[0].source
    beginning = cell.partition("sys.path.insert")[0]
    cloned = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda command, check: cloned.append(command))
    for repository, expected in ((None, ADDRESS), ("own-copy", "own-copy")):
        monkeypatch.delenv("LAB_REPOSITORY", raising=False)
        if repository:
            monkeypatch.setenv("LAB_REPOSITORY", repository)
        exec(beginning, {"input": None})
        assert cloned.pop()[-2:] == [expected, str(tmp_path / "distilwhisper-lab")]


@pytest.mark.parametrize("stem", STEMS)
def test_outputs_stay_when_an_address_is_set(stem, unpublished, published):
    before, after = (
        [cell.outputs for cell in builder.code_cells(notebook(texts, stem))]
        for texts in (unpublished, published)
    )
    assert before == after and any(before)


def test_the_front_page_has_a_badge_and_the_address(published):
    front = published["README.md"]
    assert re.findall(BADGE, front) == [opens(publication.START)]
    assert f"\ngit clone {ADDRESS} distilwhisper-lab\n" in front
    assert "ADDRESS" not in front


def test_the_page_on_colab_has_badges_and_the_address(published):
    page = published["docs/colab.md"]
    assert re.findall(BADGE, page) == [opens(publication.START), opens(publication.FOR_GPU)]
    assert ADDRESS in page.split() or f"{ADDRESS}." in page.split()
    assert "=ADDRESS" not in page


def test_the_citation_has_the_address(unpublished, published):
    before, after = (yaml.safe_load(texts["CITATION.cff"]) for texts in (unpublished, published))
    assert after == before | {"repository-code": ADDRESS}


@pytest.mark.parametrize("text", ["", ELSEWHERE, f"{HOST}/other/name"])
def test_another_address_takes_the_place_of_the_first(text, address, unpublished, published):
    address(text)
    for page in PAGES:
        again = readme_results.filled(page, published[page])
        assert again == readme_results.filled(page, unpublished[page])
        assert ADDRESS not in again and (text or "ADDRESS") in again
    citation = publication.with_repository(published["CITATION.cff"])
    assert citation == publication.with_repository(unpublished["CITATION.cff"])
    assert yaml.safe_load(citation).get("repository-code", "") == text
    built = builder.build_notebook(builder.sources()[0])
    assert bool(re.search(BADGE, built.cells[0].source)) == text.startswith(HOST)
    setup = builder.code_cells(built)[0].source
    assert f'or "{text}"' in setup if text else publication.QUESTION in setup


# ---- where to start on Colab


def test_front_page_page_on_colab_and_notebook_say_the_same(published):
    """The course starts with one notebook; another is for a GPU, after the same cell."""
    gpu = notebook(published, publication.FOR_GPU).cells[0].source
    page = published["docs/colab.md"]
    assert f"starts with [notebook 00]({publication.START}.ipynb)" in gpu
    assert f"starts with notebook [00](../notebooks/{publication.START}.ipynb)" in page
    assert "(docs/colab.md)" in published["README.md"]
    cell = re.search(r"```python\n(.*?)```", gpu, re.S)[1]
    assert "drive.mount" in cell and cell == re.search(r"```python\n(.*?)```", page, re.S)[1]


def test_one_notebook_alone_asks_colab_for_a_gpu(published):
    asked = {stem: notebook(published, stem).metadata for stem in STEMS}
    gpu = asked.pop(publication.FOR_GPU)
    assert gpu["accelerator"] == "GPU" and gpu["colab"]["gpuType"] == "T4"
    for stem, metadata in asked.items():
        assert metadata == builder.METADATA, stem
    assert gpu == builder.METADATA | builder.ON_GPU


def test_a_published_run_keeps_what_colab_is_asked_for(tmp_path, monkeypatch):
    """`publish` takes a run's notebook, whose kernel has written metadata of its own."""
    stem = publication.FOR_GPU
    monkeypatch.setattr(builder, "ROOT", tmp_path)
    monkeypatch.setattr(builder, "sources", lambda: [ROOT / "notebooks" / "source" / f"{stem}.py"])
    executed = builder.build_notebook(builder.sources()[0])
    executed.metadata["widgets"] = {"state": {}}
    folder = tmp_path / "results" / "laptop" / "notebooks"
    for path in (folder, tmp_path / "notebooks"):
        path.mkdir(parents=True)
    nbformat.write(executed, folder / f"{stem}.ipynb")
    source = builder.NOTEBOOKS
    monkeypatch.setattr(builder, "NOTEBOOKS", tmp_path / "notebooks")
    shutil.copytree(source / "source", tmp_path / "notebooks" / "source")
    builder.publish(tmp_path / "results")
    written = nbformat.read(tmp_path / "notebooks" / f"{stem}.ipynb", as_version=4)
    assert written.metadata == builder.METADATA | builder.ON_GPU
