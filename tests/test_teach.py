"""docs/teach says what is so: sections, slides, exercises, quizzes, the shared cache, scoring."""

import contextlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from other_user import run_as_another_user
from test_lab import no_work
from test_readme import PAGES, TEACH, at_smoke, run_example, write_speech

from distilwhisper_lib import Lab
from distilwhisper_lib.evaluation import transcription

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import docs_teach  # noqa: E402
import score_projects  # noqa: E402
import slide_pictures  # noqa: E402

FOLDER = ROOT / "docs" / "teach"
AFTERNOONS = {number: PAGES[f"docs/teach/afternoon-{number}.md"] for number in docs_teach.SET}
PLANS = AFTERNOONS | {"one": PAGES["docs/teach/one-afternoon.md"]}
DECKS = {f"{int(n):02d}": PAGES[f"docs/teach/slides/{int(n):02d}.md"] for n in docs_teach.SET}
SOURCES = {
    path.name[:2]: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))
}
QUIZZES = {number: docs_teach.read_quiz(number) for number in docs_teach.NUMBERS}
each_afternoon = pytest.mark.parametrize("number", AFTERNOONS)
each_deck = pytest.mark.parametrize("deck", DECKS)
each_quiz = pytest.mark.parametrize("number", QUIZZES)


def rows_of(page: str, header: str) -> list[list[str]]:
    """Return the cells of the tables of a page that begin with a header cell."""
    found = []
    inside = False
    for line in page.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if inside and not set(line) <= set("|- "):
            found.append(cells)
        inside = inside or cells[0] == header
    return found


# ---- the plans


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_fills_three_hours_without_a_gap(plan):
    rows = rows_of(PLANS[plan], "minutes")
    spans = [tuple(map(int, row[0].split("–"))) for row in rows]
    assert spans[0][0] == 0 and spans[-1][1] == 180
    assert all(end == begin for (_, end), (begin, _) in zip(spans, spans[1:], strict=False))
    assert all(begin < end for begin, end in spans)
    assert sum(row[1].startswith("Break") for row in rows) == 1


@each_afternoon
def test_every_afternoon_says_all_that_a_teacher_needs(number):
    headings = re.findall(r"^## (.*)$", AFTERNOONS[number], flags=re.M)
    assert headings == [
        "Goals",
        "Before",
        "Minute by minute",
        "Where they stumble",
        "If something breaks",
        "Exercises and homework",
    ]


@pytest.mark.parametrize("plan", PLANS)
def test_every_section_that_is_named_exists(plan):
    text = " ".join(PLANS[plan].split())
    named = re.findall(r"\b(\d\d), section (\d+) \(([^()]+)\)", text)
    assert named
    for notebook, section, title in named:
        heading = f"# ## {section}. {title}\n"
        assert heading.replace("`", "") in SOURCES[notebook].replace("`", ""), (notebook, section)


@each_afternoon
def test_every_slide_that_is_named_exists(number):
    slides = len(re.findall(r"^##? ", DECKS[f"{int(number):02d}"], flags=re.M))
    named = re.findall(r"Slides? (\d+)(?: (?:to|and) (\d+))?", AFTERNOONS[number])
    numbers = [int(part) for pair in named for part in pair if part]
    assert numbers == sorted(numbers)
    assert numbers[0] == 1 and numbers[-1] == slides


# ---- exercises


def test_every_exercise_is_set_once():
    set_ = [number for places in docs_teach.SET.values() for part in places for number in part]
    assert sorted(set_) == sorted(docs_teach.read_exercises()) and len(set_) == 30


@each_afternoon
def test_a_page_sets_the_exercises_of_its_afternoon(number):
    homework = " ".join(AFTERNOONS[number].partition("## Exercises and homework")[2].split())
    in_class, at_home = re.search(r"In class: (.*?)\. - At home: (.*?) - For", homework + " - For")[
        0
    ].split(" - At home: ")
    for text, expected in zip((in_class, at_home), docs_teach.SET[number], strict=True):
        assert sorted(set(re.findall(r"\b\d\.\d\b", text))) == sorted(expected)


def told_by_checks(notebook: str) -> str:
    """Return what the checks of a notebook can say: their source, and `# says:` of its answers."""
    paths = (f"checks_{notebook}.py", "source/to_hash.py")
    source = "".join((ROOT / "notebooks" / path).read_text(encoding="utf-8") for path in paths)
    joined = re.sub(r'"\s*f?"', "", source)  # a text over several lines
    return joined + "\n".join(re.findall(r"# says: (.*)", SOURCES[notebook]))


@each_afternoon
def test_words_of_a_check_are_the_check_s(number):
    rows = rows_of(AFTERNOONS[number], "exercise")
    assert len(rows) >= 8
    for exercise, _, words, _ in rows:
        said = re.fullmatch(r"`([^`]+)`", words)[1]
        assert said in told_by_checks(f"0{exercise[0]}"), f"{exercise}: no check says {said!r}"
        assert exercise in docs_teach.SET[number][0] + docs_teach.SET[number][1]


# ---- quizzes


def texts_of(item: dict) -> list[str]:
    """Return all texts of a question."""
    parts = [(answer["answer"], answer["feedback"]) for answer in item["answers"]]
    return [item["question"], *(text for pair in parts for text in pair)]


@each_quiz
def test_a_quiz_has_the_format_of_jupyterquiz(number):
    items = QUIZZES[number]
    assert len(items) == 5
    for item in items:
        assert set(item) == {"question", "type", "answers"}
        assert item["type"] == "multiple_choice"
        assert len(item["answers"]) == 4
        for answer in item["answers"]:
            assert set(answer) == {"answer", "correct", "feedback"}
            assert type(answer["correct"]) is bool
        assert sum(answer["correct"] for answer in item["answers"]) == 1


@each_quiz
def test_every_choice_has_a_reason_and_no_text_comes_twice(number):
    texts = [text for item in QUIZZES[number] for text in texts_of(item)]
    assert all(len(text) >= 3 for text in texts)
    reasons = [answer["feedback"] for item in QUIZZES[number] for answer in item["answers"]]
    assert all(len(reason.split()) >= 4 for reason in reasons)
    assert not [text for text, times in Counter(texts).items() if times > 1]


def test_no_question_comes_twice():
    questions = [item["question"] for items in QUIZZES.values() for item in items]
    assert len(set(questions)) == 50


def test_the_right_choice_is_told_neither_by_its_place_nor_by_its_length():
    places, longest = Counter(), 0
    for items in QUIZZES.values():
        own = [[answer["correct"] for answer in item["answers"]].index(True) for item in items]
        assert len(set(own)) >= 3
        places.update(own)
        for item in items:
            lengths = [len(answer["answer"]) for answer in item["answers"]]
            right = [answer["correct"] for answer in item["answers"]].index(True)
            longest += lengths[right] == max(lengths)
    assert all(9 <= times <= 14 for times in places.values()) and len(places) == 4
    assert longest <= 15


@each_quiz
def test_numbers_of_a_quiz_stand_in_its_notebook(number):
    known = set(re.findall(r"\d+(?:\.\d+)?", SOURCES[number]))
    for item in QUIZZES[number]:
        for text in texts_of(item):
            assert set(re.findall(r"\d+(?:\.\d+)?", text)) <= known, text


@each_quiz
def test_no_text_of_a_quiz_is_taken_for_markup(number):
    """jupyterquiz shows HTML, formulas between dollars, and links as in Markdown."""
    for item in QUIZZES[number]:
        for text in texts_of(item):
            assert not re.search(r"[<>$&*_`|]|\]\(", text), text
            assert text.isascii(), text  # the package opens files in the system's encoding


def test_the_page_of_the_quiz_folds_answers_away():
    page = docs_teach.quiz("02")
    for item in QUIZZES["02"]:
        right = next(answer for answer in item["answers"] if answer["correct"])
        shown = re.sub(r"<details>.*?</details>", "", page, flags=re.S)
        assert right["answer"] in shown and right["feedback"] not in shown
        assert right["feedback"] in page
    assert page.count("<details>") == page.count("</details>") == 5


# ---- slides


def slides_of(deck: str) -> list[str]:
    """Return the text of each slide of a deck, the title slide first."""
    return re.split(r"^(?=##? )", DECKS[deck], flags=re.M)[1:]


@each_deck
def test_a_deck_has_ten_to_fifteen_slides_with_a_title_and_notes(deck):
    slides = slides_of(deck)
    assert 10 <= len(slides) <= 15
    assert slides[0].startswith("# ") and all(text.startswith("## ") for text in slides[1:])
    for text in slides:
        title = text.splitlines()[0].lstrip("# ")
        assert 3 <= len(title) <= 45, title
        assert len(re.findall(r"^```\{revealjs-notes\}\n.+?\n```$", text, flags=re.M | re.S)) == 1


@each_deck
def test_a_slide_is_short_enough(deck):
    for text in slides_of(deck):
        words = re.sub(r"\$[^$\n]+\$", "formula", text)
        items = re.findall(r"^- (.*)$", words, flags=re.M)
        assert len(items) <= 6 and all(len(item.split()) <= 10 for item in items), text
        rows = re.findall(r"^\|.*\|$", text, flags=re.M)
        assert len(rows) <= 8 and all(row.count("|") <= 6 for row in rows), text
        assert not (items and "![" in text), text


@each_deck
def test_a_picture_has_alternative_text_and_a_caption(deck):
    pictures = [text for text in slides_of(deck) if "![" in text]
    assert len(pictures) >= 2
    for text in pictures:
        found = re.search(r"^!\[(.{20,})\]\((\S+)\)\n\n\*(.{20,})\*$", text, flags=re.M)
        assert found, text
        assert (FOLDER / "slides" / found[2]).is_file(), found[2]


def test_pictures_are_taken_from_the_notebooks_by_their_code(tmp_path):
    png = b"\x89PNG made up"
    cell = nbformat.v4.new_code_cell("plots.draw(features)")
    data = {"image/png": "iVBORyBtYWRlIHVw"}
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": "no picture"})]
    cell.outputs.append(nbformat.v4.new_output("display_data", data))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("draw"), cell])
    assert slide_pictures.find_picture(notebook, "draw(") == png
    for code in ("paint(", "draw(other"):
        with pytest.raises(ValueError, match="no cell with .* holds a picture"):
            slide_pictures.find_picture(notebook, code)


def test_every_picture_of_the_tool_is_there_and_shown():
    shown = "".join(DECKS.values())
    for name in slide_pictures.PICTURES:
        assert (slide_pictures.FOLDER / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(pictures/{name}.png)" in shown


# ---- the shared cache


def run_cells(stem: str) -> None:
    """Run the code of a notebook here, but for stubs and checks, as its kernel would."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)
    names = {"__name__": "__main__"}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or {"stub", "check"} & set(cell.metadata.get("tags", [])):
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(cell.source, f"{stem}, cell {number}", "exec"), names)
    import matplotlib.pyplot as plt

    plt.close("all")


def as_student(work, cache: Path) -> None:
    """Do some work where the cache may be read and not written."""
    if os.geteuid() == 0:
        run_as_another_user(work)
        return
    modes = {path: path.stat().st_mode for path in (cache, *cache.rglob("*"))}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
        work()
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_notebooks_run_on_a_prepared_cache_that_is_read_only(monkeypatch):
    """As docs/teach/cache.md says: 05, which needs all trainings, runs; 08 is refused."""
    with tempfile.TemporaryDirectory(prefix="shared-") as name:
        shared = Path(name)
        shared.chmod(0o755)
        cache, mine = shared / "cache", shared / "mine"
        mine.mkdir()
        mine.chmod(0o777)
        monkeypatch.setenv("LAB_PRESET", "smoke")
        monkeypatch.setenv("LAB_CACHE", str(cache))
        monkeypatch.setenv("LAB_RESULTS", str(shared / "teacher"))
        monkeypatch.setenv("MPLBACKEND", "Agg")
        monkeypatch.chdir(ROOT / "notebooks")
        monkeypatch.setattr(sys, "path", list(sys.path))
        run_cells("05_comparison")
        shutil.rmtree(cache / "packages", ignore_errors=True)
        before = {path: path.stat().st_mtime_ns for path in sorted(cache.rglob("*"))}
        assert {path.name for path in cache.iterdir()} == {"corpora", "runs"}

        monkeypatch.setenv("LAB_RESULTS", str(mine))
        monkeypatch.setenv("HOME", str(mine))
        no_work(monkeypatch)

        def course():
            run_cells("05_comparison")
            with pytest.raises(PermissionError, match="Permission denied"):
                run_cells("08_faster_smaller_deployed")
            with pytest.raises(PermissionError, match="cannot write under .*LAB_CACHE"):
                Lab("smoke").train("lora", seed=78)

        as_student(course, cache)
        assert {path: path.stat().st_mtime_ns for path in sorted(cache.rglob("*"))} == before
        for table in ("comparison.csv", "paired.csv"):
            own = pd.read_csv(mine / "smoke" / table)
            pd.testing.assert_frame_equal(own, pd.read_csv(shared / "teacher" / "smoke" / table))


def test_a_folder_that_is_given_to_make_reaches_the_program():
    folder = "/media/stick/lab-cache"
    assert f"make lab PRESET=laptop LAB_CACHE={folder}\n" in PAGES["docs/teach/cache.md"]
    for target in ("lab", "course"):
        variables = [f"LAB_CACHE={folder}", "PY=printenv LAB_CACHE #"]
        command = ["make", "--no-print-directory", "-o", "setup", target, *variables]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == folder, done.stderr


# ---- the final project


def write_table(folder: Path, rows: dict[str, str], seconds: float = 0.6) -> Path:
    """Write made-up recordings: {text: split}, with a table."""
    table = []
    for number, (text, split) in enumerate(rows.items()):
        path = write_speech(folder / f"{number}.wav", seconds + number / 10)
        table.append({"path": path, "text": text, "split": split, "speaker": split})
    pd.DataFrame(table).to_csv(folder / "recordings.csv", index=False)
    return folder


TRAINED_ON = {f"jó {n}": "train" if n < 5 else "validation" for n in range(8)}
KEPT = {"szép nap": "test", "hol van a hal": "test", "igen": "test"}


@pytest.fixture
def kept(tmp_path):
    """The folder of a kept test."""
    return write_table(tmp_path / "kept" / "hu", KEPT)


def score(tmp_path: Path, kept: Path, *arguments: str) -> pd.DataFrame:
    """Call the tool, and return the scores that it has written."""
    out = tmp_path / "scores"
    options = ["--language", "hu", "--test", str(kept), "--out", str(out), "--preset", "smoke"]
    score_projects.main([*options, *arguments])
    return pd.read_csv(out / "scores.csv").set_index("system")


def test_a_project_from_recordings_to_the_score(tmp_path, kept, monkeypatch, capsys):
    """The example of the page trains; what it leaves is handed in and scored by the tool."""
    at_smoke(monkeypatch)
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))
    own = write_table(tmp_path / "data" / "recordings" / "hu", TRAINED_ON)
    changes = ("openai/whisper-small", "tiny")
    lab = run_example("docs/teach/project.md", "project", changes)["lab"]
    assert capsys.readouterr().out.count("'wer'") == 3

    for student, system in {"anna": "distilwhisper", "béla": "lora", "eva": "fine-tuning"}.items():
        folder = tmp_path / "projects" / student
        shutil.copytree(lab.train(system) / "model", folder / "model")
        shutil.copy(own / "recordings.csv", folder)
    scores = score(tmp_path, kept, "--handed-in", str(tmp_path / "projects"))
    assert list(scores.index) == ["plain Whisper", "anna", "béla", "eva"]
    assert (scores["n"] == 3).all() and scores["wer"].notna().all()
    assert (scores["shared texts"] == 0).all() and scores["fingerprint"].nunique() == 1
    plain = scores.loc["plain Whisper"]
    for _, row in scores.iterrows():
        assert row["difference"] == pytest.approx(row["wer"] - plain["wer"])
    assert "only 3 clips" in capsys.readouterr().out

    before = sorted((tmp_path / "scores").iterdir())
    monkeypatch.setattr(transcription, "generate_batch", None)  # nothing is transcribed again
    again = score(tmp_path, kept, "--handed-in", str(tmp_path / "projects"))
    pd.testing.assert_frame_equal(again, scores)
    assert sorted((tmp_path / "scores").iterdir()) == before


def test_the_fingerprint_follows_every_text_and_every_sound(tmp_path, kept, capsys):
    marks = [score(tmp_path, kept)["fingerprint"].iloc[0]]
    table = kept / "recordings.csv"
    table.write_text(table.read_text().replace("igen", "nem"))
    marks.append(score(tmp_path, kept)["fingerprint"].iloc[0])
    write_speech(kept / "1.wav", 2.0)
    marks.append(score(tmp_path, kept)["fingerprint"].iloc[0])
    assert len(set(marks)) == 3
    assert f"3 clips, 7 words, fingerprint {marks[0]}" in capsys.readouterr().out


def handed_in(tmp_path: Path, *files: str, table: dict | None = None) -> Path:
    """Write what one student has handed in: empty files of a model, and a table."""
    folder = tmp_path / "projects" / "anna"
    (folder / "model").mkdir(parents=True)
    for name in files:
        (folder / "model" / name).write_text("{}")
    if table is not None:
        write_table(folder, table)
    return folder.parent


@pytest.mark.parametrize(
    ("files", "table", "message"),
    [
        (("experts.json",), None, "recordings.csv is missing: hand in the table"),
        ((), TRAINED_ON, "holds none of experts.json, adapter_config.json, config.json: hand in"),
        (("experts.json",), TRAINED_ON, "safetensors is missing"),
        (("adapter_config.json",), TRAINED_ON, "adapter_model.safetensors is missing"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_transcribed(
    tmp_path, kept, files, table, message
):
    projects = handed_in(tmp_path, *files, table=table)
    with pytest.raises(FileNotFoundError, match=message):
        score(tmp_path, kept, "--handed-in", str(projects))
    assert not (tmp_path / "scores").exists()


def test_texts_of_the_test_among_the_training_clips_are_counted(tmp_path, kept):
    projects = handed_in(tmp_path, table=TRAINED_ON | {"Igen!": "train", "hol van a hal": "train"})
    rows = score_projects.read_test(kept, "hu")
    assert score_projects.shared_texts(projects / "anna", "hu", rows) == 2


def test_a_test_with_a_clip_that_cannot_be_used_is_refused(tmp_path, kept):
    (kept / "1.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match="1 clips of the test cannot be used: .*/1 "):
        score(tmp_path, kept)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_students_is_told(tmp_path, kept, there):
    if there:
        (tmp_path / "projects").mkdir()
    with pytest.raises(FileNotFoundError, match="--handed-in: .*projects"):
        score(tmp_path, kept, "--handed-in", str(tmp_path / "projects"))


def test_the_commands_of_the_page_are_the_tool_s():
    page = PAGES["docs/teach/project.md"]
    commands = re.findall(r"^\.venv/bin/python tools/score_projects\.py (.*)$", page, flags=re.M)
    parsed = [score_projects.parse_arguments(command.split()) for command in commands]
    assert [options.handed_in for options in parsed] == [None, Path("../projects")]
    assert {(options.test, options.preset) for options in parsed} == {
        (Path("../kept/hu"), "laptop")
    }


def test_the_rubric_has_a_hundred_points_and_a_pass_mark():
    page = PAGES["docs/teach/project.md"]
    points = [int(row[1]) for row in rows_of(page, "part")]
    assert sum(points) == 100
    assert "Pass mark: **50 points, and all four musts**" in page
    assert len(rows_of(page, "must")) == 4
    shown = [int(row[1]) for row in rows_of(DECKS["05"], "part")]
    assert shown == points


# ---- the folder


def test_every_page_is_reached_from_the_first():
    seen, todo = set(), ["docs/teach/README.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)", PAGES[page]):
            path = ((ROOT / page).parent / target).resolve().relative_to(ROOT).as_posix()
            if path in TEACH:
                todo.append(path)
    assert seen == set(TEACH)


def test_numbers_of_the_quiz_files_are_plain_json():
    for path in docs_teach.QUIZZES.iterdir():
        assert path.stem in docs_teach.NUMBERS and path.suffix == ".json"
        assert isinstance(json.loads(path.read_text(encoding="ascii")), list)
