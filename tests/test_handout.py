"""The two editions: students get a course that runs and no answers, the teacher gets the rest."""

import ast
import functools
import json
import math
import random
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("tools", "notebooks", "notebooks/source")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]

import handout as tool  # noqa: E402
import hashed  # noqa: E402
import to_hash  # noqa: E402

import notebooks as builder  # noqa: E402

SOURCES = builder.sources()
NAMES = [path.stem for path in SOURCES]
WITH_EXERCISES = [path for path in SOURCES if builder.has_exercises(path)]
each_with_exercises = pytest.mark.parametrize(
    "source", WITH_EXERCISES, ids=[path.stem for path in WITH_EXERCISES]
)
FAST = "05"  # the notebook whose wrong answers are run here; test_notebooks.py runs all of them
HIDDEN = {"solution", "answer", "also", "wrong"}
OPEN_QUESTION = r"open part|no check for this one|if you like|What does that say|Does the share go"


@pytest.fixture(scope="module")
def students():
    """The files of the students' edition."""
    return tool.students_edition()


@pytest.fixture(scope="module")
def teachers():
    """The files of the teacher's edition, with the wrong answers of one notebook."""
    return tool.teachers_edition(notebooks=[FAST])


def notebooks_of(files: dict[str, bytes]) -> dict[str, dict]:
    return {name: json.loads(text) for name, text in files.items() if name.endswith(".ipynb")}


def texts_of(files: dict[str, bytes]) -> dict[str, str]:
    """Return the text files; of notebooks the sources of their cells."""
    texts = {}
    for name, content in files.items():
        if name.endswith(".ipynb"):
            texts[name] = "\n".join("".join(c["source"]) for c in json.loads(content)["cells"])
        elif name.endswith((".md", ".py", ".json", ".csv", ".toml", "Makefile")):
            texts[name] = content.decode()
    return texts


# ---- the students' edition


def test_students_get_every_notebook_and_none_has_outputs(students):
    notebooks = notebooks_of(students)
    assert sorted(notebooks) == [f"notebooks/{name}.ipynb" for name in NAMES]
    for name, notebook in notebooks.items():
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert len(code) > 10, name
        assert not [cell for cell in code if cell["outputs"] or cell["execution_count"]], name
        tags = {tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])}
        assert not tags & HIDDEN, name
        assert "check" in tags or "90_appendix" in name


@functools.cache
def lines_of_library() -> set[str]:
    texts = [path.read_text("utf-8") for path in ROOT.glob("distilwhisper_lib/**/*.py")]
    return {line.strip() for text in texts for line in text.splitlines()}


def distinctive_lines(source: Path) -> dict[str, set[str]]:
    """Return the lines of each solution that neither the library nor the notebook shows."""
    cells = builder.read_source(source)
    shown = "\n".join(cell.source for cell in cells if not builder.tags(cell) & HIDDEN)
    known = lines_of_library() | {line.strip() for line in shown.splitlines()}
    found: dict[str, set[str]] = {}
    for cell in cells:
        if "exercise" in builder.tags(cell):
            title = cell.source.splitlines()[0]
            found[title] = set()
        if builder.tags(cell) & {"solution", "answer"}:
            lines = {line.strip() for line in cell.source.splitlines()} - known
            lines = {line for line in lines if not line.startswith(("from ", "import "))}
            found[title] |= {line for line in lines if len(line) > 20}
    return found


@each_with_exercises
def test_students_get_no_line_of_a_solution(source, students):
    texts = texts_of(students)
    own = [text for name, text in texts.items() if not name.startswith("distilwhisper_lib/")]
    outside = {line.strip() for text in own for line in text.splitlines()}
    exercises = distinctive_lines(source)
    assert len(exercises) == 3
    for title, lines in exercises.items():
        assert lines, f"{title}: nothing by which its solution could be found"
        assert not [line for line in lines if line in outside], title


def test_a_line_of_a_solution_would_be_found(students):
    lines = distinctive_lines(SOURCES[0])
    solution = "\n".join(cell.source for cell in builder.build_solutions(SOURCES[0]).cells)
    assert all(any(line in solution for line in found) for found in lines.values())


def test_students_get_neither_sources_nor_tests_nor_results(students):
    names = "\n".join(students)
    for hidden in ("notebooks/source", "notebooks/solutions", "tests/", "docs/teach", "to_hash"):
        assert hidden not in names, hidden
    for page in tool.RESULT_PAGES:
        assert (ROOT / page).is_file() and page not in students
    tables = [name for name in students if name.startswith("results/reference/laptop/")]
    assert tables == ["results/reference/laptop/timing.json"]


def test_students_get_every_file_that_a_notebook_reads(students):
    paths = set()
    for name, notebook in notebooks_of(students).items():
        code = "".join("".join(cell["source"]) + "\n" for cell in notebook["cells"])
        for parts in re.findall(r'REPOSITORY((?: / "[\w.-]+")+)', code):
            paths.add("/".join(re.findall(r'"([\w.-]+)"', parts)))
        for parts in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", code):
            paths.add(tool.linked_file(name, parts))
    assert len(paths) >= 5, paths
    for path in paths:
        assert any(name == path or name.startswith(f"{path}/") for name in students), path
        if (ROOT / path).is_dir():
            inside = {f"{path}/{file.name}" for file in (ROOT / path).glob("*.csv")}
            assert inside <= set(students), path


@pytest.mark.parametrize("edition", ["students", "teachers"])
def test_no_page_has_a_link_to_a_file_that_is_not_there(edition, request):
    files = request.getfixturevalue(edition)
    folders = {parent.as_posix() for name in files for parent in Path(name).parents}
    links = 0
    for name, text in texts_of(files).items():
        if not name.endswith((".md", ".ipynb")):
            continue
        for match in tool.LINK.findall(text if name.endswith(".md") else ""):
            target = tool.linked_file(name, match[2])
            links += target is not None
            assert target is None or target in files or target in folders, (name, match[2])
    assert links > 20


def test_a_dead_link_becomes_its_text_and_a_live_one_stays():
    page = b"[one](a.md) [two](b.md#x) ![three](c.png) [four](https://x.y) [five](#here)"
    files = tool.without_dead_links({"docs/page.md": page, "docs/a.md": b""})
    expected = b"[one](a.md) two *three* [four](https://x.y) [five](#here)"
    assert files["docs/page.md"] == expected


def test_students_get_the_commands_that_work(students, tmp_path):
    makefile = tmp_path / "Makefile"
    makefile.write_bytes(students["Makefile"])
    done = subprocess.run(["make", "-C", tmp_path], capture_output=True, text=True, check=True)
    listed = re.findall(r"^make ([a-z-]+) ", done.stdout, re.MULTILINE)
    assert listed == [name for name in tool.TARGETS if name in listed]
    assert {"setup", "course", "lab", "clean"} <= set(listed)
    text = students["Makefile"].decode()
    assert "-m pytest" not in text and "handout" not in text
    for path in re.findall(r"tools/\w+\.py", text):
        assert path in students, path
    page = students["docs/running.md"].decode()
    in_tables = re.findall(r"^\| `make ([a-z-]+)", page, re.MULTILINE)
    assert in_tables and set(in_tables) <= set(listed)


def test_the_first_page_says_where_the_solutions_are(students):
    page = students["README.md"].decode()
    assert "solutions are with your teacher" in page
    for command in re.findall(r"`make ([a-z]+)", page):
        assert command in tool.TARGETS, command


# ---- it runs


@pytest.fixture(scope="module")
def unpacked(students, tmp_path_factory):
    """The folder that a student unpacks."""
    folder = tmp_path_factory.mktemp("student")
    tool.write_zip(folder / "handout.zip", students)
    with zipfile.ZipFile(folder / "handout.zip") as archive:
        archive.extractall(folder)
    return folder / tool.FOLDER


def test_the_course_of_a_student_starts_and_its_checks_work(unpacked, tmp_path):
    notebook = json.loads((unpacked / "notebooks" / "02_language_experts.ipynb").read_bytes())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]

    def tagged(tag: str) -> list[str]:
        found = [c for c in code if tag in c["metadata"].get("tags", [])]
        return ["".join(cell["source"]) for cell in found]

    script = [
        *tagged("setup"),
        tagged("stub")[0],
        tagged("check")[0],
        "parameters, megabytes_fp16 = 48 * (2 * 1024 * 4096 + 4096 + 1024), 0",
        tagged("check")[0],
        "import distilwhisper_lib; print(distilwhisper_lib.__file__)",
    ]
    (tmp_path / "script.py").write_text("\n".join(script), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        cwd=unpacked / "notebooks",
        env={
            "PATH": "",
            "HOME": str(tmp_path),
            "LAB_PRESET": "smoke",
            "LAB_CACHE": str(tmp_path / "cache"),
            "LAB_RESULTS": str(tmp_path / "results"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "not attempted yet" in done.stdout
    assert "the gates are missing" in done.stdout
    assert done.stdout.splitlines()[-1] == str(unpacked / "distilwhisper_lib" / "__init__.py")


def run_tool(*words: object, root: Path = ROOT) -> subprocess.CompletedProcess:
    """Run the tool with Python alone: no packages, no folder of the user's."""
    command = [sys.executable, "-I", "-S", root / "tools" / "handout.py", *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def test_the_handout_needs_no_environment_and_is_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        done = run_tool("students", "--folder", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert str(tmp_path / name / "handout.zip") in done.stdout
    first = (tmp_path / "one" / "handout.zip").read_bytes()
    assert first == (tmp_path / "two" / "handout.zip").read_bytes()
    assert len(list((tmp_path / "one").iterdir())) == 1  # nothing half-written


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = run_tool("students", "--folder", tmp_path / "file" / "below")
    assert done.returncode == 1
    assert str(tmp_path / "file" / "below" / "handout.zip") in done.stderr
    assert "can't be written" in done.stderr and 'make handout ARGS="--folder' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def copy_of_project(tmp_path):
    """A folder like the project, whose notebooks can be changed."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    shutil.copytree(ROOT / "tools", root / "tools")
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and not (root / path.name).exists():
            (root / path.name).symlink_to(path)
    return root


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("notebooks/hashed.json", "tools/handout.py hash"),
        ("notebooks/checks_04.py", "git checkout"),
        ("notebooks/03_distillation.ipynb", "git checkout"),
        ("tools/handout_students.md", "git checkout"),
    ],
)
def test_a_missing_file_is_named_with_what_to_do(copy_of_project, tmp_path, name, advice):
    if name.startswith("notebooks/checks"):
        for path in (copy_of_project / "notebooks").glob("checks_*.py"):
            path.unlink()
        name = "notebooks/checks_"
    else:
        (copy_of_project / name).unlink()
    done = run_tool("students", "--folder", tmp_path, root=copy_of_project)
    assert done.returncode == 1
    assert name in done.stderr and "is missing" in done.stderr and advice in done.stderr
    assert not (tmp_path / "handout.zip").exists()


def test_what_a_teacher_puts_beside_the_notebooks_stays_there(copy_of_project):
    folder = copy_of_project / "notebooks"
    shutil.copy(folder / "solutions" / "00_setup_solutions.ipynb", folder / "00_setup-Copy1.ipynb")
    (folder / "my_answers.py").write_text("answer = 1\n", encoding="utf-8")
    (copy_of_project / "tools" / "marks.csv").write_text("name,points\n", encoding="utf-8")
    files = tool.students_edition(copy_of_project)
    assert not [name for name in files if "Copy1" in name or "my_" in name or "marks.csv" in name]
    assert "notebooks/00_setup.ipynb" in files


# ---- no readable answers


def numbers_in(tree: ast.AST) -> set[float]:
    """Return the numbers in a piece of code, and those in its texts."""
    found: set[float] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            found.add(float(node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\.?\d*", node.value)}
    return found


def code_of_exercise(number: str) -> list[ast.AST]:
    """Return the functions of the checks that belong to an exercise, and the module's constants."""
    path = ROOT / "notebooks" / f"checks_{int(number.split('.')[0]):02}.py"
    body = ast.parse(path.read_text(encoding="utf-8")).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    own = [node for node in functions if f"Exercise {number}" in (ast.get_docstring(node) or "")]
    assert own, f"{path.name} has no function for exercise {number}"
    return own


@pytest.mark.parametrize("name", to_hash.ANSWERS)
def test_the_code_of_a_check_does_not_hold_the_right_number(name):
    right = to_hash.ANSWERS[name].right
    parts = right if isinstance(right, tuple) else (right,)
    for function in code_of_exercise(name.split()[0]):
        for part in parts:
            if isinstance(part, str):
                assert f'"{part}"' not in ast.unparse(function).replace("'", '"')
                continue
            near = [n for n in numbers_in(function) if math.isclose(n, part, rel_tol=2e-3)]
            assert not near, (function.name, near)


def test_a_number_in_a_check_would_be_found():
    tree = ast.parse("assert rank == 162, f'{rank} is not 11,796,480 of 0.693'")
    assert {162.0, 11796480.0, 0.693} <= numbers_in(tree)


def test_no_message_can_be_read_in_the_table(students):
    table = students["notebooks/hashed.json"].decode()
    for answer in to_hash.ANSWERS.values():
        for text in [answer.says, *(message for _, message in answer.mistakes)]:
            assert not text or text not in table


def test_a_check_defines_nothing_that_an_exercise_asks_for():
    for source in WITH_EXERCISES:
        checks = (ROOT / "notebooks" / f"checks_{source.stem[:2]}.py").read_text(encoding="utf-8")
        defined = {n.name for n in ast.walk(ast.parse(checks)) if isinstance(n, ast.FunctionDef)}
        for cell in builder.read_source(source):
            if "stub" in builder.tags(cell):
                asked = set(re.findall(r"^def (\w+)\(", cell.source, re.MULTILINE))
                assert not {name for name in defined if name.lstrip("_") in asked}, source.stem


# ---- the hashes


def test_the_table_is_that_of_its_source():
    table = hashed.read_table()
    assert tool.hashed_table(table["salt"]) == table, "run .venv/bin/python tools/handout.py hash"


@pytest.mark.parametrize("name", to_hash.ANSWERS)
def test_the_table_knows_the_right_answer_and_each_mistake(name):
    answer = to_hash.ANSWERS[name]
    entry = hashed.hashed(name)
    assert entry.check(answer.right, "not known") == answer.says
    known = {message for _, message in answer.mistakes}
    for mistake, message in answer.mistakes:
        with pytest.raises(AssertionError) as raised:
            entry.check(mistake, "not known")
        assert str(raised.value) in known, mistake
        if answer.step is None:
            assert str(raised.value) == message


@pytest.mark.parametrize("name", [n for n, a in to_hash.ANSWERS.items() if a.step])
def test_within_a_step_a_number_is_right_and_beyond_two_it_is_not(name):
    answer = to_hash.ANSWERS[name]
    entry = hashed.hashed(name)
    parts = answer.right if isinstance(answer.right, tuple) else (answer.right,)
    generator = random.Random(0)
    for _ in range(10):
        sign = generator.choice([-1, 1])
        near = generator.uniform(0, 0.999) * sign * answer.step
        far = generator.uniform(2.001, 2.9) * sign * answer.step
        moved = [tuple(part + move for part in parts) for move in (near, far)]
        inside, outside = moved if len(parts) > 1 else [one[0] for one in moved]
        assert (entry.look_up(inside) or "")[:1] == hashed.RIGHT, inside
        assert (entry.look_up(outside) or "")[:1] != hashed.RIGHT, outside


def test_a_message_is_read_by_its_answer_alone():
    place, secret = hashed.lock_and_key("salt", "1.1", "50")
    other_place, other = hashed.lock_and_key("salt", "1.1", "51")
    text = hashed.sealed("as it should be", secret)
    assert place != other_place
    assert hashed.opened(text, secret) == "as it should be"
    assert "should" not in text
    assert hashed._mixed(hashed.base64.b64decode(text), other) != b"as it should be"


def test_an_answer_may_be_infinite_negative_or_unknown():
    entry = hashed.hashed("3.1 largest_js")
    for value in (math.inf, -math.inf, -1.0, 1e300):
        assert (entry.look_up(value) or "")[:1] != hashed.RIGHT
    with pytest.raises(AssertionError, match="try again"):
        entry.check(-5.0, "try again")


def test_a_missing_table_or_answer_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"hashed.json is missing.*checks"):
        hashed.read_table(tmp_path / "hashed.json")
    with pytest.raises(ValueError, match=r"no answer '9.9', only 0.2 frames"):
        hashed.hashed("9.9")


def test_a_mistake_beside_the_right_answer_is_refused(monkeypatch):
    answer = to_hash.Answer(1.0, mistakes=[(1.15, "nearly")], step=0.1)
    monkeypatch.setattr(to_hash, "ANSWERS", {"1.1 x": answer})
    with pytest.raises(ValueError, match="1.15 is too near to the right answer"):
        tool.hashed_table("salt")


# ---- the teacher's edition


def test_the_teacher_gets_solutions_and_all_pages_for_teaching(teachers):
    notebooks = notebooks_of(teachers)
    stems = [source.stem for source in WITH_EXERCISES]
    assert sorted(notebooks) == [f"notebooks/solutions/{stem}_solutions.ipynb" for stem in stems]
    pages = {p.relative_to(ROOT).as_posix() for p in (ROOT / "docs" / "teach").rglob("*.*")}
    assert "docs/teach/editions.md" in pages
    assert {name for name in pages if "__pycache__" not in name} <= set(teachers)
    assert set(teachers) >= tool.RESULT_PAGES
    assert "must not be given to students" in teachers["README.md"].decode()


def test_the_teacher_gets_the_pictures_of_the_slides(teachers):
    slides = [name for name in teachers if name.startswith("docs/teach/slides/")]
    for name in slides:
        if name.endswith(".md"):
            for match in tool.LINK.findall((ROOT / name).read_text(encoding="utf-8")):
                target = tool.linked_file(name, match[2])
                assert target is None or target in teachers, (name, match[2])


def test_the_teacher_reads_what_each_wrong_answer_is_told(teachers):
    source = next(path for path in SOURCES if path.stem.startswith(FAST))
    page = teachers[f"mistakes/{source.stem}.md"].decode()
    wrong = [c.source for c in builder.read_source(source) if "wrong" in builder.tags(c)]
    rows = [line for line in page.splitlines() if re.match(r"\| `", line)]
    assert len(rows) == len(wrong) > 15
    for text in wrong:
        if text.startswith("# says: "):
            words = text.splitlines()[0].removeprefix("# says: ")
            assert any(words in row.split(" | ")[-1] for row in rows), words
    assert "correct:" not in page and "not attempted yet" not in page
    assert "not yet:" not in page
    assert page.count("Right as well:") == 3


def test_a_wrong_answer_that_passes_is_told():
    class Cell:
        source = "check(check_one, answer)"
        outputs: list[dict] = [{"text": "correct: as it should be\n"}]

    with pytest.raises(ValueError, match=r"wrong answer passes its check:\ncheck\(check_one"):
        tool.spoken(Cell)
    Cell.outputs = [{"text": "25.0\n"}, {"text": "not yet: the sign\n"}]
    assert tool.spoken(Cell) == "the sign"


def test_a_wrong_answer_is_shown_by_the_lines_that_differ():
    solution = ["import numpy as np\n\n\ndef f(x):\n    return np.exp(x)"]
    answer = "# says: sign\nimport numpy as np\n\n\ndef f(x):\n    return np.exp(-x)"
    assert tool.different_lines(answer, solution) == ["return np.exp(-x)"]
    assert tool.different_lines("def f(x):", solution) == ["def f(x):"]
    assert tool.code_in_table("a | b") == "`a \\| b`"


# ---- solutions


@each_with_exercises
def test_each_solution_says_why_in_two_sentences_or_more(source):
    title = ""
    comments: dict[str, str] = {}
    for cell in builder.read_source(source):
        if "exercise" in builder.tags(cell):
            title = cell.source.splitlines()[0]
        if "solution" in builder.tags(cell):
            lines = re.findall(r"^\s*# (.*)$", cell.source, re.MULTILINE)
            comments[title] = comments.get(title, "") + " ".join(lines) + "\n"
    assert len(comments) == 3
    for title, text in comments.items():
        sentences = re.findall(r"[^.:]{15,}(?:[.:]|$)", text.strip(), re.MULTILINE)
        assert len(sentences) >= 2, (title, text)


def test_each_open_question_has_a_model_answer():
    asked, answered = set(), set()
    for source in WITH_EXERCISES:
        for cell in builder.read_source(source):
            if "exercise" in builder.tags(cell):
                number = re.search(r"Exercise (\d\.\d)", cell.source)[1]
                if re.search(OPEN_QUESTION, cell.source):
                    asked.add(number)
            if "answer" in builder.tags(cell):
                answered.add(number)
                assert "model answer" in cell.source
        notebook, solutions = builder.build_notebook(source), builder.build_solutions(source)
        assert "model answer" not in "".join(cell.source for cell in notebook.cells)
        shown = [cell for cell in solutions.cells if "model answer" in cell.source]
        assert len(shown) == len([number for number in answered if number[0] == source.stem[1]])
    assert asked == answered == {"0.3", "3.3", "4.3", "5.1", "5.3", "7.3"}
