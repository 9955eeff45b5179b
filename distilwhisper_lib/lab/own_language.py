"""Experts for recordings of one's own: the laboratory, doubtful clips, tokens, more data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..checks import check_list, check_number
from ..data.batches import Clips
from ..data.corpora.loading import load_corpus
from ..device import use_precision
from ..evaluation.likelihood import text_losses
from ..evaluation.scoring import in_characters, main_rate
from ..evaluation.statistics import difference_or_nan
from ..files import (
    cache_dir,
    check_writable,
    one_at_a_time,
    read_json,
    short_hash,
    tell,
    write_json,
)
from ..presets import Preset, get_preset
from ..training.methods import Weights, get_method
from ..whisper.loading import SHIPPED
from ..whisper.tokens import language_code, language_codes
from .comparison import counts, score
from .lab import Lab

SPLITS = ("train", "validation", "test")


def open_recordings(
    source: str | Path, language: str, preset: str | Preset | None = None, **changes
) -> Lab:
    """Return a laboratory for a folder of recordings, as the command line opens it.

    Both find what the other has computed. The recordings are prepared where they are new or have
    changed.

    Args:
        source: A folder with recordings.csv, or with a folder of the language that has it; or the
            table.
        language: Code or name: of the token that Whisper is given.
        preset: A preset or its name; None: the one that LAB_PRESET names.
        changes: Fields of the preset with other values. In a script without spaces the normaliser
            is one that keeps its marks, unless another is given.

    Raises:
        FileNotFoundError: Where there is no table.
        ValueError: For an unknown language, preset or field, or a table that cannot be read.
    """
    code = language_code(language)
    base = preset if isinstance(preset, Preset) else get_preset(preset)
    load_corpus("recordings", code, source)
    folder = Path(source).expanduser().absolute()
    if base.student in SHIPPED and not folder.is_relative_to(cache_dir().absolute()):
        tell(
            f"the student of the preset {base.name} knows made-up languages alone: for speech of "
            "people give the preset laptop"
        )
    own = {
        "corpus": "recordings",
        "recordings": str(folder),
        "language": code,
        "name": f"{base.name}-recordings-{code}",
    }
    # A name is fitted to the card's memory, a preset that is given whole is left as it is
    return Lab(preset if isinstance(preset, Preset) else base.name, **own | changes)


# ---- losses of texts


def doubtful_clips(lab: Lab, splits: tuple[str, ...] = SPLITS) -> pd.DataFrame:
    """Return the clips whose text may not be what is said, the most doubtful first.

    Plain Whisper, the student, is given each text twice: with its sound, and with silence of the
    same length. What hearing adds is the difference of both losses. A text that the sound does not
    say gains little by it, or loses.

    Args:
        lab: With the clips.
        splits: Those that are looked at.

    Returns:
        A row per clip: id, split, speaker, duration, text, tokens; loss, with the sound, and gain,
        both in nats a token. The rows are sorted by gain, the smallest first.

    Raises:
        ValueError: For an unknown or empty split.
    """
    tables = []
    for split in check_list("splits", splits):
        clips = lab.clips(split)
        heard = _kept_losses(lab, clips, [lab.preset.language])
        silent = Clips(clips.rows, lab.processor, lab.preset.language, change=_silence)
        unheard = _kept_losses(lab, silent, [lab.preset.language], "silence")
        about = {
            "id": clips.ids,
            "split": split,
            "speaker": list(clips.rows["speaker"]),
            "duration": clips.durations,
            "text": clips.texts,
            "tokens": heard["tokens"],
            "loss": heard["loss"] / heard["tokens"],
            "gain": (unheard["loss"] - heard["loss"]) / heard["tokens"],
        }
        tables.append(pd.DataFrame(about))
    return pd.concat(tables).sort_values("gain", kind="stable", ignore_index=True)


def _silence(audio: np.ndarray, seed: int) -> np.ndarray:
    """Return silence (n,) in place of a sound; `seed` is not used."""
    return np.zeros_like(audio)


def language_losses(lab: Lab, languages: list[str], split: str = "validation") -> pd.DataFrame:
    """Return the losses of a split's texts under language tokens, by plain Whisper, the student.

    Args:
        lab: With the clips.
        languages: Codes or names of the tokens to try.
        split: Of the clips: none that is scored later.

    Returns:
        As `text_losses`; `language_scores` compares the tokens.
    """
    limit = lab.preset.validation_clips if split == "validation" else None
    return _kept_losses(lab, lab.clips(split, limit=limit), language_codes(languages))


def _kept_losses(
    lab: Lab, clips: Clips, languages: list[str], sound: str = "sound"
) -> pd.DataFrame:
    """Return the student's losses of clips, computed at the first call.

    Args:
        lab: Where they are kept.
        clips: With their texts.
        languages: Codes of the tokens.
        sound: What is heard: a part of the name on disk.
    """
    batch_size = lab.preset.eval_batch_size
    depends = {
        "student": lab.student_identity.content,
        "clips": clips.digests,
        "languages": languages,
        "sound": sound,
        "margin_seconds": lab.preset.margin_seconds,
        "batch_size": batch_size,
        "precision": lab.precision,
    }

    def compute() -> list[dict]:
        label = f"losses with {sound}"
        with use_precision(lab.preset.precision):
            found = text_losses(lab.student(), clips, lab.collator, languages, batch_size, label)
        clips.forget_features()
        return found.to_dict("records")

    return pd.DataFrame(_kept(lab.folder / "losses" / f"{short_hash(depends)}.json", compute))


def _kept(path: Path, compute: Callable[[], list[dict]]) -> list[dict]:
    """Return rows from a file, or compute them and write it."""
    stored = read_json(path).get("rows")
    if stored is not None:
        return stored
    check_writable(path.parent)
    with one_at_a_time(path):
        stored = read_json(path).get("rows")
        if stored is None:  # else another process has made it
            stored = compute()
            write_json(path, {"rows": stored}, sealed=True)
    return stored


# ---- more data


def learning_curve(
    lab: Lab,
    name: str = "experts",
    parts: tuple[float, ...] = (0.25, 0.5, 1.0),
    test: str = "in-domain",
) -> pd.DataFrame:
    """Return what a method reaches with parts of the training clips, each in as many steps.

    A smaller part is contained in a larger one. Its epochs are more in the same measure, so that
    the rows differ in their data and hardly in their steps. Each row is one training with the
    preset's seed.

    Args:
        lab: Where trainings and predictions are kept.
        name: Of a method that is trained on the split "train".
        parts: Shares of the training clips, in rising order.
        test: Name of a test.

    Returns:
        A row per part: clips, minutes, epochs, steps, what `summarise` gives, and difference, low
        and high: the paired difference of the language's main rate (`main_rate`) to the row before,
        in points. The first row has none.

    Raises:
        ValueError: For a method that is not trained on these clips, parts that do not rise from
            above 0 to 1 at most, or one that has no clip.
    """
    if get_method(name).weights is not Weights.RUN:
        raise ValueError(f"{name} is not trained on the clips of the split 'train'")
    parts = tuple(check_list("parts", parts))
    for part in parts:
        check_number("a part", part, above=0, high=1)
    if list(parts) != sorted(set(parts)):
        raise ValueError(f"parts are {parts}: they must rise, such as (0.25, 0.5, 1.0)")

    preset = lab.preset
    key = lab.test_set(f"{preset.language}/{test}").key
    whole = len(lab.clips("train", None, preset.train_clips))
    sizes = [round(part * whole) for part in parts]
    if sizes[0] < 1:
        raise ValueError(f"{parts[0]:g} of {whole} training clips is less than one clip")
    rows: list[dict] = []
    before = None
    for size in sizes:
        epochs = max(1, round(preset.epochs * whole / size))
        own = lab if size == whole else Lab(replace(preset, train_clips=size))
        found, table = _trained_on(own, name, key, epochs)
        row = {
            "clips": size,
            "minutes": sum(own.clips("train", None, size).durations) / 60,
            "epochs": epochs,
            "steps": epochs * preset.steps_of_epoch(size),
            **found,
        }
        if before is not None:
            versus = difference_or_nan(table, before)
            row |= {end: versus[end] for end in ("difference", "low", "high")}
        rows.append(row)
        before = table
    return pd.DataFrame(rows)


def _trained_on(lab: Lab, name: str, key: str, epochs: int) -> tuple[dict, pd.DataFrame]:
    """Return scores of a training, and its counts in the language's main rate."""
    changes = {} if epochs == lab.preset.epochs else {"epochs": epochs}
    row = score(lab, name, key, **changes)
    table = counts(lab, name, key, **changes)
    if main_rate(lab.preset.language) == "cer":
        table = in_characters(table)
    return row, table
