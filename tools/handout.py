"""Make the two editions of the course: build/handout.zip for students, build/teacher.zip.

python3 tools/handout.py students        what `make handout` calls: the course without outputs,
                                         solutions and results; needs nothing but Python
.venv/bin/python tools/handout.py teacher   what `make teacher` calls: solutions with model
                                         answers, the pages for teaching, and what each wrong
                                         answer is told; runs every wrong answer for it
.venv/bin/python tools/handout.py hash   write notebooks/hashed.json, the answers that checks
                                         compare, from notebooks/source/to_hash.py
"""

from __future__ import annotations

import argparse
import json
import os
import posixpath
import re
import secrets
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distilwhisper_lib.programs import run_program  # noqa: E402 (needs nothing but Python)

FOLDER = "distilwhisper-lab"  # inside the zips; the notebooks look for a folder of this name
MOMENT = (2026, 1, 1, 0, 0, 0)  # of all files in a zip, so that equal files give equal zips

# Of the students' edition, by name or pattern. Each must be there.
FOR_STUDENTS = (
    "LICENSE",
    "CITATION.cff",
    "pyproject.toml",
    "requirements.lock",
    "requirements-demo.lock",
    "constraints.txt",
    "environment.yml",
    "distilwhisper_lib/**/*.py",
    "notebooks/answers.py",
    "notebooks/checks_[0-9][0-9].py",
    "notebooks/exercise.py",
    "notebooks/hashed.json",
    "notebooks/hashed.py",
    "notebooks/lab_setup.py",
    "notebooks/made_up.py",
    "notebooks/figures/*",
    "data/README.md",
    "data/*/README.md",
    "data/reference/*.csv",
    "data/toy/*/*",
    "docs/*.md",
    "tools/setup_env.py",
    # Read by the notebooks, whichever preset they run at
    "results/reference/study/tuning.csv",
    "results/reference/study/hypotheses.csv",
    "results/reference/study/curve.csv",
    "results/reference/study/pairs.csv",
    "results/reference/study/causes.csv",
    "results/reference/study/systems.csv",
    "results/reference/toy/study/pairs.csv",
    "results/reference/both-voices/*",
    "results/reference/benchmarks/*",
    "results/reference/*/timing.json",
)

# Pages with the results of the reference run: they tell what the notebooks ask to predict
RESULT_PAGES = {f"docs/{name}.md" for name in ("results", "claims", "toy-languages", "benchmarks")}

# Targets of the Makefile that work with the files above
TARGETS = ("help", "setup", "course", "lab", "demo", "study", "claims", "toy", "grid", "estimates")
TARGETS += ("smaller", "convergence", "clean", "distclean")

FOR_TEACHERS = ("LICENSE", "docs/*.md", "docs/teach/**/*", "notebooks/solutions/*.ipynb")
PICTURES = (".png", ".svg", ".jpg")

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


# ---- the students' edition


def students_edition(root: Path = ROOT) -> dict[str, bytes]:
    """Return the files of the students' edition: their contents by name.

    Raises:
        FileNotFoundError: Where one is missing.
    """
    names = set(find(root, FOR_STUDENTS)) - RESULT_PAGES
    files = {name: (root / name).read_bytes() for name in names}
    files["docs/running.md"] = without_dead_commands(files["docs/running.md"].decode()).encode()
    files["README.md"] = read(root, "tools/handout_students.md")
    files["Makefile"] = kept_targets(read(root, "Makefile").decode()).encode()
    for name in notebook_names(root):
        files[name] = without_outputs(read(root, name).decode()).encode()
    return without_dead_links(files)


def notebook_names(root: Path) -> list[str]:
    """Return the names of the notebooks: one for each source, so that copies stay out."""
    sources = find(root, ["notebooks/source/[0-9]*.py"])
    return [f"notebooks/{Path(name).stem}.ipynb" for name in sources]


def without_outputs(text: str) -> str:
    """Return a notebook (JSON) whose code cells have not run."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
            cell["execution_count"] = None
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def kept_targets(makefile: str) -> str:
    """Return a Makefile with the rules of TARGETS alone."""
    kept, keeping = [], True
    for line in makefile.splitlines():
        rule = re.match(r"([a-z][a-z-]*):(?!=)", line)
        if line.startswith(".PHONY:"):
            line = ".PHONY: " + " ".join(name for name in line.split()[1:] if name in TARGETS)
        elif rule:
            keeping = rule.group(1) in TARGETS
        elif line and not line.startswith("\t"):
            keeping = True  # a variable or a comment
        if keeping:
            kept.append(line)
    return "\n".join(kept) + "\n"


def without_dead_commands(page: str) -> str:
    """Return a page whose tables list only commands of TARGETS."""

    def works(line: str) -> bool:
        command = re.match(r"\| `make ([a-z-]+)", line)
        return command is None or command.group(1) in TARGETS

    return "".join(line for line in page.splitlines(keepends=True) if works(line))


# ---- the teacher's edition


def teachers_edition(root: Path = ROOT, notebooks: Iterable[str] | None = None) -> dict[str, bytes]:
    """Return the files of the teacher's edition: their contents by name.

    Args:
        root: The project.
        notebooks: Numbers of the notebooks whose wrong answers are run; None runs all.

    Raises:
        FileNotFoundError: Where one is missing.
    """
    names = find(root, FOR_TEACHERS)
    files = {name: (root / name).read_bytes() for name in names}
    files["README.md"] = read(root, "tools/handout_teacher.md")
    for name in find(root, ["notebooks/source/[0-9]*.py"]):
        source = root / name
        if not read_exercises(source):
            continue  # the appendix
        if notebooks is None or source.stem[:2] in notebooks:
            print(f"running the wrong answers of {source.stem}", flush=True)
            files[f"mistakes/{source.stem}.md"] = mistakes_page(source).encode()
    for name in linked_pictures(files):
        if (root / name).is_file():
            files[name] = (root / name).read_bytes()
    return without_dead_links(files)


def mistakes_page(source: Path) -> str:
    """Return a page with the wrong answers of a notebook and what the checks say to them."""
    lines = [f"# What learners do wrong: {source.stem}", ""]
    lines += [
        "On the left the lines that differ from the solution, on the right what the check says."
    ]
    for exercise in said_to_wrong_answers(source):
        lines += ["", f"## {exercise['title']}", ""]
        lines += ["| answer | message |", "| --- | --- |"]
        for answer, message in exercise["wrong"]:
            changed = different_lines(answer, exercise["solution"])
            code = "<br>".join(code_in_table(line) for line in changed)
            lines.append(f"| {code} | {in_table(message)} |")
        lines += ["", "Right as well:", ""]
        for also in exercise["also"]:
            lines += ["```python", also, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def said_to_wrong_answers(source: Path) -> list[dict]:
    """Run each wrong answer of a notebook's exercises.

    Returns:
        For each exercise: title, solution, also (other right answers) and wrong: pairs of an answer
        and the message of the check.

    Raises:
        ValueError: Where a check takes a wrong answer.
    """
    import nbclient
    import nbformat

    exercises = read_exercises(source)
    new_cell = nbformat.v4.new_code_cell
    folders = [str(ROOT), str(ROOT / "notebooks")]
    cells = [new_cell(f"import sys\n\nsys.path[:0] = {folders!r}")]
    checked = []
    for exercise in exercises:
        for answer in exercise["answers"]:
            cells.append(new_cell("\n\n".join([*exercise["solution"], answer])))
            cells.append(new_cell(exercise["check"]))
            checked.append(cells[-1])
    notebook = nbformat.v4.new_notebook(cells=cells)
    place = {"metadata": {"path": str(ROOT / "notebooks")}}
    quiet = ["--IPKernelApp.log_level=40"]  # errors alone
    nbclient.NotebookClient(
        notebook, kernel_name="python3", resources=place, extra_arguments=quiet
    ).execute()

    messages = iter([spoken(cell) for cell in checked])
    for exercise in exercises:
        exercise["wrong"] = [(answer, next(messages)) for answer in exercise["answers"]]
    return exercises


def spoken(cell) -> str:
    """Return what a check has said to a wrong answer.

    Raises:
        ValueError: Where it has taken the answer.
    """
    text = "".join(output.get("text", "") for output in cell.outputs)
    _, refused, message = text.partition("not yet: ")  # the answer may print something before
    if not refused:
        raise ValueError(f"a wrong answer passes its check:\n{cell.source}\n{text}")
    return message.strip()


def read_exercises(source: Path) -> list[dict]:
    """Return the exercises of a notebook's source: title, solution, check, also and answers."""
    import notebooks as tool

    exercises: list[dict] = []
    for cell in tool.read_source(source):
        tags = tool.tags(cell)
        if "exercise" in tags:
            title = cell.source.splitlines()[0].lstrip("# ")
            exercises.append({"title": title, "solution": [], "also": [], "answers": []})
        elif "solution" in tags:
            exercises[-1]["solution"].append(cell.source)
        elif "also" in tags:
            exercises[-1]["also"].append(cell.source)
        elif "wrong" in tags:
            exercises[-1]["answers"].append(cell.source)
        elif "check" in tags:
            exercises[-1]["check"] = cell.source
    return exercises


def different_lines(answer: str, solution: list[str]) -> list[str]:
    """Return the lines of a wrong answer that the solution does not have; all where none is new."""
    known = {line.strip() for line in "\n".join(solution).splitlines()}
    lines = [line.strip() for line in answer.splitlines() if not line.startswith("# says: ")]
    lines = [line for line in lines if line and not line.startswith(("import ", "from "))]
    return [line for line in lines if line not in known] or lines


def code_in_table(line: str) -> str:
    """Return a line of code for a cell of a Markdown table."""
    fence = "``" if "`" in line else "`"
    return f"{fence}{in_table(line)}{fence}"


def in_table(text: str) -> str:
    """Return a text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


# ---- files


def find(root: Path, patterns: Iterable[str]) -> list[str]:
    """Return the names of the files that patterns mean, sorted.

    Raises:
        FileNotFoundError: Where a pattern means none.
    """
    found: set[str] = set()
    for pattern in patterns:
        names = {path.relative_to(root).as_posix() for path in root.glob(pattern) if path.is_file()}
        if not names:
            raise FileNotFoundError(missing(root, pattern))
        found |= {name for name in names if "__pycache__" not in name}
    return sorted(found)


def read(root: Path, name: str) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: Where it is missing.
    """
    try:
        return (root / name).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(missing(root, name)) from None


def missing(root: Path, name: str) -> str:
    """Return what is said about a missing file."""
    advice = f"bring it back with `git checkout -- {name}`"
    if name == "notebooks/hashed.json":
        advice += ", or write it anew: .venv/bin/python tools/handout.py hash"
    return f"{name} is missing in {root}, and the edition needs it: {advice}"


def without_dead_links(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files; on pages and in notebooks a link to a missing file becomes plain text."""
    folders = {parent.as_posix() for name in files for parent in Path(name).parents}
    known = {*files, *folders}
    result = dict(files)
    for name, content in files.items():
        if name.endswith(".md"):
            result[name] = _with_live_links(content.decode(), name, known).encode()
        elif name.endswith(".ipynb"):
            notebook = json.loads(content)
            for cell in notebook["cells"]:
                if cell["cell_type"] == "markdown":
                    text = "".join(cell["source"])
                    cell["source"] = _with_live_links(text, name, known).splitlines(keepends=True)
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
            result[name] = text.encode()
    return result


def _with_live_links(text: str, page: str, known: set[str]) -> str:
    """Return a page whose links to files that are not known are plain text."""

    def replaced(match: re.Match) -> str:
        picture, words, address = match.groups()
        target = linked_file(page, address)
        if target is None or target in known:
            return match.group()
        return f"*{words}*" if picture else words

    return LINK.sub(replaced, text)


def linked_file(page: str, address: str) -> str | None:
    """Return the name of the file that a link means; None where it leads elsewhere."""
    path = address.split("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path))


def linked_pictures(files: dict[str, bytes]) -> set[str]:
    """Return the names of the pictures that pages show."""
    found = set()
    for name, content in files.items():
        if name.endswith(".md"):
            targets = [linked_file(name, match[2]) for match in LINK.findall(content.decode())]
            found |= {target for target in targets if target and target.endswith(PICTURES)}
    return found


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    """Write a zip, whole or not at all.

    Raises:
        OSError: Where the folder can't be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(f"{FOLDER}/{name}", MOMENT)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, files[name])
        os.replace(part, path)
    except OSError as error:
        target = "handout" if path.name.startswith("handout") else "teacher"
        raise OSError(
            error.errno,
            f"{path} can't be written ({error.strerror}): free space or change the rights of the "
            f'folder, or name another one: make {target} ARGS="--folder FOLDER"',
        ) from None
    print(f"{path}: {len(files)} files, {path.stat().st_size / 1e6:.1f} MB")


# ---- the hashed answers


def hashed_table(salt: str) -> dict:
    """Return the content of notebooks/hashed.json.

    Raises:
        ValueError: Where a mistake is as near to the right answer that both would be the same.
    """
    sys.path[:0] = [str(ROOT / "notebooks"), str(ROOT / "notebooks" / "source")]
    import hashed
    import to_hash

    answers = {}
    for name, answer in to_hash.ANSWERS.items():
        right = hashed.key_of(answer.right, answer.step)
        said = {right: hashed.RIGHT + answer.says}
        for mistake, message in answer.mistakes:
            key = hashed.key_of(mistake, answer.step)
            if key == right or (answer.step and too_near(key, right)):
                raise ValueError(f"{name}: the mistake {mistake} is too near to the right answer")
            said.setdefault(key, hashed.WRONG + message)
        outcomes = {}
        for key, message in said.items():
            place, secret = hashed.lock_and_key(salt, name, key)
            outcomes[place] = hashed.sealed(message, secret)
        answers[name] = {"step": answer.step, "outcomes": dict(sorted(outcomes.items()))}
    return {"salt": salt, "answers": answers}


def too_near(key: str, right: str) -> bool:
    """Whether an answer could be found at both keys: all their numbers are within two steps."""
    pairs = zip(key.split(), right.split(), strict=True)
    return all(abs(float(one) - float(other)) <= 2 for one, other in pairs)


def write_hashed() -> None:
    """Write notebooks/hashed.json; the salt stays that of the file that is there."""
    path = ROOT / "notebooks" / "hashed.json"
    salt = secrets.token_hex(8)
    if path.is_file():
        salt = json.loads(path.read_text(encoding="utf-8"))["salt"]
    text = json.dumps(hashed_table(salt), indent=1) + "\n"
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    print(f"{path}: written")


def main(arguments: list[str] | None = None) -> None:
    """Make an edition or the table of hashes, from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["students", "teacher", "hash"])
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build", help="where the zip goes (default: build)"
    )
    options = parser.parse_args(arguments)
    if options.command == "hash":
        write_hashed()
    elif options.command == "students":
        write_zip(options.folder / "handout.zip", students_edition())
    else:
        write_zip(options.folder / "teacher.zip", teachers_edition())


if __name__ == "__main__":
    run_program(main)
