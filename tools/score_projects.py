"""Score the final projects of a class on a test that only the teacher has (docs/teach/project.md).

    .venv/bin/python tools/score_projects.py --language hu --test ../kept/hu --out ../scores \\
        --handed-in ../projects

--test is a folder with recordings.csv and its sounds. --handed-in has a folder for each system,
such as anna-lora: in it the folder `model` of the training (experts, a LoRA adapter, or a whole
Whisper) and recordings.csv, the table that was trained on. Without --handed-in the test is checked
and plain Whisper is scored.

What each model has written is kept in --out, one table a system, and scores.csv with all scores. A
stopped call goes on where it was.
"""

import argparse
from pathlib import Path

import pandas as pd
import pyarrow as pa
from datasets import Dataset
from peft import PeftModel

from distilwhisper_lib import (
    Clips,
    Collator,
    count_errors,
    load_experts,
    load_processor,
    load_whisper,
    normalise,
    paired_difference,
    set_language,
    short_hash,
    summarise,
    transcribe,
)
from distilwhisper_lib.data.corpora.items import fingerprint, read_rows
from distilwhisper_lib.data.corpora.recorded import TABLE, read_recordings
from distilwhisper_lib.data.corpora.registry import FEATURES
from distilwhisper_lib.data.corpora.shards import RULES
from distilwhisper_lib.files import atomic_file, file_sha256
from distilwhisper_lib.presets import PRESETS, Preset, get_preset
from distilwhisper_lib.programs import run_program
from distilwhisper_lib.whisper.tokens import language_code

PLAIN = "plain Whisper"
FEWEST = 30  # clips of a test, below which the tool warns: intervals would be very wide


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--language", required=True, help="code or name, such as hu")
    parser.add_argument("--test", required=True, type=Path, help="folder with recordings.csv")
    parser.add_argument("--handed-in", type=Path, help="folder with a folder for each system")
    parser.add_argument("--out", required=True, type=Path, help="folder of the scores")
    parser.add_argument(
        "--preset",
        default="laptop",
        choices=sorted(PRESETS),
        help="whose student was trained, with its window (default: laptop)",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Score what was handed in, and print the table."""
    options = parse_arguments(arguments)
    preset = get_preset(options.preset)
    language = language_code(options.language)
    handed_in = folders_of_systems(options.handed_in)

    rows = read_test(options.test, language)
    shared = {folder: shared_texts(folder, language, rows) for folder in handed_in}
    for folder in handed_in:
        kind_of(folder / "model")  # before hours of transcribing
    mark = fingerprint(rows)
    words = int(count_errors([row["text"] for row in rows], [""] * len(rows))["words"].sum())
    print(f"test: {len(rows)} clips, {words} words, fingerprint {mark}", flush=True)

    processor = load_processor(preset.student)
    sounds = Dataset(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema))
    clips = Clips(sounds, processor, language)
    test = KeptTest(clips, processor.tokenizer, preset, language, options.out, mark)

    plain = test.counts(load_whisper(preset.student), PLAIN, preset.student)
    scores = [score_row(PLAIN, plain, plain, mark, 0)]
    for folder in handed_in:
        model = load_model(folder / "model", preset, language)
        counts = test.counts(model, folder.name, contents_of(folder / "model"))
        scores.append(score_row(folder.name, counts, plain, mark, shared[folder]))

    table = pd.DataFrame(scores)
    with atomic_file(options.out / "scores.csv") as path:
        table.to_csv(path, index=False)
    shown = table.drop(columns="fingerprint").round(1)
    print(shown.to_string(index=False))
    for row in scores:
        if row["shared texts"]:
            print(f"{row['system']}: {row['shared texts']} texts of the test were trained on")


# ---- the test


def read_test(folder: Path, language: str) -> list[dict]:
    """Return the rows of the kept test, all of its clips, whatever their split.

    Raises:
        FileNotFoundError: Where there is no table.
        ValueError: Where a clip cannot be used: the test must be the same for everybody.
    """
    reading = read_recordings("recordings", language, folder)
    rows, dropped, problems = read_rows(reading.items, "test", RULES)
    wrong = [f"{name} ({reason})" for reason, names in dropped.items() for name in names]
    wrong += reading.flaws
    if wrong:
        detail = "; ".join(str(problem) for problem in problems.values())
        raise ValueError(
            f"{folder}: {len(wrong)} clips of the test cannot be used: {', '.join(wrong[:3])} "
            f"{detail}: mend or remove their rows"
        )
    if len(rows) < FEWEST:
        print(f"only {len(rows)} clips: with fewer than {FEWEST} hardly anything is decided")
    return rows


class KeptTest:
    """The kept test: transcribes a model once, and keeps what it wrote.

    Args:
        clips: Of the test.
        tokenizer: Of the student.
        preset: Its window and decoding.
        language: Code.
        out: Folder of the predictions.
        mark: Fingerprint of the test.
    """

    def __init__(self, clips: Clips, tokenizer, preset: Preset, language: str, out: Path, mark):
        self._clips = clips
        self._collator = Collator(tokenizer, preset.margin_seconds)
        self._preset = preset
        self._language = language
        self._out = out
        self._mark = mark

    def counts(self, model, name: str, contents: str) -> pd.DataFrame:
        """Return the errors of a model; its name and contents are part of the table's name."""
        known_by = short_hash([contents, self._mark, self._preset.margin_seconds])
        path = self._out / f"{name.replace(' ', '-')}-{known_by}.csv"
        said = transcribe(
            model, self._clips, self._collator, self._preset, path, self._language, label=name
        )
        found = count_errors(self._clips.texts, list(said["prediction"]), self._preset.normaliser)
        return found


def score_row(name: str, counts, plain, mark: str, shared: int) -> dict:
    """Return a row of the table: WER with its interval, and the difference to plain Whisper."""
    found = summarise(counts)
    row = {"system": name} | {key: found[key] for key in ("n", "wer", "wer_low", "wer_high")}
    versus = paired_difference(counts, plain)
    row |= {key: versus[key] for key in ("difference", "low", "high")}
    return row | {"loops": found["loops"], "shared texts": shared, "fingerprint": mark}


# ---- what was handed in


def folders_of_systems(folder: Path | None) -> list[Path]:
    """Return the folders of the systems, by name.

    Raises:
        FileNotFoundError: Where the folder is missing or empty.
    """
    if folder is None:
        return []
    if not folder.is_dir():
        raise FileNotFoundError(f"--handed-in: there is no folder {folder}")
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    if not found:
        raise FileNotFoundError(f"--handed-in: {folder} has no folder in it")
    return found


# The file that tells what a folder `model` is, and its weights.
KINDS = {
    "experts.json": "experts.*.safetensors",
    "adapter_config.json": "adapter_model.safetensors",
    "config.json": "model.safetensors",
}


def kind_of(folder: Path) -> str:
    """Return the file that tells what was handed in.

    Raises:
        FileNotFoundError: Where this file, or the weights, are missing.
    """
    for name, weights in KINDS.items():
        if (folder / name).is_file():
            if not list(folder.glob(weights)):
                raise FileNotFoundError(f"{folder}: {weights} is missing")
            return name
    raise FileNotFoundError(
        f"{folder} holds none of {', '.join(KINDS)}: hand in the folder `model` of the training, "
        "with all its files"
    )


def load_model(folder: Path, preset: Preset, language: str):
    """Return a model that was handed in, ready to transcribe. Nothing in it is unpickled."""
    kind = kind_of(folder)
    if kind == "config.json":
        return load_whisper(folder)
    student = load_whisper(preset.student)
    if kind == "adapter_config.json":
        return PeftModel.from_pretrained(student, str(folder)).eval()
    model = load_experts(student, folder, [language]).eval()
    set_language(model, language)
    return model


def contents_of(folder: Path) -> str:
    """Return a hash of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return short_hash([[path.name, file_sha256(path)] for path in files])


def shared_texts(folder: Path, language: str, rows: list[dict]) -> int:
    """Return how many texts of the test are in the table trained on, normalised.

    Raises:
        FileNotFoundError: Where the table is missing.
    """
    path = folder / TABLE
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: {TABLE} is missing: hand in the table of your clips")
    trained_on = read_recordings("recordings", language, path).items
    known = {normalise(item.text) for item in trained_on}
    return sum(normalise(row["text"]) in known for row in rows)


if __name__ == "__main__":
    run_program(main)
