"""The rules of style that a program can check: sizes, order of imports, docstrings, nothing unsafe or private."""

import ast
import io
import re
import statistics
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import distilwhisper_lib

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from readme_results import imports_of, module_name  # noqa: E402

LIBRARY = sorted((ROOT / "distilwhisper_lib").rglob("*.py"))
CORE = (
    "text",
    "batches",
    "experts",
    "clsr",
    "storage",
    "losses",
    "teacher",
    "systems",
    "train",
    "scoring",
    "evaluate",
    "lab",
)
CODE_LINES, CORE_LINES, MODULE_LINES, FUNCTION_LINES, MEDIAN_LINES = 2330, 1300, 300, 40, 12
OVERRIDDEN = re.compile(
    r"on_\w+|forward|set_epoch|compute_loss|log|output"
)  # described where they come from
SKIPPED = {".venv", ".git", "cache", "build", "results"}


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree):
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def code_lines(path):
    """Return how many lines hold code: no docstrings, comments or empty lines."""
    documented, code = set(), set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    empty = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in empty:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - documented)


def text_files():
    """Return the project's own files of text: those of git, or of the folder where there is no git."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    paths = [ROOT / name for name in listed] or [
        path for path in ROOT.rglob("*") if not SKIPPED & set(path.relative_to(ROOT).parts)
    ]
    for path in paths:
        if path.is_file():
            data = path.read_bytes()
            if b"\0" not in data[:8000]:
                yield path.relative_to(ROOT), data.decode("utf-8")


# ---- sizes


def test_library_can_be_read():
    lines = {module_name(path): code_lines(path) for path in LIBRARY}
    method = {name: n for name, n in lines.items() if "." not in name}
    assert sum(method.values()) <= CODE_LINES, method
    assert sum(lines.values()) <= 4150, (
        lines
    )  # with the subpackages: corpora, checkpoints, experiments
    assert sum(lines[name] for name in CORE) <= CORE_LINES, {name: lines[name] for name in CORE}


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_modules_and_functions_are_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES
    long = [f.name for f in functions(parsed(path)) if f.end_lineno - f.lineno + 1 > FUNCTION_LINES]
    assert not long, f"{path.name}: more than {FUNCTION_LINES} lines in {long}"
    wide = [
        number
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 120
    ]
    assert not wide, f"{path.name}: more than 120 columns in lines {wide}"


def test_most_functions_are_short():
    lengths = [f.end_lineno - f.lineno + 1 for path in LIBRARY for f in functions(parsed(path))]
    assert statistics.median(lengths) <= MEDIAN_LINES and len(lengths) > 100


# ---- imports go one way


def module_order():
    """Return the modules in the order that the package's docstring gives."""
    order = []
    for head, names in re.findall(r"(?m)^([\w ]+/?): ([\w, ]+)[;.]$", distilwhisper_lib.__doc__):
        package = head.removesuffix("/")
        inside = f"{package}." if head.endswith("/") else ""
        order += [inside + name for name in names.split(", ")] + ([package] if inside else [])
    return order


def test_the_map_of_the_code_sees_each_import():
    imports = {module_name(path): imports_of(path) for path in LIBRARY}
    assert {"clsr", "weights", "corpora"} <= set(imports["lab"]) and "corpora.items" in imports[
        "corpora.stamps"
    ]
    assert "checkpoints" in imports["weights"] and "presets" in imports["checkpoints.mirror"]
    full = [
        path.name
        for path in LIBRARY
        if re.search(r"(?m)^\s*(from|import) distilwhisper_lib", path.read_text("utf-8"))
    ]
    assert not full, f"imported by the full name, which the map does not see: {full}"


def test_docstring_of_the_package_lists_each_module_once():
    assert sorted(module_order()) == sorted(
        module_name(path) for path in LIBRARY if module_name(path) != "__init__"
    )


@pytest.mark.parametrize(
    "path", [path for path in LIBRARY if module_name(path) != "__init__"], ids=module_name
)
def test_a_module_imports_only_those_before_it(path):
    order = module_order()
    late = [
        name for name in imports_of(path) if order.index(name) >= order.index(module_name(path))
    ]
    assert not late, (
        f"{path.name} imports {late}, which come after it in the docstring of the package"
    )


def test_public_names_exist():
    assert all(hasattr(distilwhisper_lib, name) for name in distilwhisper_lib.__all__)
    assert len(set(distilwhisper_lib.__all__)) == len(distilwhisper_lib.__all__)


# ---- docstrings


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_what_is_public_is_described(path):
    tree = parsed(path)
    bare = [] if ast.get_docstring(tree) else [path.name]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            inner = node.body if isinstance(node, ast.ClassDef) else []
            methods = [
                m
                for m in inner
                if isinstance(m, ast.FunctionDef)
                and not m.name.startswith("_")
                and not OVERRIDDEN.fullmatch(m.name)
            ]
            bare += [item.name for item in (node, *methods) if not ast.get_docstring(item)]
    assert not bare, f"{path.name}: no docstring in {bare}"


# ---- nothing unsafe, nothing private


@pytest.mark.parametrize(
    "path", LIBRARY + sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem
)
def test_nothing_is_unpickled_or_evaluated(path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            names.add((getattr(node, "module", "") or "").split(".")[0])
            assert not names & {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}, (
                ast.unparse(node)
            )
        if isinstance(node, ast.Call):
            name, keywords = (
                ast.unparse(node.func),
                {k.arg: ast.unparse(k.value) for k in node.keywords},
            )
            assert name not in ("eval", "exec", "torch.jit.load", "pd.read_pickle"), ast.unparse(
                node
            )
            assert name != "torch.load" or keywords.get("weights_only") == "True", ast.unparse(node)
            assert keywords.get("allow_pickle", "False") == "False", ast.unparse(node)
            assert keywords.get("trust_remote_code", "False") == "False", ast.unparse(node)


REGISTRIES = [
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
]
PRIVATE = rf"(?<![\w.~$}}-])/(?:{'|'.join(('work', 'tmp', 'home', 'root', 'Users', 'mnt'))})(?:/[\w.]|\b(?![\w/-]))"


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a package registry", "|".join(REGISTRIES)),
        ("a path of one machine", PRIVATE),
        ("a conflict of git", r"(?m)^(?:<{7}|>{7}) "),
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


def test_that_the_patterns_above_find_what_they_are_for():
    for name in ("work", "home", "tmp", "root"):
        text = f"saved in /{name}/me/x.py"
        assert re.search(PRIVATE, text), text
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
    assert (
        re.search("|".join(REGISTRIES), "https://py" + "pi.org/simple")
        and len(list(text_files())) > 30
    )
