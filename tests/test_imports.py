"""What the library imports: the method alone is light, and packages import one way only."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import distilwhisper_lib

LIBRARY = Path(distilwhisper_lib.__file__).parent
ROOT = LIBRARY.parent

# A package may import from those before it; ground modules may import one another.
GROUND = ("checks", "programs", "files", "fidelity", "device", "presets")
PACKAGES = ("whisper", "method", "data", "evaluation", "training", "lab", "experiments")
PACKAGES += ("cli", "demo")

HEAVY = ("datasets", "pandas", "peft", "jiwer", "pyarrow", "sacrebleu")


def module_name(path):
    """Return a module's name inside the library: "method.attach", or "method" for a package."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


PATHS = {module_name(path): path for path in sorted(LIBRARY.rglob("*.py"))}
METHOD = [name for name in PATHS if name.split(".")[0] == "method"]
LIGHT = [name for name in PATHS if name.split(".")[0] in ("method", "whisper")]


def absolute(name, node):
    """Return the module that an import statement of module `name` names, "." for the library."""
    if node.level == 0:
        return node.module
    parts = name.split(".") if name else []
    is_package = PATHS[name].name == "__init__.py"
    up = node.level - 1 if is_package else node.level
    parts = parts[: len(parts) - up]
    return ".".join(["distilwhisper_lib", *parts, *(node.module or "").split(".")]).rstrip(".")


def imports_of(name, inside_functions=True):
    """Return the full names of what a module of the library imports."""
    tree = ast.parse(PATHS[name].read_text(encoding="utf-8"))
    nodes = set(ast.walk(tree))
    if not inside_functions:
        for function in list(nodes):
            if isinstance(function, ast.FunctionDef):
                nodes -= set(ast.walk(function))

    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute(name, node)
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                is_module = submodule.removeprefix("distilwhisper_lib.") in PATHS
                found.add(submodule if is_module else module)
    return found


def library_imports_of(name):
    """Return which modules of the library a module imports, by their names inside the library."""
    return {
        module.removeprefix("distilwhisper_lib").removeprefix(".")
        for module in imports_of(name)
        if module.split(".")[0] == "distilwhisper_lib"
    }


# ---- the method alone


def loaded_by(code):
    """Return the names in `sys.modules` of a new Python that has run `code`."""
    code += "\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_library_loads_not_even_torch():
    loaded = loaded_by("import distilwhisper_lib")
    assert not loaded & {"torch", "transformers", *HEAVY}


@pytest.mark.parametrize(
    "code",
    [
        "from distilwhisper_lib import attach_experts, load_whisper",
        "\n".join(f"import distilwhisper_lib.{name}" for name in LIGHT),
    ],
    ids=["public names", "all modules"],
)
def test_importing_the_method_loads_nothing_heavy(code):
    loaded = loaded_by(code)
    assert "distilwhisper_lib.method.attach" in loaded
    assert not loaded & set(HEAVY)
    packages = {name.split(".")[1] for name in loaded if name.startswith("distilwhisper_lib.")}
    assert packages <= {*GROUND, "whisper", "method"}


@pytest.mark.parametrize("name", METHOD)
def test_the_method_imports_torch_transformers_and_safetensors_alone(name):
    allowed = {"torch", "transformers", "safetensors", *sys.stdlib_module_names}
    for module in imports_of(name, inside_functions=False):
        package = module.split(".")[0]
        assert package in {*allowed, "distilwhisper_lib"}, module
    for module in imports_of(name):
        package = module.split(".")[0]
        assert package in {*allowed, "distilwhisper_lib", "huggingface_hub"}, module


@pytest.mark.parametrize("name", METHOD)
def test_the_method_imports_of_the_library_only_checks_files_and_whisper(name):
    packages = {module.split(".")[0] for module in library_imports_of(name)}
    assert packages <= {"checks", "files", "whisper", "method"}


@pytest.mark.parametrize("name", LIGHT)
def test_the_hub_is_imported_where_it_is_needed(name):
    packages = {module.split(".")[0] for module in imports_of(name, inside_functions=False)}
    assert "huggingface_hub" not in packages


# ---- one way


def rank(name):
    """Return the place of a module's package in the order of packages, 0 for ground modules."""
    package = name.split(".")[0]
    if package == "__main__":  # it starts the programs
        return 1 + len(PACKAGES)
    return 0 if package in GROUND else 1 + PACKAGES.index(package)


@pytest.mark.parametrize("name", [name for name in PATHS if name])
def test_a_module_imports_only_from_its_own_package_and_those_before_it(name):
    late = [module for module in library_imports_of(name) if rank(module) > rank(name)]
    assert not late


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: library_imports_of(name) - {name} for name in PATHS}
    assert len(list(TopologicalSorter(graph).static_order())) == len(PATHS)


def test_imports_are_seen_by_these_tests():
    assert "whisper.tokens" in library_imports_of("method.attach")
    assert "method.experts" in library_imports_of("method.routing")
    assert "huggingface_hub" in imports_of("whisper.hub")
    assert "huggingface_hub" not in imports_of("whisper.hub", inside_functions=False)


# ---- public names


@pytest.mark.parametrize("name", distilwhisper_lib.__all__)
def test_public_name_can_be_imported(name):
    assert getattr(distilwhisper_lib, name) is not None
    assert name in dir(distilwhisper_lib)


def test_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        distilwhisper_lib.nothing  # noqa: B018 (the attribute is asked for)


def test_notebooks_and_pages_import_from_the_top_alone():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    sources = [*(ROOT / "notebooks" / "source").glob("*.py"), *(ROOT / "notebooks").glob("*.py")]
    found = []
    for path in (*pages, *sources):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"\s*(from|import) distilwhisper_lib\.", line):
                found.append(f"{path.name}: {line.strip()}")
    assert len(sources) > 15 and not found
