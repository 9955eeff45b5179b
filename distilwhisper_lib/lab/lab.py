"""The laboratory that the notebooks work in: data, models, training and scores by name, everything kept once."""

import gc
import warnings
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from ..data.batches import Clips, Collator, JoinedClips
from ..data.corpora.loading import held_out_lead, load_corpus, select
from ..device import describe_machine, pick_device, release_memory
from ..evaluation.testsets import CHANGES, TestSet, corpus_of, test_sets
from ..evaluation.transcription import stored_predictions, transcribe
from ..fidelity import LABELS, Fidelity, get_fidelity
from ..files import cache_dir, read_json, results_dir, short_hash
from ..method.attach import clsr_blocks, set_language
from ..method.experts import ExpertSettings
from ..presets import Preset, get_preset
from ..training.objective import Objective
from ..training.systems import get_system, load_trained
from ..training.teacher import TeacherDistributions, cache_teacher_distributions, stored_clips, teacher_processor
from ..training.trainer import train_system
from ..whisper.loading import load_processor, load_whisper
from ..whisper.tokens import MOST_TOKENS, encode_labels
from .metadata import read_steps, timed_step


class Lab:
    """Everything at one preset. What is asked for twice is computed once and kept under `folder`.

    A name on disk holds a hash of all that the content depends on: with another setting it is computed anew.
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
        self._clips: dict[tuple, Clips] = {}
        self._held: tuple | None = None  # (name, model) used last

    def steps(self) -> list[dict]:
        """Return step, result, seconds and peak memory of what this lab was asked for, whenever it was computed."""
        return read_steps(self.folder, self.used)

    # ---- data

    @cached_property
    def processor(self):
        """The student's tokenizer and feature extractor."""
        return load_processor(self.preset.student)

    @cached_property
    def teacher_processor(self):
        """The same for the teacher: the student's, unless large-v3 or turbo teaches, which have their own."""
        name = self.preset.teacher
        return teacher_processor(name, self.processor) if name else self.processor

    @cached_property
    def collator(self) -> Collator:
        """The collator for tests, with the preset's window."""
        return Collator(self.processor.tokenizer, self.preset.margin_seconds)

    @property
    def train_collator(self) -> Collator:
        """The same with the window of training, for the teacher's outputs too."""
        return replace(self.collator, margin_seconds=self.preset.train_margin_seconds)

    def rows(self, split: str, language: str | None = None, limit: int | None = None):
        """Return a split ("teacher", "train", "validation", "test", "test-other") as a Dataset."""
        language = language or self.preset.language
        dataset = self._dataset(corpus_of(self.preset, language), language)
        if split in ("teacher", "train", "validation"):
            dataset = self._trainable(dataset, split, language)
        return select(dataset, split, limit)

    def _trainable(self, dataset, split: str, language: str):
        """Leave out clips over max_train_seconds and, with a warning, those whose text the decoder has no room for."""
        longest, long = self.preset.max_train_seconds or float("inf"), set()
        for i, (text, where) in enumerate(
            zip(dataset["text"][:], dataset["split"][:], strict=True)
        ):
            if (
                where == split and len(text.encode()) > MOST_TOKENS - 5
            ):  # a token is a byte at least
                if (
                    len(encode_labels(self.processor.tokenizer, text, language, limit=None))
                    > MOST_TOKENS
                ):
                    long.add(i)
        if long:
            warnings.warn(
                f"{len(long)} clips of {language} {split} are left out: their text has more than "
                f"{MOST_TOKENS} tokens, such as {dataset['id'][min(long)]}",
                stacklevel=3,
            )
        seconds = dataset["duration"][:]
        return dataset.select(
            [i for i in range(len(seconds)) if seconds[i] <= longest and i not in long]
        )

    def _dataset(self, corpus: str, language: str):
        """Return a corpus; where a lead is held out, without it in training and with only it in the test."""
        dataset, lead = load_corpus(corpus, language), self.preset.held_out_lead
        return (
            held_out_lead(dataset, lead) if lead and language == self.preset.language else dataset
        )

    def clips(
        self,
        split: str,
        language: str | None = None,
        limit: int | None = None,
        processor=None,
        fidelity: Fidelity | None = None,
    ) -> Clips:
        """Return the same as items for the collator, labelled as fidelity (the preset's) says.

        processor: the student's unless given; clips of another one are not kept in memory.
        """
        language, fidelity = language or self.preset.language, fidelity or self.fidelity
        if processor not in (None, self.processor):
            return Clips(self.rows(split, language, limit), processor, language, fidelity=fidelity)
        key = (split, language, limit, fidelity)
        if key not in self._clips:
            self._clips[key] = Clips(
                self.rows(split, language, limit), self.processor, language, fidelity=fidelity
            )
        return self._clips[key]

    def test_set(self, key: str) -> TestSet:
        """Return a test by its key; raises ValueError with the known keys."""
        if key not in self.test_sets:
            raise ValueError(f"unknown test set {key!r}: one of {', '.join(self.test_sets)}")
        return self.test_sets[key]

    def test_rows(self, key: str):
        """Return the rows of a test set as a Dataset; of a translation those with an English line."""
        test = self.test_set(key)
        if test.held_out_lead:
            return select(self._dataset(test.corpus, test.language), test.split, test.limit)
        dataset, lead = load_corpus(test.corpus, test.language), self.preset.held_out_lead
        if lead:
            dataset = dataset.select(
                [i for i, speaker in enumerate(dataset["speaker"][:]) if speaker != lead]
            )
        if test.task == "translate":
            dataset = dataset.select(
                [i for i, line in enumerate(dataset["translation_en"][:]) if line]
            )
        return select(dataset, test.split, test.limit)

    def test_clips(self, key: str, processor=None) -> Clips:
        """Return a test set as items for the collator, its sound changed where the test says so."""
        test = self.test_set(key)
        return Clips(
            self.test_rows(key),
            processor or self.processor,
            test.language,
            test.task,
            test.text_column,
            CHANGES.get(test.change),
            label_limit=None,
        )

    # ---- models and training

    def student(self):
        """Return a fresh copy of the student."""
        return load_whisper(self.preset.student).to(self.device)

    def teacher(self, half: bool = False):
        """Return the teacher: the preset's own, or the stand-in, which is trained here at the first call.

        half: in half precision where there is a GPU, so that large-v2 and large-v3 take 3.1 GB there.
        """
        name = self.preset.teacher or str(self.train_teacher() / "model")
        dtype = torch.float16 if half and self.device.type == "cuda" else torch.float32
        return load_whisper(name, dtype=dtype).to(self.device)

    def train_teacher(self) -> Path:
        """Fine-tune the stand-in on the split "teacher" of both languages, which no other system sees.

        Without label smoothing: a teacher that has learnt to spread probability evenly teaches less (Müller et al.,
        "When does label smoothing help?", NeurIPS 2019), and the paper's teacher was not trained so.
        It is the same at every fidelity.
        """
        p = self.preset
        clips = JoinedClips(
            [
                self.clips("teacher", code, p.teacher_clips, fidelity=Fidelity())
                for code in dict.fromkeys((p.language, p.second_language))
            ]
        )
        return self._train(
            "teacher",
            clips,
            Objective(label_smoothing=0.0, budget=None),
            p.language,
            p.teacher_learning_rate,
            p.teacher_epochs,
            p.seed,
        )

    def teacher_distributions(
        self, language: str | None = None, temperature: float = 1.0
    ) -> TeacherDistributions:
        """Return the teacher's stored top k on the training clips, which larger and smaller training sets share."""
        p, language = self.preset, language or self.preset.language
        clips = self.clips("train", language, p.train_clips)
        padded = self.fidelity.padding_in_divergence
        alone = (
            p.train_margin_seconds is None and not padded
        )  # else what is said of a clip depends on the others
        depends = [
            p.teacher or self.train_teacher().name,
            [] if alone else clips.ids,
            p.top_k,
            p.train_margin_seconds,
            p.eval_batch_size,
            *self.fidelity.on("padding_in_divergence", *LABELS),
        ]
        depends += [temperature] if temperature != 1 else []
        if (
            p.teacher and "<|yue|>" in self.processor.tokenizer.get_vocab()
        ):  # large-v3's ids, not those of before
            depends.append(p.student)
        folder = self.folder / "teacher-outputs" / f"{language}-{short_hash(depends)}"
        self.used.add(folder.name)
        if set(clips.ids) <= stored_clips(folder):
            return TeacherDistributions(folder, clips.ids)
        self._held, own = None, self.teacher_processor  # no second model in memory
        clips, collator = self.clips("train", language, p.train_clips, own), self.train_collator
        with timed_step(self.folder, f"teacher outputs {language}", folder.name):
            return cache_teacher_distributions(
                self.teacher(half=True),
                clips,
                replace(collator, tokenizer=own.tokenizer),
                folder,
                p.top_k,
                p.eval_batch_size,
                self.processor.tokenizer,
                padded,
                temperature,
            )

    def train(self, system: str, language: str | None = None, **changes) -> Path:
        """Train a system on a language, or return the folder of the run that exists.

        changes: learning_rate, epochs, seed, or a field of `Objective`, instead of the preset's value; divergence
        "none" leaves the teacher out.
        """
        p, kind, language = self.preset, get_system(system), language or self.preset.language
        rate = changes.pop("learning_rate", None) or p.learning_rates[system]
        epochs, seed = changes.pop("epochs", p.epochs), changes.pop("seed", p.seed)
        budget = p.gate_budget if kind.budget is None else kind.budget
        settings = {
            "label_smoothing": p.label_smoothing,
            "budget": budget,
            "per_stack": kind.budget_per_stack,
        }
        distils = kind.distils and changes.get("divergence") != "none"
        teacher = (
            self.teacher_distributions(language, changes.get("temperature", 1.0)) if distils else None
        )
        goal = Objective(**settings | changes, teacher=teacher, fidelity=self.fidelity)
        return self._train(
            system, self.clips("train", language, p.train_clips), goal, language, rate, epochs, seed
        )

    def _train(
        self, name, clips, objective: Objective, language: str, rate: float, epochs: int, seed: int
    ) -> Path:
        p, system = self.preset, get_system("fine-tuning" if name == "teacher" else name)
        has_experts = system.trains == "experts" or objective.fidelity.lora_on_both
        settings = asdict(ExpertSettings(**system.experts | p.experts)) if has_experts else {}
        later = (
            "rank",
            "hard",
            "always_open",
        )  # left out of the hash where they are off: it is as before they came
        settings = {
            field: value for field, value in settings.items() if value or field not in later
        }
        depends = [
            p.student,
            clips.ids,
            objective.key(),
            rate,
            epochs,
            p.batch_size,
            p.accumulation,
            p.train_margin_seconds,
            p.warmup_ratio,
            settings,
        ]
        depends += (
            ["best", p.margin_seconds, p.normaliser, p.max_new_tokens] if p.keep == "best" else []
        )
        folder = self.folder / "runs" / f"{name}-{language}-seed{seed}-{short_hash(depends)}"
        self.used.add(folder.name)
        if not (folder / "run.json").exists():
            validation = self.clips(
                "validation", language, p.validation_clips, fidelity=objective.fidelity
            )
            self._held = None  # no second model in memory
            with timed_step(self.folder, f"train {name} {language}", folder.name):
                train_system(
                    system,
                    folder,
                    p,
                    objective,
                    clips,
                    validation,
                    self.train_collator,
                    language,
                    rate,
                    epochs,
                    seed,
                    name,
                )
            gc.collect()  # a Trainer refers to itself: its model and Adam's states would stay
            release_memory()
        return folder

    def run_log(self, system: str, **changes) -> list[dict]:
        """Return the log of a training run ("teacher" for the stand-in): one dictionary per logged step."""
        folder = self.train_teacher() if system == "teacher" else self.train(system, **changes)
        return read_json(folder / "run.json")["log"]

    def model(self, system: str, **changes):
        """Return a system ready to transcribe; experts are switched to the preset's language."""
        if system in ("student", "teacher"):
            return self.student() if system == "student" else self.teacher(half=True)
        language = changes.get("language") or self.preset.language
        model = load_trained(
            get_system(system),
            self.train(system, **changes) / "model",
            self.preset.student,
            lora_on_both=language if self.fidelity.lora_on_both else None,
        )
        if clsr_blocks(model):
            set_language(model, language)
        return model.to(self.device)

    # ---- transcription

    def transcribe(
        self, system: str, key: str, experts: bool | str = True, **changes
    ) -> pd.DataFrame:
        """Return the predictions of a system on a test set: columns id, prediction; computed at the first call.

        experts: True, "encoder" (those of the encoder alone, as the release translates), or False, where the outputs
        are the student's. changes: as for `train`, to score another run of the system.
        """
        test, p = self.test_set(key), self.preset
        if get_system(system).trains == "experts" and not experts:
            system, changes = "student", {}
        own = self.teacher_processor if system == "teacher" else self.processor
        clips = self.test_clips(key, own)
        depends = [
            clips.ids,
            test.task,
            test.change,
            p.margin_seconds,
            p.max_new_tokens,
            p.eval_batch_size,
        ]
        depends += (
            ["encoder"] if experts == "encoder" and get_system(system).trains == "experts" else []
        )
        name = f"{test.language}-{test.name}-{short_hash(depends)}.csv"
        result = f"{self._source(system, changes)}/{name}"
        path = self.folder / "predictions" / result
        self.used.add(result)
        if (table := stored_predictions(clips, path)) is not None:
            return table
        with timed_step(self.folder, f"transcribe {system} {key}", result):
            collator, model = (
                replace(self.collator, tokenizer=own.tokenizer),
                self._held_model(system, changes),
            )
            for block in clsr_blocks(model)[model.config.encoder_layers :]:  # the decoder's
                block.fixed = {test.language: False} if experts == "encoder" else {}
            return transcribe(
                model, clips, collator, p, path, test.language, test.task, f"{system}: {key}"
            )

    def _source(self, system: str, changes: dict) -> str:
        """Return a folder name that changes with the model: the run's, or the name of the weights."""
        if system == "student" or (system == "teacher" and self.preset.teacher):
            return str(getattr(self.preset, system)).replace("/", "--")
        return (self.train_teacher() if system == "teacher" else self.train(system, **changes)).name

    def _held_model(self, system: str, changes: dict):
        """Return the model, keeping the latest one in memory: tests come one after another."""
        key = (self._source(system, changes), tuple(changes))
        if self._held is None or self._held[0] != key:
            self._held = None  # free the old one first
            self._held = (key, self.model(system, **changes))
        return self._held[1]


def open_lab(preset: str | None = None, **changes) -> Lab:
    """Return a Lab and print what it runs on: preset, models, device, precision, expected time and memory."""
    lab = Lab(preset, **changes)
    p, machine = lab.preset, describe_machine()
    print(
        f"preset {p.name}: student {p.student}, teacher {p.teacher or 'a stand-in, trained here'}"
    )
    print(
        f"runs on {machine['gpu'] or machine['processor']} ({machine['cores']} cores), "
        f"mixed precision: {machine['precision']}"
    )
    print(f"the whole course takes about {p.minutes}, {p.memory} of memory")
    return lab
