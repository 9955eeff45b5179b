"""Models that are scored as they are, and that a `Lab` does not know: published experts, and MMS.

A `Lab` scores methods, which begin with its student or its teacher. These models come whole, from
the hub or from a folder, and nothing is trained. They share the lab's clips, its decoding, its
normaliser and its folder of predictions, so that a stopped call goes on.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from ..data.batches import Clips
from ..device import use_precision
from ..evaluation import ctc
from ..evaluation.predictions import stored_predictions
from ..evaluation.scoring import summarise
from ..evaluation.testsets import TestSet
from ..evaluation.transcription import transcribe
from ..files import check_writable, file_sha256, one_at_a_time, remembered_sha256, short_hash
from ..lab.comparison import counts_of, row_of
from ..lab.lab import Lab
from ..lab.metadata import timed_step
from ..method import released
from ..method.languages import set_language
from ..whisper.hub import local_folder
from ..whisper.tokens import LANGUAGES, language_code


@dataclass(frozen=True)
class AsItIs(ABC):
    """A model that is scored as it is.

    Attributes:
        source: A hub id, or a folder with the same files.
    """

    source: str

    @abstractmethod
    def find(self, language: str) -> Path:
        """Return the folder of its files for a language, fetching them where needed.

        Raises:
            OSError: Where the hub cannot be reached.
            FileNotFoundError: For what is not there, such as the language. Each message says what
                to do.
        """

    @abstractmethod
    def weights(self, language: str) -> list[str]:
        """Return the names of its files with weights for a language."""

    @property
    @abstractmethod
    def revision(self) -> str | None:
        """The commit to which it is pinned on the hub; None where it is not."""

    @abstractmethod
    def transcribe(
        self, lab: Lab, folder: Path, clips: Clips, test: TestSet, path: Path, label: str
    ) -> pd.DataFrame:
        """Transcribe a test with it.

        Args:
            lab: Its device and its decoding are used.
            folder: As `find` returns it.
            clips: Of the test.
            test: The test.
            path: The table of predictions.
            label: The text beside the progress bar.

        Returns:
            Columns id and prediction, in the order of `clips`.
        """

    def identity(self, folder: Path, language: str) -> str:
        """Return what changes with the weights: the commit, or hashes of a folder's own files."""
        if folder.parent.name == "snapshots":  # the hub's cache names folders by commit
            return f"{self.source}@{folder.name}"
        names = ["config.json", *self.weights(language)]
        return short_hash([(name, remembered_sha256(folder / name)) for name in names])

    @property
    def label(self) -> str:
        """What progress bars and notes of times call it: a hub id, or the name of a folder."""
        is_folder = Path(self.source).expanduser().is_dir()
        return Path(self.source).name if is_folder else self.source

    def known_identity(self, language: str) -> str:
        """Return the same without asking the hub: of an unpinned repository its name alone.

        Raises:
            FileNotFoundError: For a folder that is gone, or lacks a file.
        """
        if local_folder(self.source, None):
            return self.identity(self.find(language), language)
        return f"{self.source}@{self.revision}" if self.revision else self.source

    def hashes(self, language: str) -> dict[str, str]:
        """Return the SHA-256 of each file of weights for a language, for the run metadata."""
        folder = self.find(language)
        return {name: file_sha256(folder / name) for name in self.weights(language)}


class Published(AsItIs):
    """The authors' published experts, with the Whisper that they belong to."""

    def find(self, language: str) -> Path:
        """Return the folder; raises as `released_folder`."""
        folder = released.released_folder(self.source, [language_code(language)])
        missing = [name for name in self.weights(language) if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder} lacks {', '.join(missing)}: experts in the published format are needed"
            )
        return folder

    def weights(self, language: str) -> list[str]:
        """Return the names of Whisper's file and of the language's."""
        return ["pytorch_model.bin", f"expert.{LANGUAGES[language_code(language)]}.bin"]

    @property
    def revision(self) -> str | None:
        """The commit, where it is known to us."""
        return released.PINNED.get(self.source)

    def transcribe(
        self, lab: Lab, folder: Path, clips: Clips, test: TestSet, path: Path, label: str
    ) -> pd.DataFrame:
        """Transcribe a test with the language's experts, as the lab does with its own."""
        model = released.load_released(folder, [test.language])
        size, tokens = model.config.vocab_size, len(lab.processor.tokenizer)
        if size < tokens:
            raise ValueError(
                f"{self.source} has {size} tokens, and the preset's student {lab.preset.student} "
                f"{tokens}: published experts are scored at a preset with the Whisper that they "
                f"belong to, {released.STUDENT} for the authors' own"
            )
        set_language(model, test.language)
        return transcribe(
            model.to(lab.device),
            clips,
            lab.collator,
            lab.decoding,
            path,
            test.language,
            test.task,
            label,
        )


class Ctc(AsItIs):
    """MMS, or another multilingual CTC model in its format."""

    def find(self, language: str) -> Path:
        """Return the folder; raises as `find_ctc`."""
        return ctc.find_ctc(self.source, language)

    def weights(self, language: str) -> list[str]:
        """Return the names of the model's file and of the language's adapter."""
        return ["model.safetensors", f"adapter.{ctc.mms_code(language)}.safetensors"]

    @property
    def revision(self) -> str | None:
        """The commit, where it is known to us."""
        return ctc.REVISIONS.get(self.source)

    def transcribe(
        self, lab: Lab, folder: Path, clips: Clips, test: TestSet, path: Path, label: str
    ) -> pd.DataFrame:
        """Transcribe a test with the language's adapter, in half precision on a GPU."""
        dtype = torch.float16 if lab.device.type == "cuda" else torch.float32
        model = ctc.load_ctc(folder, test.language, dtype)
        model.model.to(lab.device)
        return ctc.transcribe_ctc(model, clips, lab.decoding, path, label)


# ---- predictions and scores


def predictions_as_it_is(lab: Lab, model: AsItIs, key: str) -> pd.DataFrame:
    """Return a model's predictions on a test set, computed at the first call.

    Args:
        lab: Where predictions are kept.
        model: The model.
        key: Of a test of transcription, such as "cs/in-domain".

    Returns:
        Columns id and prediction.

    Raises:
        ValueError: For a test of translation, and as `AsItIs.transcribe`.
        OSError: As `AsItIs.find`.
    """
    test = lab.test_set(key)
    if test.task != "transcribe":
        raise ValueError(f"{key} is a test of translation: models as they are only transcribe here")
    clips = lab.test_clips(key)
    folder = model.find(test.language)
    weights = f"as-it-is-{short_hash(model.identity(folder, test.language))}"
    depends = short_hash(lab.settings_of_test(test, clips))
    name = f"{weights}/{test.language}-{test.name}-{depends}.csv"
    path = lab.folder / "predictions" / name
    lab.used.add(name)
    table = stored_predictions(clips, path)
    if table is not None:
        return table

    check_writable(path.parent)
    label = f"{model.label}: {key}"
    with one_at_a_time(path):
        table = stored_predictions(clips, path)
        if table is None:
            step = timed_step(lab.folder, f"transcribe {label}", name)
            with use_precision(lab.preset.precision), step:
                table = model.transcribe(lab, folder, clips, test, path, label)
    clips.forget_features()
    return table


def counts_as_it_is(lab: Lab, model: AsItIs, key: str) -> pd.DataFrame:
    """Return the errors of each prediction, as `comparison.counts` does; arguments as above."""
    table = predictions_as_it_is(lab, model, key)
    return counts_of(lab.test_clips(key), list(table["prediction"]), lab.preset.normaliser)


def score_as_it_is(lab: Lab, name: str, model: AsItIs, key: str) -> dict:
    """Return a row of scores, as `comparison.score` does.

    Args:
        lab: Where predictions are kept.
        name: Of the row.
        model: The model.
        key: As for `predictions_as_it_is`.

    Returns:
        The columns of a transcription, and revision: what the weights are.
    """
    test = lab.test_set(key)
    experts = "on" if isinstance(model, Published) else ""
    counts = counts_as_it_is(lab, model, key)
    row = row_of(test, name, experts, lab.preset.seed)
    folder = model.find(test.language)
    row["revision"] = model.identity(folder, test.language)
    return row | summarise(counts) | {"normaliser": lab.preset.normaliser}
