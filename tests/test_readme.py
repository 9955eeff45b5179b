"""README and CONTRIBUTING say what is so: commands, links, examples that run, generated parts up to date."""

import json
import re
import sys
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pandas as pd
import pytest
import soundfile
from distilwhisper_lib.training.systems import EVERY, SYSTEMS

from distilwhisper_lib.presets import results_dir

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import draw_architecture  # noqa: E402
import readme_results  # noqa: E402

README, CONTRIBUTING = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")
)
TEXTS = {"README.md": README, "CONTRIBUTING.md": CONTRIBUTING}
HOSTS = {"arxiv.org"}  # all that the two files may link to
STALE = "run .venv/bin/python tools/readme_results.py"


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.S)


def anchors(text: str) -> set[str]:
    """Return the addresses of a file's headings, as Markdown viewers make them."""
    titles = re.findall(r"^#+ (.*)$", without_code(text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def example(name: str) -> str:
    return re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", README, re.S)[1]


def run_example(name: str, *changes: tuple[str, str]) -> dict:
    """Run an example of README with words replaced; returns its variables."""
    code = example(name)
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    variables: dict = {}
    exec(compile(code, f"README.md, example {name}", "exec"), variables)
    return variables


def write_speech(path: Path, seconds: float = 1.0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(int(8000 * seconds)), 8000)
    return str(path)


def test_commands_of_the_readme_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README + CONTRIBUTING, flags=re.M))
    assert {"course", "test"} <= named <= targets
    assert "```sh\nmake test\n```" in README and "\nmake course\n```" in README


def test_every_link_and_picture_exists():
    for name, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)]+)\)", without_code(text)):
            if target.startswith("http"):
                continue
            path, _, anchor = target.partition("#")
            assert not path or (ROOT / path).exists(), (
                f"{name} links to {path}, which does not exist"
            )
            assert not anchor or anchor in anchors(text), (
                f"{name} links to #{anchor}, which is no heading"
            )


def test_every_file_that_is_named_exists():
    for name, text in TEXTS.items():
        for path in re.findall(r"\b(?:tools|tests|notebooks|distilwhisper_lib)/[\w/]+\.\w+", text):
            assert (ROOT / path).exists() or "NN" in path, (
                f"{name} names {path}, which does not exist"
            )


def test_links_lead_to_the_paper_only():
    """No package registry, and nothing that may go away."""
    for name, text in TEXTS.items():
        hosts = {urlparse(url).hostname for url in re.findall(r"https?://[^\s)\"'`>]+", text)}
        assert hosts <= HOSTS, f"{name} links to {hosts - HOSTS}"


def test_every_notebook_has_its_row_and_its_solutions():
    stems = [path.stem for path in sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))]
    assert re.findall(r"^\| \[\d\d\]\(notebooks/(\w+)\.ipynb\)", README, flags=re.M) == stems
    assert re.findall(r"\(notebooks/solutions/(\w+)_solutions\.ipynb\)", README) == stems


def test_generated_parts_are_up_to_date():
    assert readme_results.readme(README) == README, STALE
    assert readme_results.contributing(CONTRIBUTING) == CONTRIBUTING, STALE


def test_map_of_the_code_names_every_module_and_imports_go_one_way():
    table = re.search(r"<!-- modules:.*?<!-- /modules -->", CONTRIBUTING, re.S)[0]
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| ([\w., –]+) \|$", table, flags=re.M)
    files = {readme_results.module_name(path) for path in readme_results.LIBRARY.rglob("*.py")} - {
        "__init__"
    }
    assert {name for name, _ in rows} == files and len(rows) == len(files), STALE
    before: set[str] = set()
    for name, imports in rows:
        assert set(re.findall(r"[\w.]+", imports)) <= before, f"{name} imports from below"
        before.add(name)


def test_circular_imports_are_told():
    with pytest.raises(ValueError, match="circle among a, b"):
        readme_results.in_order({"a": ["b"], "b": ["a"], "c": []})


def test_colours_in_the_style_guide_are_those_of_the_systems():
    rows = re.findall(r"^ *\| `([\w-]+)` \| (.+) \| `(#\w{6})` \|$", CONTRIBUTING, flags=re.M)
    assert rows == [(system.name, system.label, system.colour) for system in EVERY.values()]


def test_variables_of_the_readme_are_those_of_the_code():
    code = "".join(
        path.read_text()
        for folder in ("distilwhisper_lib", "notebooks", "notebooks/source")
        for path in (ROOT / folder).rglob("*.py")
    )
    assert set(re.findall(r"LAB_[A-Z]+", README)) == set(re.findall(r"LAB_[A-Z]+", code))


def test_library_in_20_lines_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_speech(tmp_path / "recording.wav")
    lines = [line for line in example("library").splitlines() if line]
    assert (
        len([line for line in lines if not line.startswith(" " * 8)]) <= 20
    )  # a continuation is no line
    variables = run_example("library", ("openai/whisper-base", "tiny"))
    assert isinstance(variables["text"][0], str)
    assert (tmp_path / "my-experts" / "experts.ca.safetensors").is_file()


def test_own_language_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_PRESET", "smoke")
    variables = run_example("language")
    assert variables["lab"].preset.language == "nl"
    assert capsys.readouterr().out.count("'wer'") == 3


def test_own_recordings_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_PRESET", "smoke")
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    folder = tmp_path / "recordings" / "hu"
    folder.mkdir(parents=True)
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    rows = [
        {
            "path": Path(write_speech(folder / f"{i}.wav", 0.5 + i / 10)).name,
            "text": f"jó {i}",
            "split": split,
        }
        for i, split in enumerate(splits)
    ]
    pd.DataFrame(rows).to_csv(folder / "recordings.csv", index=False)
    lab = run_example("recordings", ("openai/whisper-small", "tiny"))["lab"]
    assert (lab.train("distilwhisper") / "model" / "experts.hu.safetensors").is_file()
    assert capsys.readouterr().out.count("'wer'") == 2


def test_the_deployed_language_is_a_plain_whisper_for_faster_whisper(tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2")
    monkeypatch.setenv("LAB_PRESET", "smoke")
    found = run_example("deploy", ('"whisper-base-cs")  ', f'"{tmp_path / "out"}")  '))
    assert not hasattr(found["plain"].model.encoder.layers[0].fc1, "experts")
    assert (tmp_path / "out" / "model.bin").is_file() and (
        tmp_path / "out" / "tokenizer.json"
    ).is_file()


def fake_reference(folder: Path) -> Path:
    """Write a made-up reference run, with one system missing from retention."""
    folder.mkdir(parents=True)
    rows = [
        {
            "system": name,
            "language": "cs",
            "test_set": test,
            "wer": 50.0 + i,
            "wer_low": 48.0,
            "wer_high": 53.0,
            "cer": 20.0,
            "cer_low": 19.0,
            "cer_high": 22.0,
            "loops": 1.0,
            "normaliser": "whisper-basic",
        }
        for i, name in enumerate(SYSTEMS)
        for test in ("in-domain", "out-of-domain")
    ]
    rows += [
        {
            "system": "student",
            "language": "nl",
            "test_set": "retention",
            "wer": 70.0,
            "wer_low": 68.0,
            "wer_high": 73.0,
        }
    ]
    pd.DataFrame(rows).to_csv(folder / "comparison.csv", index=False)
    pd.DataFrame(
        [
            {
                "first": "distilwhisper",
                "other": "lora",
                "test_set": "in-domain",
                "difference": -2.0,
                "low": -3.0,
                "high": -1.0,
            }
        ]
    ).to_csv(folder / "paired.csv", index=False)
    record = {
        "preset": {"language": "cs"},
        "commit": "0123456789abcdef",
        "versions": {"torch": "2.13.0"},
        "machine": {"gpu": None, "processor": "a processor", "cores": 2, "precision": "bf16"},
        "steps": [{"step": "train", "seconds": 600, "peak_memory_gb": 3.5}],
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "timing.json").write_text(json.dumps({"01_baseline_gap": 330}))
    (folder / "figures").mkdir()
    (folder / "figures" / "comparison.png").write_bytes(b"")
    return folder


def test_results_are_filled_in(tmp_path, monkeypatch):
    monkeypatch.setattr(readme_results, "ROOT", tmp_path)
    folder = fake_reference(tmp_path / "results" / "reference" / "laptop")
    text = readme_results.readme(README, folder)
    assert (
        "| Fine-tuning | 52.0 [48.0, 53.0] | 20.0 [19.0, 22.0] | 1.0 |" in text
        and "nan" not in text.split("## The two")[0]
    )
    assert "| LoRA | in-domain | -2.0 [-3.0, -1.0] | yes |" in text
    assert (
        "in 10 minutes of training and transcribing, at most 3.5 GB of memory in a process, commit `0123456789`"
        in text
    )
    assert "](results/reference/laptop/figures/comparison.png)" in text
    assert (
        re.search(r"^\| \[01\].*\| 5\.5 \|$", text, flags=re.M)
        and readme_results.readme(text, folder) == text
    )
    assert readme_results.ABSENT not in text


def test_absent_reference_is_told(tmp_path):
    assert readme_results.ABSENT in readme_results.readme(README, tmp_path)
    assert results_dir("laptop").name == "laptop"  # where ABSENT sends the reader


def test_missing_marks_are_told():
    with pytest.raises(ValueError, match="one pair of comments <!-- results"):
        readme_results.fill("no marks", "results", "")


def test_architecture_is_drawn(tmp_path):
    draw_architecture.main(tmp_path)
    assert (tmp_path / "architecture.svg").stat().st_size > 20_000
    from PIL import Image

    sizes = []
    for folder in (tmp_path, draw_architecture.FIGURES):
        with Image.open(folder / "architecture.png") as picture:
            sizes.append(picture.size)
    assert sizes == [(1800, 1460)] * 2
