"""The speech of a laboratory: splits and tests, as rows and as items for the collator."""

import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
from datasets import Dataset
from transformers import WhisperProcessor

from ..checks import check_flag, check_number
from ..data.batches import Clips, Collator
from ..data.corpora.selection import of_speaker, select
from ..evaluation.testsets import CHANGES, TestSet, corpus_of, load_for, test_sets
from ..fidelity import Fidelity, get_fidelity
from ..presets import Preset
from ..training.config import Decoding, ModelIdentity, identify
from ..training.teacher import teacher_processor
from ..whisper.loading import load_processor
from ..whisper.tokens import MOST_TOKENS, encode_labels, language_code

# Splits of the first language that have the preset's voice alone.
OF_THE_VOICE = ("train", "validation", "test")


def check_limit(limit: int | None) -> None:
    """Raise ValueError unless `limit` is None or a number of clips."""
    if limit is not None:
        check_number("limit", limit, low=1, whole=True)


class Speech:
    """What a `Lab` has of speech: splits and tests, as rows and as items for the collator.

    Args:
        preset: Its languages are codes.
    """

    def __init__(self, preset: Preset):
        self.preset: Preset = preset
        self.fidelity: Fidelity = get_fidelity(preset.fidelity)
        self.test_sets: dict[str, TestSet] = test_sets(preset)
        # errors of predictions, see `comparison.counts`
        self.counted: dict[tuple, pd.DataFrame] = {}
        self._identities: dict[str, ModelIdentity] = {}  # by name
        self._processors: dict[str, WhisperProcessor] = {}  # by role and contents of the model
        self._recordings: dict[str, Dataset] = {}  # own recordings as they were read, by language
        self._clips: dict[tuple, Clips] = {}

    # ---- the models that hear it

    @property
    def student_identity(self) -> ModelIdentity:
        """The student's name and what its weights are."""
        return self._identity(self.preset.student)

    @property
    def teacher_identity(self) -> ModelIdentity | None:
        """The same of the preset's teacher; None where a stand-in is trained."""
        return None if self.preset.teacher is None else self._identity(self.preset.teacher)

    def _identity(self, name: str) -> ModelIdentity:
        """Return a model's identity; a folder is looked at each time, for it may change."""
        if name not in self._identities or Path(name).expanduser().is_dir():
            self._identities[name] = identify(name)
        return self._identities[name]

    @property
    def processor(self) -> WhisperProcessor:
        """The student's tokenizer and feature extractor."""
        key = f"student {self.student_identity.content}"
        if key not in self._processors:
            self._processors[key] = load_processor(self.preset.student)
        return self._processors[key]

    @property
    def teacher_processor(self) -> WhisperProcessor:
        """The teacher's: the student's, unless large-v3 or turbo teaches, which have their own."""
        name = self.preset.teacher
        if name is None or self.teacher_identity is None:
            return self.processor
        key = f"teacher {self.teacher_identity.content} {self.student_identity.content}"
        if key not in self._processors:
            self._processors[key] = teacher_processor(name, self.processor)
        return self._processors[key]

    @property
    def collator(self) -> Collator:
        """The collator for tests, with the preset's window."""
        return Collator(self.processor.tokenizer, self.preset.margin_seconds)

    @property
    def train_collator(self) -> Collator:
        """The collator with the window of training, for the teacher's distributions too."""
        return replace(self.collator, margin_seconds=self.preset.train_margin_seconds)

    @property
    def decoding(self) -> Decoding:
        """How predictions are made and compared."""
        p = self.preset
        return Decoding(p.margin_seconds, p.max_new_tokens, p.eval_batch_size, p.normaliser)

    # ---- splits

    def rows(
        self,
        split: str,
        language: str | None = None,
        limit: int | None = None,
        every_voice: bool = False,
    ):
        """Return a split as a Dataset.

        With a preset's voice "train", "validation" and "test" of its first language have this
        speaker's rows alone; "teacher" and "test-other" have all.

        Args:
            split: "teacher", "train", "validation", "test" or "test-other".
            language: Code; None: the preset's first.
            limit: At most how many clips.
            every_voice: Take all speakers, whatever the preset's voice.
        """
        check_limit(limit)
        check_flag("every_voice", every_voice)
        language = self._language(language)
        dataset = load_for(self.preset, corpus_of(self.preset, language), language)
        voice = None if every_voice else self._voice_of(split, language)
        if voice is not None:
            dataset = of_speaker(dataset, voice)
        if split in ("teacher", "train", "validation"):
            dataset = self._trainable(dataset, split, language)
        draw = self.preset.draw if split == "train" else 0
        return select(dataset, split, limit, draw)

    def _voice_of(self, split: str, language: str) -> str | None:
        """Return the speaker that a split has alone; None where it has all."""
        if language != self.preset.language or split not in OF_THE_VOICE:
            return None
        return self.preset.voice

    def _language(self, language: str | None) -> str:
        """Return the code of a language; None: the preset's first."""
        return self.preset.language if language is None else language_code(language)

    def _trainable(self, dataset, split: str, language: str):
        """Leave out clips over max_train_seconds and, with a warning, labels of too many tokens.

        Of recordings, which nobody has chosen by their length, a warning says how many are left
        out; where all are, it is an error.
        """
        longest = self.preset.max_train_seconds or float("inf")
        tokenizer = self.processor.tokenizer
        too_many = set()
        splits = dataset["split"][:]
        for index, text in enumerate(dataset["text"][:]):
            # a token is at least a byte, so that only long texts need to be encoded
            if splits[index] != split or len(text.encode()) <= MOST_TOKENS - 5:
                continue
            if len(encode_labels(tokenizer, text, language, limit=None)) > MOST_TOKENS:
                too_many.add(index)
        if too_many:
            warnings.warn(
                f"{len(too_many)} clips of {language} {split} are left out: their text has more "
                f"than {MOST_TOKENS} tokens, such as {dataset['id'][min(too_many)]}",
                stacklevel=3,
            )
        durations = dataset["duration"][:]
        of_split = [seconds for seconds, own in zip(durations, splits, strict=True) if own == split]
        too_long = sum(seconds > longest for seconds in of_split)
        if too_long and corpus_of(self.preset, language) == "recordings":
            text = (
                f"{too_long} of {len(of_split)} clips of {language} {split} last over "
                f"{longest:g} s and are left out at the preset {self.preset.name}: cut them at "
                "pauses, or raise max_train_seconds"
            )
            if too_long == len(of_split):
                raise ValueError(text)
            warnings.warn(text, stacklevel=3)
        kept = [i for i, s in enumerate(durations) if s <= longest and i not in too_many]
        return dataset.select(kept)

    def clips(
        self,
        split: str,
        language: str | None = None,
        limit: int | None = None,
        processor: WhisperProcessor | None = None,
        fidelity: Fidelity | None = None,
        every_voice: bool = False,
    ) -> Clips:
        """Return a split as items for the collator.

        Args:
            split: As for `rows`.
            language: As for `rows`.
            limit: As for `rows`.
            processor: The student's unless given; clips of another one are not kept in memory.
            fidelity: By which labels are made; None: the preset's.
            every_voice: As for `rows`.
        """
        check_limit(limit)
        check_flag("every_voice", every_voice)
        language = self._language(language)
        fidelity = self.fidelity if fidelity is None else fidelity
        if processor not in (None, self.processor):
            rows = self.rows(split, language, limit, every_voice)
            return Clips(rows, processor, language, fidelity=fidelity)

        self._follow_recordings(language)
        voice = None if every_voice else self._voice_of(split, language)
        key = (split, language, limit, voice, fidelity, self.student_identity.content)
        if key not in self._clips:
            rows = self.rows(split, language, limit, every_voice)
            self._clips[key] = Clips(rows, self.processor, language, fidelity=fidelity)
        return self._clips[key]

    # ---- tests

    def test_set(self, key: str) -> TestSet:
        """Return a test by its key; raises ValueError with the known keys."""
        if not isinstance(key, str) or key not in self.test_sets:
            raise ValueError(f"unknown test set {key!r}: one of {', '.join(self.test_sets)}")
        return self.test_sets[key]

    def test_rows(self, key: str):
        """Return the rows of a test set; of a translation those with an English line."""
        test = self.test_set(key)
        dataset = load_for(self.preset, test.corpus, test.language)
        if test.voice is not None:
            dataset = of_speaker(dataset, test.voice, test.other_voices)
        if test.task == "translate":
            english = [i for i, line in enumerate(dataset["translation_en"][:]) if line]
            dataset = dataset.select(english)
        return select(dataset, test.split, test.limit)

    def test_clips(self, key: str, processor: WhisperProcessor | None = None) -> Clips:
        """Return a test set as items for the collator, its sound changed where the test says so.

        Args:
            key: Of the test, such as "cs/in-domain".
            processor: The student's unless given; clips of another one are not kept in memory.
        """
        test = self.test_set(key)
        self._follow_recordings(test.language)
        own = processor in (None, self.processor)
        known_by = ("test", key, self.student_identity.content)
        cached = self._clips.get(known_by) if own else None
        if cached is not None:
            return cached

        clips = Clips(
            self.test_rows(key),
            processor or self.processor,
            test.language,
            test.task,
            test.text_column,
            CHANGES.get(test.change),
            label_limit=None,
        )
        if own:
            self._clips[known_by] = clips
        return clips

    def _follow_recordings(self, language: str) -> None:
        """Forget what was made of own recordings that have changed since they were read."""
        recorded = {
            test.language for test in self.test_sets.values() if test.corpus == "recordings"
        }
        of_preset = (self.preset.corpus, self.preset.second_corpus)
        if "recordings" in of_preset and corpus_of(self.preset, language) == "recordings":
            recorded.add(language)
        if language not in recorded:
            return
        for code in dict.fromkeys([language, *self._recordings]):
            # the same object while nothing has changed
            dataset = load_for(self.preset, "recordings", code)
            if self._recordings.setdefault(code, dataset) is not dataset:
                self._recordings[code] = dataset
                self._clips.clear()
                self.counted.clear()
