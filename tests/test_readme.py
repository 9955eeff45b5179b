"""README and docs say what is so: commands, links, examples that run, stored numbers."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from hub_stand_in import hub_stand_in
from random_data import shake_experts

import distilwhisper_lib
from distilwhisper_lib import attach_experts, load_whisper, save_experts
from distilwhisper_lib.__main__ import COMMANDS, PROGRAMS
from distilwhisper_lib.presets import PRESETS
from distilwhisper_lib.whisper import loading

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import docs_claims  # noqa: E402
import docs_figures  # noqa: E402
import docs_study  # noqa: E402
import docs_toy  # noqa: E402
import draw_architecture  # noqa: E402
import readme_results  # noqa: E402
import stored_results  # noqa: E402

DOCS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md"))]
TEACH = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs/teach").rglob("*.md"))]
CARDS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "data").rglob("*.md"))]
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", *DOCS, *TEACH, *CARDS)
}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
STALE = "run .venv/bin/python tools/readme_results.py"
each_page = pytest.mark.parametrize("page", PAGES)


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.S)


def without_generated(text: str) -> str:
    return re.sub(r"<!-- ([\w-]+):[^>]*-->.*?<!-- /\1 -->", "", text, flags=re.S)


def one_line(text: str) -> str:
    return " ".join(text.split())


def anchors(text: str) -> set[str]:
    """Return the addresses of a page's headings, as Markdown viewers make them."""
    titles = re.findall(r"^#+ (.*)$", without_code(text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text: str) -> list[str]:
    """Return what a page tells the reader to type: lines of sh blocks, and code that begins so."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    inline = re.findall(r"`([^`\n]+)`", without_code(text))
    return lines + [code for code in inline if code.startswith(("make ", "python ", ".venv/bin/"))]


# ---- the front page


def test_front_page_is_short():
    assert len(PAGES["README.md"].split()) <= 1000


def test_front_page_has_one_table_of_five_systems_and_three_columns():
    rows = re.findall(r"^\|.*\|$", PAGES["README.md"], flags=re.M)
    assert len(rows) == 2 + 5 and all(row.count("|") == 4 for row in rows)


def test_every_notebook_is_listed_in_order():
    stems = [path.stem for path in sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))]
    listed = re.findall(
        r"^- \[\d\d [^]]+\]\(notebooks/(\w+)\.ipynb\)", PAGES["README.md"], flags=re.M
    )
    assert listed == stems


def test_index_names_every_page_once():
    named = re.findall(r"^- \[(\S+)\]", PAGES["docs/README.md"], flags=re.M)
    assert sorted(named) == sorted(Path(name).name for name in DOCS if name != "docs/README.md")


# ---- commands


@each_page
def test_every_command_works_as_it_stands(page):
    for command in commands(PAGES[page]):
        assert command.startswith(("make ", "git clone ", "cd ", ".venv/bin/")), command
    bare = re.findall(r"(?<![\w/!])python3? (?:-m )?[\w./]+", PAGES[page])
    assert not bare, f"not on the path without .venv/bin/: {bare}"


@each_page
def test_every_make_command_is_a_target(page):
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.M))
    named = {code.split()[1] for code in commands(PAGES[page]) if code.startswith("make ")}
    assert named <= targets


@each_page
def test_arguments_of_make_commands_are_known(page):
    for target, arguments in re.findall(r'make (\w+) ARGS="([^"]+)"', PAGES[page]):
        if target == "test":
            assert all((ROOT / name).is_file() for name in arguments.split()), arguments
            continue
        source = ROOT / "distilwhisper_lib" / f"{PROGRAMS[target].replace('.', '/')}.py"
        words = re.findall(r"^[a-z][\w-]*|--\w+", arguments)
        assert all(f'"{word}"' in source.read_text(encoding="utf-8") for word in words), arguments
    for name in re.findall(r"make benchmark NAME=(\w+)", PAGES[page]):
        assert (ROOT / "benchmarks" / f"{name}.py").is_file()
    for preset in re.findall(r"PRESET=(\w+)", PAGES[page]):
        assert preset in distilwhisper_lib.PRESETS


def test_programs_that_are_named_can_be_run():
    """Behind `-m` stands a program of the library, a benchmark or a tool of the tests."""
    pages = PAGES | {"CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")}
    for path in (ROOT / "notebooks" / "source").glob("*.py"):
        pages[path.name] = path.read_text(encoding="utf-8")
    found = set()
    for page, text in pages.items():
        for module, word in re.findall(
            r" -m ((?:distilwhisper_lib|benchmarks|tests)[\w.]*) ?(\S*)", text
        ):
            found.add(module)
            if module == "distilwhisper_lib":
                assert word in (*PROGRAMS, *COMMANDS), f"{page}: {word}"
            else:
                told = f"{page}: write python -m distilwhisper_lib NAME, not {module}"
                assert not module.startswith("distilwhisper_lib."), told
                assert importlib.util.find_spec(module), f"{page}: {module}"
    assert "distilwhisper_lib" in found


def test_variables_are_those_of_the_code():
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("distilwhisper_lib", "notebooks", "notebooks/source")
        for path in (ROOT / folder).rglob("*.py")
    )
    listed = re.findall(r"^\| `(LAB_\w+)`", PAGES["docs/running.md"], flags=re.M)
    assert set(listed) == set(re.findall(r"LAB_[A-Z]+", code))
    named = {name for text in PAGES.values() for name in re.findall(r"LAB_[A-Z]+", text)}
    assert named <= set(listed)


# ---- links and files


@each_page
def test_every_link_and_picture_exists(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(PAGES[page])):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert path.exists(), f"{name} does not exist"
        assert path.is_relative_to(ROOT), f"{name} is outside of the project"
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"no heading #{anchor}"


@each_page
def test_every_file_that_is_named_exists(page):
    for name in re.findall(
        r"`((?:tools|tests|notebooks|distilwhisper_lib)/[\w/]+\.\w+)`", PAGES[page]
    ):
        assert (ROOT / name).exists(), f"{name} does not exist"


# ---- numbers


@pytest.mark.parametrize("page", readme_results.PAGES)
def test_generated_parts_are_up_to_date(page):
    assert readme_results.filled(page, PAGES[page]) == PAGES[page], STALE


@each_page
def test_every_marked_part_is_generated(page):
    mark = r"<!-- ([\w-]+): (?:written by )?tools/"
    marked = re.findall(mark, PAGES[page].replace("`<!--", ""))
    assert sorted(marked) == sorted(readme_results.PAGES.get(page, {}))


@pytest.mark.parametrize("page", docs_claims.CLAIMS)
def test_numbers_in_the_text_are_those_of_the_stored_results(page):
    text = one_line(PAGES[page])
    for passage in docs_claims.CLAIMS[page]():
        assert one_line(passage) in text, f"the stored results say: {passage}"


@each_page
def test_no_difference_is_stated_without_a_stored_result(page):
    """Every interval and every "2.4 points" is generated, or in a passage that is computed."""
    text = one_line(without_generated(without_code(PAGES[page])))
    for passage in docs_claims.CLAIMS.get(page, list)():
        text = text.replace(one_line(passage), "")
    number = r"[-+]?\d+\.\d+"
    assert not re.findall(rf"\[{number}, {number}\]|{number} points", text)


def hypotheses_with(verdicts):
    """Return a table of hypotheses with these verdicts; each difference is -1 [-2, -0.5]."""
    names = [name for pair in docs_study.GROUPS.values() for name in pair]
    names += ["d-languages", "d-translation"]
    rows = [
        {"name": name, "difference": -1.0, "low": -2.0, "high": -0.5, "verdict": verdict}
        for name, verdict in zip(names, verdicts, strict=True)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("verdicts", "outcome", "teacher"),
    [
        (["holds"] * 8, "beats fine-tuning and LoRA here", "The teacher helps, in both"),
        (
            ["holds", "holds", "open", "holds", "holds", "open", "holds", "open"],
            "not shown to beat LoRA in both",
            "The teacher helps in-domain alone.",
        ),
        (
            ["open", "contradicted", "open", "open", "open", "contradicted", "holds", "holds"],
            "not shown to beat fine-tuning or LoRA in both",
            "The teacher is not shown to help.",
        ),
        (["incomplete"] * 8, "No verdict yet: ", "Nor on the teacher's part."),
    ],
)
def test_the_sentences_say_what_the_verdicts_say(verdicts, outcome, teacher, monkeypatch):
    read = docs_study.read
    table = hypotheses_with(verdicts)
    monkeypatch.setattr(
        docs_study, "read", lambda name: table if name == "hypotheses" else read(name)
    )
    first, second, third, fourth = docs_study.sentences().splitlines()
    assert outcome in first and teacher in second and "switched off" in fourth
    assert "against experts without gates" in third
    if "incomplete" in verdicts:
        assert "(" not in first + second
    else:
        assert f"({verdicts[0]})" in first and f"({verdicts[4]})" in second


@pytest.mark.parametrize(
    ("low", "high", "title"),
    [(0.1, 2.0, "Gates cost errors"), (-0.1, 2.0, "What gates cost is not decided")],
)
def test_what_gates_cost_is_said_by_its_intervals(low, high, title, monkeypatch):
    first, other = docs_study.GATES["with the teacher"]
    row = {"first": first, "other": other, "difference": 1.0, "low": low, "high": high}
    table = pd.DataFrame([row | {"test": test} for test in docs_study.DOMAINS])
    monkeypatch.setattr(docs_study, "read", lambda name: table)
    (line,) = docs_study._cost_of_gates()
    assert f"**{title}** (exploratory)" in line
    monkeypatch.setattr(docs_study, "read", lambda name: table[:1])
    assert docs_study._cost_of_gates() == []


@pytest.mark.parametrize(
    ("toy", "real", "said"),
    [
        ((0.1, 1.0), (0.2, 2.0), "alike"),
        ((-1.0, -0.1), (0.2, 2.0), "**contrary**"),
        ((-1.0, 0.1), (-0.2, 2.0), "both open"),
        ((0.1, 1.0), (-0.2, 2.0), "decided at toy alone"),
        ((-0.1, 1.0), (0.2, 2.0), "decided with real speech alone"),
    ],
)
def test_two_worlds_agree_where_both_have_decided_alike(toy, real, said):
    rows = [
        pd.Series({"difference": sum(ends) / 2, "low": ends[0], "high": ends[1]})
        for ends in (toy, real)
    ]
    assert docs_toy._agreement(*rows) == said


def difference_rows(pairs, **about):
    """Return rows of a table of differences in both domains, each -1 [-2, -0.5]."""
    found = {"difference": -1.0, "low": -2.0, "high": -0.5, "trainings": 4}
    return [
        {"first": first, "other": other, "test": test, **found, **about}
        for first, other in pairs
        for test in docs_study.DOMAINS
    ]


def test_the_headline_compares_within_the_folds_that_all_have(monkeypatch):
    rates = {"wer_low": 1.0, "wer_high": 99.0}
    rows = [
        {"system": system, "test": test, "fold": fold, "wer": wer, **rates}
        for system in docs_study.HEADLINE
        for test in docs_study.DOMAINS
        for fold, wer in ((None, 50.0), ("font_small", 60.0), ("font_big", 40.0))
    ]
    table = pd.DataFrame(rows)
    partly = table[(table["system"] != "lora") | (table["fold"] != "font_big")]
    for shown, wer in ((table, "50.0"), (partly, "60.0")):
        monkeypatch.setattr(docs_study, "read", lambda name, shown=shown: shown)
        lines = docs_study.headline().splitlines()[2:]
        assert len(lines) == 5 and all(f"| {wer} [1.0, 99.0] |" in line for line in lines)


def test_causes_are_shown_beside_the_whole_study(monkeypatch):
    changed = [
        *difference_rows(docs_study.AGAINST, change="50 clips"),
        *difference_rows([("distilwhisper", docs_study.UNCHANGED)], change="KL"),
    ]
    tables = {
        "causes": pd.DataFrame(changed),
        "pairs": pd.DataFrame(difference_rows(docs_study.AGAINST)),
    }
    monkeypatch.setattr(docs_study, "read", tables.get)
    clips = docs_study.fewer_clips().splitlines()
    assert [line.split(" | ")[0] for line in clips[2:]] == ["| 50 clips", "| all clips"]
    assert all(line.split(" | ")[1] == "4" for line in clips[2:])
    assert clips[2].count("**-1.0 [-2.0, -0.5]**") == 6
    losses = docs_study.other_losses().splitlines()
    assert losses[2:] == ["| KL | 4 | **-1.0 [-2.0, -0.5]** | **-1.0 [-2.0, -0.5]** |"]


def test_rates_with_fewer_clips_stand_beside_the_student_of_their_folds(monkeypatch):
    shown = ("fine-tuning", "lora", "experts", "distilwhisper")
    changed = [
        {"change": change, "first": name, "other": docs_study.UNCHANGED, "test": test, "wer": wer}
        for change, wer in (("50 clips", 70.0), ("100 clips", 60.0))
        for name in shown
        for test in docs_study.DOMAINS
    ]
    whole = [
        {"system": name, "test": test, "fold": fold, "wer": wer}
        for fold, wer in ((None, 50.0), (docs_study.VOICES[0], 55.0))
        for name in ("student", *shown)
        for test in docs_study.DOMAINS
    ]
    tables = {"causes": pd.DataFrame(changed), "systems": pd.DataFrame(whole)}
    cells = [("50 clips", voice) for voice in docs_study.VOICES]
    cells.append(("100 clips", docs_study.VOICES[0]))
    records = [{"cell": {"label": label, "voice": voice}} for label, voice in cells]
    monkeypatch.setattr(docs_study, "read", tables.get)
    monkeypatch.setattr(docs_study, "records", lambda: records)
    lines = docs_study.fewer_clips_rates().splitlines()[2:]
    assert lines[0] == "| 50 clips, in-domain | 50.0 | 70.0 | 70.0 | 70.0 | 70.0 |"
    assert lines[2] == "| 100 clips, in-domain | 55.0 | 60.0 | 60.0 | 60.0 | 60.0 |"
    assert lines[-1] == "| all clips, out-of-domain | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 |"


def test_the_answer_names_what_is_decided_of_causes(monkeypatch):
    open_row = {"low": -2.0, "high": 0.5}
    changed = pd.DataFrame(
        [
            *difference_rows([("distilwhisper", "experts")], change="50 clips"),
            *(
                {**row, **open_row}
                for row in difference_rows(docs_study.AGAINST, change="100 clips")
            ),
            *difference_rows([("distilwhisper", docs_study.UNCHANGED)], change="KL"),
            *difference_rows([("experts", docs_study.UNCHANGED)], change="50 clips"),
        ]
    )
    whole = pd.DataFrame(difference_rows([("distilwhisper", "experts")]))
    whole["difference"] = -0.5
    tables = {"causes": changed, "pairs": whole}
    monkeypatch.setattr(docs_study, "read", tables.get)
    clips, growth, at_toy, losses = docs_study.causes_answer().splitlines()
    assert (
        "toy languages" in at_toy and "24 clips in-domain, 24 clips out-of-domain; above" in at_toy
    )
    assert growth.startswith("- **It does not help steadily more**, in as many steps, with all cl")
    tables["causes"] = changed.assign(
        difference=[-2.0 if change == "50 clips" else -1.0 for change in changed["change"]]
    )
    assert docs_study.causes_answer().splitlines()[1] == (
        "- **The fewer clips, the more it helps**, in as many steps, with all clips, 100 clips, "
        "50 clips: in-domain -0.5, -1.0, -2.0; out-of-domain -0.5, -1.0, -2.0 points."
    )
    tables["causes"] = changed
    assert "below 0: 50 clips in-domain, 50 clips out-of-domain; " in clips
    assert clips.endswith("above 0: nowhere.")
    assert losses == "- **Another loss**: better: KL in-domain, KL out-of-domain."

    is_loss = changed["change"] == "KL"
    changed.loc[is_loss, ["difference", "low", "high"]] = [1.0, 0.5, 2.0]
    assert "worse: KL in-domain, KL out" in docs_study.causes_answer()
    changed.loc[is_loss, "low"] = -0.5
    assert "none is decided to be better or worse." in docs_study.causes_answer()


def test_the_ceiling_is_the_teachers(monkeypatch):
    rows = [
        {"system": system, "test": test, "fold": fold, "wer": wer}
        for system, wer in (("teacher", 40.0), ("distilwhisper", 52.5))
        for test in docs_study.DOMAINS
        for fold in (None, docs_study.VOICES[0])
    ]
    monkeypatch.setattr(docs_study, "read", lambda name: pd.DataFrame(rows))
    assert "in-domain 40.0 %, 12.5 points below our variant;" in docs_study.ceiling()


def test_the_curve_has_a_row_for_each_strength(monkeypatch):
    rates = {"wer": 50.0, "wer_low": 45.0, "wer_high": 55.0}
    rows = [
        {"system": system, "strength": strength, "test": test, **rates}
        for system, strength in (("student", 0.0), ("lora", 0.5), ("lora", 1.0))
        for test in (docs_study.TARGET, docs_study.OTHERS)
    ]
    monkeypatch.setattr(docs_study, "read", lambda name: pd.DataFrame(rows))
    lines = docs_study.curve().splitlines()
    assert lines[3] == "| LoRA | 0.5 | 50.0 [45.0, 55.0] | 50.0 [45.0, 55.0] |"
    assert len(lines) == 5


def test_what_is_not_computed_is_said(monkeypatch):
    monkeypatch.setattr(docs_study, "read", lambda name: pd.DataFrame())
    for part in (
        docs_study.causes_answer,
        docs_study.ceiling,
        docs_study.fewer_clips_rates,
        docs_study.fewer_clips,
        docs_study.other_losses,
        docs_study.curve,
    ):
        assert part() == docs_study.NOT_YET


def test_differences_from_predictions_are_the_stored_ones():
    for row in stored_results.read("paired").to_dict("records"):
        found = stored_results.by_room(row["first"], row["other"], row["test_set"])
        for name in ("difference", "low", "high", "p"):
            assert found[name] == pytest.approx(row[name], abs=1e-3)


def test_numbers_are_worded_with_sign_and_verdict():
    found = {"difference": -0.04, "low": -2.0, "high": 1.96}
    assert stored_results.stated(found) == "0.0 [-2.0, +2.0], not decided"
    assert stored_results.verdict({"low": 0.0, "high": 1.0}) == "not decided"
    assert docs_claims.tenths(-4.85) == "4.9"


def test_minutes_stand_behind_each_notebook(tmp_path):
    (tmp_path / "timing.json").write_text(json.dumps({"01_baseline_gap": 330}))
    text = readme_results.fill_minutes(PAGES["README.md"], tmp_path)
    assert re.search(r"^- \[01 .* \(5\.5 min\)$", text, flags=re.M)
    assert re.search(r"^- \[02 .* \(– min\)$", text, flags=re.M)


def test_missing_marks_are_told():
    with pytest.raises(ValueError, match="one pair of comments <!-- results"):
        readme_results.fill("no marks", "results", "")


# ---- pictures


def test_pictures_of_the_docs_are_drawn_from_the_stored_tables(tmp_path, capsys):
    from PIL import Image

    docs_figures.main(tmp_path)
    for name in docs_figures.DRAWN:
        for folder in (tmp_path, docs_figures.FIGURES):
            with Image.open(folder / f"{name}.png") as picture:
                assert picture.text["Description"] == docs_figures.fingerprint(name), (
                    f"run .venv/bin/python tools/docs_figures.py ({name}.png)"
                )


def test_architecture_is_drawn(tmp_path):
    draw_architecture.main(tmp_path)
    names = {"architecture.png", "architecture.svg", "block.png", "losses.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all((draw_architecture.FIGURES / path.name).is_file() for path in tmp_path.iterdir())


# ---- examples


def example(page: str, name: str) -> str:
    pattern = rf"<!-- example: {name} -->\n```python\n(.*?)```"
    return re.search(pattern, PAGES[page], re.S)[1]


def run_example(
    page: str, name: str, *changes: tuple[str, str], variables: dict | None = None
) -> dict:
    """Run an example of a page with words replaced, after what made `variables`; returns them."""
    code = example(page, name)
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    variables = {} if variables is None else variables
    exec(compile(code, f"{page}, example {name}", "exec"), variables)
    return variables


def write_speech(path: Path, seconds: float = 1.0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = 0.1 * np.random.default_rng(0).standard_normal(int(8000 * seconds))
    soundfile.write(path, sound, 8000)
    return path.name


def write_recordings(folder: Path) -> None:
    """Write eight made-up recordings with their table."""
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    rows = []
    for number, split in enumerate(splits):
        name = write_speech(folder / f"{number}.wav", 0.5 + number / 10)
        rows.append({"path": name, "text": f"jó {number}", "split": split})
    pd.DataFrame(rows).to_csv(folder / "recordings.csv", index=False)


@each_page
def test_examples_import_names_that_exist(page):
    for block in re.findall(r"```python\n(.*?)```", PAGES[page], flags=re.S):
        imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
        ours = [node for node in imports if node.module == "distilwhisper_lib"]
        names = [alias.name for node in ours for alias in node.names]
        missing = [name for name in names if not hasattr(distilwhisper_lib, name)]
        assert not missing, f"{page}: {missing}"


def test_library_of_the_front_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variables = run_example("README.md", "library", ("openai/whisper-base", "tiny"))
    assert distilwhisper_lib.expert_languages(variables["model"]) == ["cs", "ca"]


def test_experts_from_a_plain_whisper_to_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_speech(tmp_path / "recording.wav")
    variables = run_example("docs/library.md", "experts", ("openai/whisper-base", "tiny"))
    assert isinstance(variables["text"][0], str)
    assert (tmp_path / "my-experts" / "experts.ca.safetensors").is_file()


# The recipes of docs/own-program.md, and what each must leave in its folder.
OWN_PROGRAM = "docs/own-program.md"
RECIPES = {
    "transcribe": [],
    "pipeline": [],
    "server": [],
    "batch": [],
    "trainer": ["training/checkpoint-2/experts.nl.safetensors"],
    "peft": ["my-adapter/adapter_model.safetensors"],
    "save": ["my-whisper/model.safetensors", "my-whisper/experts.cs.safetensors"],
    "hub": [],
}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The variables after the beginning of docs/own-program.md, in a folder with its files.

    "openai/whisper-base" is the tiny Whisper there, so that each recipe runs as it stands.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "find_weights", lambda name: loading.Source(str(name), "tiny"))
    write_speech(tmp_path / "recording.wav")
    model = load_whisper("openai/whisper-base")
    save_experts(shake_experts(attach_experts(model, ["cs", "ca"])), "my-experts")
    return run_example(OWN_PROGRAM, "begin")


def test_every_recipe_is_run():
    assert re.findall(r"<!-- example: (\w+) -->", PAGES[OWN_PROGRAM]) == ["begin", *RECIPES]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_runs_as_it_stands(recipe, program, tmp_path, capsys):
    with hub_stand_in(tmp_path / "hub") as hub:
        hub.log_in("user")
        run_example(OWN_PROGRAM, recipe, variables=program)
    assert all(Path(file).is_file() for file in RECIPES[recipe])
    assert capsys.readouterr().out or "print(" not in example(OWN_PROGRAM, recipe)


def test_page_lists_all_public_names():
    listed = PAGES[OWN_PROGRAM].partition("## Public names")[2]
    names = re.findall(r"`(\w+)`", without_code(listed))
    assert sorted({name for name in names if name in distilwhisper_lib.__all__}) == sorted(
        distilwhisper_lib.__all__
    )


def at_smoke(monkeypatch) -> None:
    """Make examples at the preset laptop run at smoke."""
    monkeypatch.setitem(PRESETS, "laptop", PRESETS["smoke"])


def test_laboratory_runs(monkeypatch, capsys):
    at_smoke(monkeypatch)
    variables = run_example("docs/library.md", "lab")
    assert variables["folder"].is_dir() and len(variables["table"])


def test_own_language_runs(monkeypatch, capsys):
    at_smoke(monkeypatch)
    variables = run_example("docs/your-own-language.md", "language")
    assert variables["lab"].preset.language == "nl"
    assert capsys.readouterr().out.count("'wer'") == 3


@pytest.mark.parametrize(
    "page, name", [("README.md", "own-language"), ("docs/your-own-language.md", "recordings")]
)
def test_own_recordings_run(page, name, tmp_path, monkeypatch, capsys):
    at_smoke(monkeypatch)
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    write_recordings(tmp_path / "recordings" / "hu")
    lab = run_example(page, name, ("openai/whisper-small", "tiny"))["lab"]
    assert (lab.train("distilwhisper") / "model" / "experts.hu.safetensors").is_file()
    assert capsys.readouterr().out.count("'wer'") == 2


def test_deployed_language_is_a_plain_whisper_for_faster_whisper(tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2")
    at_smoke(monkeypatch)
    folder = tmp_path / "out"
    found = run_example("docs/deployment.md", "deploy", ('"whisper-base-cs"', f'"{folder}"'))
    assert not hasattr(found["plain"].model.encoder.layers[0].fc1, "experts")
    assert (folder / "model.bin").is_file() and (folder / "tokenizer.json").is_file()
