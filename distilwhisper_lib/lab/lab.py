"""The laboratory of the notebooks: data, models, trainings and predictions, each computed once."""

import gc
import warnings
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from ..data.batches import Clips, Collator, JoinedClips
from ..data.corpora.loading import held_out_lead, load_corpus, select
from ..device import describe_machine, mixed_precision, pick_device, release_memory
from ..evaluation.testsets import CHANGES, TestSet, corpus_of, test_sets
from ..evaluation.transcription import stored_predictions, transcribe
from ..fidelity import LABELS, Fidelity, get_fidelity
from ..files import cache_dir, read_json, results_dir, short_hash
from ..method.blocks import clsr_blocks
from ..method.languages import get_language, set_language
from ..presets import Preset, get_preset
from ..training.config import (
    Decoding,
    ModelIdentity,
    Optimisation,
    RunConfig,
    TrainingData,
    identify,
)
from ..training.methods import Method, Weights, get_method
from ..training.teacher import (
    TeacherDistributions,
    cache_teacher_distributions,
    stored_clips,
    teacher_processor,
)
from ..training.trainer import train_run
from ..whisper.loading import load_processor, load_whisper
from ..whisper.tokens import MOST_TOKENS, encode_labels
from .metadata import read_steps, timed_step

EXPERTS = (True, False, "encoder")  # which experts a prediction uses: all, none, the encoder's


class Lab:
    """Data, models, trainings and predictions at one preset.

    What is asked for twice is computed once and kept under `folder`. A result's name on disk holds
    a hash of all that it depends on, contents of clips and weights included: where anything has
    changed, it is computed anew.

    Args:
        preset: A preset or its name; None: the one that LAB_PRESET names.
        changes: Fields of the preset with other values.
    """

    def __init__(self, preset: str | Preset | None = None, **changes):
        base = preset if isinstance(preset, Preset) else get_preset(preset)
        self.preset: Preset = replace(base, **changes)
        self.fidelity: Fidelity = get_fidelity(self.preset.fidelity)
        self.device: torch.device = pick_device()
        self.folder: Path = cache_dir() / "runs" / self.preset.name
        self.results: Path = results_dir(self.preset.name)
        self.test_sets: dict[str, TestSet] = test_sets(self.preset)
        self.used: set[str] = set()  # names of the results that this lab was asked for
        # errors of predictions, see `comparison.counts`
        self.counted: dict[tuple, pd.DataFrame] = {}
        self._clips: dict[tuple, Clips] = {}
        self._held: tuple | None = None  # (name, model) used last

    def steps(self) -> list[dict]:
        """Return step, seconds and peak memory of each result that was asked for."""
        return read_steps(self.folder, self.used)

    # ---- data

    @cached_property
    def processor(self) -> WhisperProcessor:
        """The student's tokenizer and feature extractor."""
        return load_processor(self.preset.student)

    @cached_property
    def teacher_processor(self) -> WhisperProcessor:
        """The teacher's: the student's, unless large-v3 or turbo teaches, which have their own."""
        name = self.preset.teacher
        return teacher_processor(name, self.processor) if name else self.processor

    @cached_property
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

    @property
    def precision(self) -> str:
        """Mixed precision of training and transcription: "bf16", "fp16" or "no"."""
        return mixed_precision(self.device)

    def rows(self, split: str, language: str | None = None, limit: int | None = None):
        """Return a split as a Dataset.

        Args:
            split: "teacher", "train", "validation", "test" or "test-other".
            language: Code; None: the preset's first.
            limit: At most how many clips.
        """
        language = language or self.preset.language
        dataset = self._dataset(corpus_of(self.preset, language), language)
        if split in ("teacher", "train", "validation"):
            dataset = self._trainable(dataset, split, language)
        return select(dataset, split, limit)

    def _trainable(self, dataset, split: str, language: str):
        """Leave out clips over max_train_seconds and, with a warning, labels of too many tokens."""
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
        kept = [i for i, s in enumerate(durations) if s <= longest and i not in too_many]
        return dataset.select(kept)

    def _dataset(self, corpus: str, language: str):
        """Return a corpus; a held-out lead is removed from training and alone in the test."""
        dataset = load_corpus(corpus, language)
        lead = self.preset.held_out_lead
        if lead and language == self.preset.language:
            return held_out_lead(dataset, lead)
        return dataset

    def clips(
        self,
        split: str,
        language: str | None = None,
        limit: int | None = None,
        processor: WhisperProcessor | None = None,
        fidelity: Fidelity | None = None,
    ) -> Clips:
        """Return a split as items for the collator.

        Args:
            split: As for `rows`.
            language: As for `rows`.
            limit: As for `rows`.
            processor: The student's unless given; clips of another one are not kept in memory.
            fidelity: By which labels are made; None: the preset's.
        """
        language = language or self.preset.language
        fidelity = fidelity or self.fidelity
        if processor not in (None, self.processor):
            return Clips(self.rows(split, language, limit), processor, language, fidelity=fidelity)

        key = (split, language, limit, fidelity)
        if key not in self._clips:
            rows = self.rows(split, language, limit)
            self._clips[key] = Clips(rows, self.processor, language, fidelity=fidelity)
        return self._clips[key]

    def test_set(self, key: str) -> TestSet:
        """Return a test by its key; raises ValueError with the known keys."""
        if key not in self.test_sets:
            raise ValueError(f"unknown test set {key!r}: one of {', '.join(self.test_sets)}")
        return self.test_sets[key]

    def test_rows(self, key: str):
        """Return the rows of a test set; of a translation those with an English line."""
        test = self.test_set(key)
        if test.held_out_lead:
            dataset = self._dataset(test.corpus, test.language)
            return select(dataset, test.split, test.limit)

        dataset = load_corpus(test.corpus, test.language)
        lead = self.preset.held_out_lead
        if lead:
            others = [i for i, speaker in enumerate(dataset["speaker"][:]) if speaker != lead]
            dataset = dataset.select(others)
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
        own = processor in (None, self.processor)
        cached = self._clips.get(("test", key)) if own else None
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
            self._clips["test", key] = clips
        return clips

    # ---- models

    @cached_property
    def student_identity(self) -> ModelIdentity:
        """The student's name and what its weights are."""
        return identify(self.preset.student)

    @cached_property
    def teacher_identity(self) -> ModelIdentity | None:
        """The same of the preset's teacher; None where a stand-in is trained."""
        return identify(self.preset.teacher) if self.preset.teacher else None

    def student(self) -> WhisperForConditionalGeneration:
        """Return a fresh copy of the student."""
        return load_whisper(self.preset.student).to(self.device)

    def teacher(self, half: bool = False) -> WhisperForConditionalGeneration:
        """Return the teacher: the preset's own, or the stand-in, trained here at the first call.

        Args:
            half: In half precision where there is a GPU: large-v2 and large-v3 then take 3.1 GB.
        """
        name = self.preset.teacher or str(self.train_teacher() / "model")
        dtype = torch.float16 if half and self.device.type == "cuda" else torch.float32
        return load_whisper(name, dtype=dtype).to(self.device)

    def model(self, name: str, **changes):
        """Return a method's model, ready to transcribe; experts are set to its language.

        Args:
            name: Of a method.
            changes: As for `train`.
        """
        method = get_method(name)
        if method.weights is Weights.STUDENT:
            return self.student()
        if method.weights is Weights.TEACHER:
            return self.teacher(half=True)

        config = self.run_config(name, **changes)
        model = method.load(self._train(config) / "model", config).to(self.device)
        if clsr_blocks(model):
            set_language(model, config.data.language)
        return model

    # ---- training

    def run_config(self, name: str, language: str | None = None, **changes) -> RunConfig:
        """Return the configuration of a training.

        Args:
            name: Of a method; "teacher" is the stand-in.
            language: Code; None: the preset's first.
            changes: As for `train`.

        Raises:
            ValueError: For an unknown method or setting, the student, or a method that the preset
                has no learning rate for.
        """
        p = self.preset
        method = get_method(name)
        if method.weights is Weights.STUDENT:
            raise ValueError(f"{name} is not trained")
        language = language or p.language
        is_teacher = method.weights is Weights.TEACHER
        fidelity = Fidelity() if is_teacher else self.fidelity
        rate = changes.pop("learning_rate", None)

        clips = self._training_clips(method, language)
        validation = self.clips("validation", language, p.validation_clips, fidelity=fidelity)
        config = RunConfig(
            method=name,
            student=self.student_identity,
            data=TrainingData(
                language=language,
                clips=len(clips),
                training=short_hash(clips.digests),
                validation=short_hash(validation.digests),
                margin_seconds=p.train_margin_seconds,
            ),
            objective=method.objective(fidelity),
            optimisation=Optimisation(
                learning_rate=p.learning_rate(name) if rate is None else rate,
                epochs=p.teacher_epochs if is_teacher else p.epochs,
                batch_size=p.batch_size,
                accumulation=p.accumulation,
            ),
            experts=method.expert_settings(fidelity),
            choose_epoch=self.decoding if p.keep == "best" else None,
            fidelity=fidelity,
            seed=p.seed,
            precision=self.precision,
        ).changed(**changes)

        if config.objective.distils:
            folder = self._distributions_folder(language, config.objective.temperature)
            config = replace(config, teacher=folder.name)
        return config

    def train(self, name: str, language: str | None = None, **changes) -> Path:
        """Train a method on a language, or return the folder of the run that exists.

        Args:
            name: Of a method.
            language: Code; None: the preset's first.
            changes: Other values than the preset's and the method's: learning_rate, epochs, seed,
                and any other field of `Optimisation`, `Objective` or, with experts,
                `ExpertSettings`.
        """
        return self._train(self.run_config(name, language, **changes))

    def train_teacher(self) -> Path:
        """Fine-tune the stand-in teacher, or return the folder of the run that exists.

        It learns from the split "teacher" of both languages, which no other method sees, and is the
        same at every fidelity.
        """
        return self.train("teacher")

    def _training_clips(self, method: Method, language: str) -> Clips | JoinedClips:
        p = self.preset
        if method.weights is not Weights.TEACHER:
            return self.clips("train", language, p.train_clips)
        languages = dict.fromkeys((p.language, p.second_language))
        plain = Fidelity()
        return JoinedClips(
            [self.clips("teacher", code, p.teacher_clips, fidelity=plain) for code in languages]
        )

    def _train(self, config: RunConfig) -> Path:
        folder = self.folder / "runs" / config.name
        self.used.add(folder.name)
        if config.teacher is not None:
            self.used.add(config.teacher)
        if (folder / "run.json").exists():
            return folder

        teacher = None
        if config.objective.distils:
            teacher = self.teacher_distributions(config.data.language, config.objective.temperature)

        p = self.preset
        language = config.data.language
        clips = self._training_clips(get_method(config.method), language)
        validation = self.clips(
            "validation", language, p.validation_clips, fidelity=config.fidelity
        )
        self._held = None  # no second model in memory
        with timed_step(self.folder, f"train {config.method} {language}", folder.name):
            train_run(config, folder, clips, validation, self.train_collator, teacher)
        gc.collect()  # a Trainer refers to itself: its model and Adam's states would stay
        release_memory()
        return folder

    def run_log(self, name: str, **changes) -> list[dict]:
        """Return the log of a training, a dictionary per logged step."""
        return read_json(self.train(name, **changes) / "run.json")["log"]

    # ---- cached teacher distributions

    def teacher_distributions(
        self, language: str | None = None, temperature: float = 1.0
    ) -> TeacherDistributions:
        """Return the teacher's distributions on the training clips, computed at the first call.

        Training sets of all sizes share them, in Whisper's 30 s window.

        Args:
            language: Code; None: the preset's first.
            temperature: By which the teacher's logits are divided.
        """
        p = self.preset
        language = language or p.language
        folder = self._distributions_folder(language, temperature)
        self.used.add(folder.name)

        clips = self.clips("train", language, p.train_clips)
        digests = dict(zip(clips.ids, clips.digests, strict=True))
        if digests.items() <= stored_clips(folder):
            return TeacherDistributions(folder, digests)

        self._held = None  # no second model in memory
        own = self.teacher_processor
        with timed_step(self.folder, f"teacher outputs {language}", folder.name):
            return cache_teacher_distributions(
                self.teacher(half=True),
                self.clips("train", language, p.train_clips, own),
                replace(self.train_collator, tokenizer=own.tokenizer),
                folder,
                p.top_k,
                p.eval_batch_size,
                self.processor.tokenizer,
                self.fidelity.padding_in_divergence,
                temperature,
            )

    def _distributions_folder(self, language: str, temperature: float) -> Path:
        """Return the folder that the distributions have, by all that they depend on."""
        p = self.preset
        given = self.teacher_identity
        teacher = given.content if given else self.run_config("teacher").name
        clips = self.clips("train", language, p.train_clips)
        # in the 30 s window a clip's distributions do not depend on the clips it is padded with
        independent = p.train_margin_seconds is None and not self.fidelity.padding_in_divergence
        depends = {
            "teacher": teacher,
            "clips": None if independent else clips.digests,
            "top_k": p.top_k,
            "margin_seconds": p.train_margin_seconds,
            "batch_size": p.eval_batch_size,
            "fidelity": self.fidelity.on("padding_in_divergence", *LABELS),
            "temperature": temperature,
            "student_vocabulary": len(self.processor.tokenizer),
            "precision": self.precision,
        }
        return self.folder / "teacher-distributions" / f"{language}-{short_hash(depends)}"

    # ---- predictions

    def transcribe(
        self, name: str, key: str, experts: bool | str = True, **changes
    ) -> pd.DataFrame:
        """Return the predictions of a method on a test set, computed at the first call.

        Args:
            name: Of a method.
            key: Of the test, such as "cs/in-domain".
            experts: Of a method with experts: True, "encoder" (the encoder's alone, as the release
                translates), or False, where the predictions are the student's.
            changes: As for `train`, for another run of the method.

        Returns:
            Columns id and prediction.
        """
        if experts not in EXPERTS:
            raise ValueError(f"unknown experts {experts!r}: one of {', '.join(map(repr, EXPERTS))}")
        test = self.test_set(key)
        method = get_method(name)
        if method.has_experts and not experts:
            return self.transcribe("student", key)
        encoder_alone = method.has_experts and experts == "encoder"

        processor = self._processor_of(method)
        clips = self.test_clips(key, processor)
        result = self._predictions_name(name, test, clips, encoder_alone, changes)
        path = self.folder / "predictions" / result
        self.used.add(result)
        table = stored_predictions(clips, path)
        if table is not None:
            return table

        with timed_step(self.folder, f"transcribe {name} {key}", result):
            model = self._held_model(name, changes)
            decoder_blocks = clsr_blocks(model)[model.config.encoder_layers :]
            shut = {get_language(model): False} if encoder_alone else {}
            for block in decoder_blocks:
                block.constant_gates = dict(shut)
            table = transcribe(
                model,
                clips,
                replace(self.collator, tokenizer=processor.tokenizer),
                self.decoding,
                path,
                test.language,
                test.task,
                f"{name}: {key}",
            )
        clips.forget_features()  # the clips of a test stay in memory, for their texts
        return table

    def is_transcribed(self, name: str, key: str, **changes) -> bool:
        """Return whether `transcribe` has its predictions on disk, so that nothing is computed."""
        clips = self.test_clips(key, self._processor_of(get_method(name)))
        result = self._predictions_name(name, self.test_set(key), clips, False, changes)
        return stored_predictions(clips, self.folder / "predictions" / result) is not None

    def _processor_of(self, method: Method):
        """Return the processor of the Whisper that a method is scored with."""
        return self.teacher_processor if method.weights is Weights.TEACHER else self.processor

    def _predictions_name(
        self, name: str, test: TestSet, clips: Clips, encoder_alone: bool, changes: dict
    ) -> str:
        """Return the name on disk that predictions have, by all that they depend on."""
        p = self.preset
        depends = {
            "clips": clips.digests,
            "task": test.task,
            "change": test.change,
            "margin_seconds": p.margin_seconds,
            "max_new_tokens": p.max_new_tokens,
            "batch_size": p.eval_batch_size,
            "encoder_alone": encoder_alone,
            "precision": self.precision,
        }
        weights = self._weights_name(name, changes)
        return f"{weights}/{test.language}-{test.name}-{short_hash(depends)}.csv"

    def _weights_name(self, name: str, changes: dict) -> str:
        """Return a name that changes with a method's weights: the run's, or the checkpoint's."""
        weights = get_method(name).weights
        if weights is Weights.RUN:
            return self._train(self.run_config(name, **changes)).name
        is_student = weights is Weights.STUDENT
        identity = self.student_identity if is_student else self.teacher_identity
        if identity is None:
            return self.train_teacher().name
        return f"{weights.value}-{short_hash(identity.content)}"

    def _held_model(self, name: str, changes: dict):
        """Return the model, keeping the latest one in memory: tests come one after another."""
        key = self._weights_name(name, changes)
        if self._held is None or self._held[0] != key:
            self._held = None  # free the old one first
            self._held = (key, self.model(name, **changes))
        return self._held[1]


def open_lab(preset: str | None = None, **changes) -> Lab:
    """Return a Lab, and print what it runs on and how long the course takes."""
    lab = Lab(preset, **changes)
    p = lab.preset
    machine = describe_machine()
    teacher = p.teacher or "a stand-in, trained here"
    processor = machine["gpu"] or machine["processor"]
    print(f"preset {p.name}: student {p.student}, teacher {teacher}")
    print(
        f"runs on {processor} ({machine['cores']} cores), mixed precision: {machine['precision']}"
    )
    print(f"the whole course takes about {p.minutes}, {p.memory} of memory")
    return lab
