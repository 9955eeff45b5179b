"""What a user must be able to rely on in every file: nothing unsafe, nothing private."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import distilwhisper_lib

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("distilwhisper_lib", "tools", "benchmarks", "notebooks")
SKIPPED = {".venv", ".git", "cache", "build", "results"}

UNPICKLING = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
EVALUATING = {"eval", "exec", "torch.jit.load", "pd.read_pickle"}

REGISTRIES = "|".join(
    rf"{name}\.(?:org|com)"
    for name in (
        "pypi",
        "pythonhosted",
        "anaconda",
        "npmjs",
        "download.pytorch",
        "deb.debian",
        "archive.ubuntu",
    )
)
A_DRIVE_IN_WSL = r"(?!/[a-z]\b)"  # /mnt/c is every Windows machine's
FOLDERS = "|".join(("work", "tmp", "home", "root", "Users", f"mnt{A_DRIVE_IN_WSL}"))
PRIVATE = rf"(?<![\w.~$}}-])/(?:{FOLDERS})(?:/[\w.]|\b(?![\w/-]))"
CONFLICT = r"(?m)^(?:<{7}|>{7}) "


def text_files():
    """Yield (path, text) of the project's own files: git's, or the folder's where there is none."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    paths = [ROOT / name for name in listed]
    if not paths:
        found = ROOT.rglob("*")
        paths = [path for path in found if not SKIPPED & set(path.relative_to(ROOT).parts)]
    for path in paths:
        if path.is_file():
            data = path.read_bytes()
            if b"\0" not in data[:8000]:
                yield path.relative_to(ROOT), data.decode("utf-8")


def unsafe(tree):
    """Yield the source of each import and call that could run code of a file that is read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
            if names & UNPICKLING:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if (
                name in EVALUATING
                or (name == "torch.load" and keywords.get("weights_only") != "True")
                or keywords.get("allow_pickle", "False") != "False"
                or keywords.get("trust_remote_code", "False") != "False"
            ):
                yield ast.unparse(node)


def test_nothing_is_unpickled_or_evaluated():
    paths = [path for folder in PROGRAMS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 60
    found = [
        f"{path.relative_to(ROOT)}: {source}"
        for path in paths
        for source in unsafe(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "load_dataset(name, trust_remote_code=True)",
        "eval(text)",
    ],
)
def test_unsafe_code_is_found(code):
    assert list(unsafe(ast.parse(code))) == [code]


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a package registry", REGISTRIES),
        ("a path of one machine", PRIVATE),
        ("a conflict of git", CONFLICT),
    ],
    ids=["registry", "path", "conflict"],
)
def test_no_file_names(what, pattern):
    found = [
        f"{path}: {match.group()!r}"
        for path, text in text_files()
        for match in re.finditer(pattern, text)
    ]
    assert not found, f"named here is {what}: {found}"


def test_the_patterns_find_what_they_are_for():
    for folder in ("work", "home", "tmp", "root"):
        assert re.search(PRIVATE, f"saved in /{folder}/me/x.py"), folder
    for text in (
        "frame/work/x",
        "a/home/b",
        "~/home/x",
        "../tmp/x",
        "$HOME/tmp/x",
        "/workshop/x",
        "https://x/tmp",
    ):
        assert not re.search(PRIVATE, text), text
    assert re.search(REGISTRIES, "https://py" + "pi.org/simple")
    assert re.search(CONFLICT, "a\n" + 7 * "<" + " HEAD\n")
    assert len(list(text_files())) > 30


def test_public_names_exist():
    names = distilwhisper_lib.__all__
    assert len(set(names)) == len(names)
    missing = [name for name in names if not hasattr(distilwhisper_lib, name)]
    assert not missing, missing
