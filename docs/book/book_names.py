"""The directive `public-names`: the public names of one folder of the library, from its sources.

    .. public-names:: whisper

Names and modules are those of `distilwhisper_lib/__init__.py`, so that no list is kept twice.
"""

import ast
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

LIBRARY = "distilwhisper_lib"
SINGLE = "single"  # modules that stand beside the folders


def setup(app: Sphinx) -> dict:
    """Register the directive, and how docstrings and members are read."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", keep_bars, priority=900)
    app.connect("autoapi-skip-member", skip_fields)
    return {"parallel_read_safe": True}


def public_modules(folder: str, root: Path) -> dict[str, list[str] | None]:
    """Return {module: its public names, in the library's order} of a folder of the library.

    Args:
        folder: Such as "whisper", or SINGLE.
        root: The folder of the project.

    Returns:
        None in place of the names where the module as a whole is public.
    """
    found = all_modules(root)
    return {name: names for name, names in found.items() if folder_of(name) == folder}


def all_modules(root: Path) -> dict[str, list[str] | None]:
    """Return what `public_modules` does, of all folders."""
    text = table_of_names(root).read_text(encoding="utf-8")
    assigned = {
        ast.unparse(statement.targets[0]): statement.value
        for statement in ast.parse(text).body
        if isinstance(statement, ast.Assign)
    }
    names_of = ast.literal_eval(assigned["_PUBLIC"])
    whole = ast.literal_eval(assigned["_MODULES"]).values()
    return {**names_of, **dict.fromkeys(whole)}


def table_of_names(root: Path) -> Path:
    """Return the file in which the library names what is public."""
    return root / LIBRARY / "__init__.py"


def public_names(root: Path) -> set[str]:
    """Return the public names with the modules that define them, such as "a.files.short_hash"."""
    return {
        f"{LIBRARY}.{module}.{name}"
        for module, names in all_modules(root).items()
        for name in names or []
    }


def folder_of(module: str) -> str:
    """Return the folder of a module named as in `_PUBLIC`."""
    return module.partition(".")[0] if "." in module else SINGLE


def keep_bars(app: Sphinx, what, name, obj, options, lines: list[str]) -> None:
    """Keep the bars of |x| and <|cs|>, which are plain text in our docstrings."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def skip_fields(app: Sphinx, what: str, name: str, obj, skip: bool, options) -> bool | None:
    """Leave out fields without a docstring: their class says under "Attributes" what they are."""
    return True if what == "attribute" and not obj.docstring else None


class PublicNames(SphinxDirective):
    """Writes a section for each module with a public name, with what its docstrings say."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Insert the sections as text, so that they are read like what is written by hand."""
        folder = self.arguments[0]
        self.env.note_dependency(str(table_of_names(Path(self.env.srcdir))))
        modules = public_modules(folder, Path(self.env.srcdir))
        if not modules:
            raise self.error(f"the library has no public names in {folder!r}")
        lines = []
        for module, names in modules.items():
            lines += self.section(f"{LIBRARY}.{module}", names)
        source, _ = self.get_source_info()
        self.state_machine.insert_input(StringList(lines, source).data, source)
        return []

    def section(self, module: str, names: list[str] | None) -> list[str]:
        """Return the lines of one module: heading, first sentence, and each name."""
        objects = self.env.autoapi_all_objects
        self.env.note_dependency(objects[module].obj["file_path"])
        title = module.removeprefix(f"{LIBRARY}.")
        lines = [title, "-" * len(title), "", f".. py:currentmodule:: {module}", ""]
        lines += [first_paragraph(objects[module].docstring), ""]
        if names is None:
            children = objects[module].children
            names = [child.name for child in children if is_public_function(child)]
        for name in names:
            full = f"{module}.{name}"
            if full not in objects:
                raise self.error(f"{full} is not defined in its module")
            lines += [*self.shortened(objects[full].render()).splitlines(), ""]
        return lines

    def shortened(self, text: str) -> str:
        """Return a description in which the types that have no place in the book are short."""
        public = public_names(Path(self.env.srcdir))

        def short(match: re.Match) -> str:
            return match[0] if match[0] in public else match[0].rpartition(".")[2]

        return re.sub(rf"\b(?:{LIBRARY}|collections\.abc)(?:\.\w+)+", short, text)


def is_public_function(child) -> bool:
    """Whether an object of autoapi is a function without a leading underscore."""
    return child.type == "function" and not child.name.startswith("_")


def first_paragraph(docstring: str) -> str:
    """Return the first paragraph of a docstring as one line."""
    return re.split(r"\n\s*\n", docstring.strip())[0].replace("\n", " ")
