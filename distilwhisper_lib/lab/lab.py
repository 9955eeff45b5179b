"""The laboratory of the notebooks: data, models, trainings and predictions, each computed once."""

import gc
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from transformers import WhisperForConditionalGeneration

from ..checks import check_choice, check_flag, check_number
from ..data.batches import Clips, JoinedClips
from ..data.normalisers import NORMALISERS
from ..device import (
    card_memory_gb,
    describe_machine,
    mixed_precision,
    pick_device,
    release_memory,
    use_precision,
)
from ..evaluation.predictions import stored_predictions
from ..evaluation.testsets import TestSet
from ..evaluation.transcription import transcribe
from ..fidelity import LABELS, Fidelity
from ..files import (
    cache_dir,
    can_write,
    check_writable,
    one_at_a_time,
    read_json,
    results_dir,
    short_hash,
)
from ..method.blocks import clsr_blocks
from ..method.languages import get_language, set_language
from ..presets import Preset, fit_to_memory, get_preset
from ..training.config import Optimisation, RunConfig, TrainingData
from ..training.methods import Method, Weights, get_method
from ..training.run import train_run
from ..training.stored import stored_run
from ..training.teacher import TeacherDistributions, cache_teacher_distributions, stored_clips
from ..whisper.loading import load_whisper
from .metadata import note_missing_step, overridden_of, read_steps, timed_step
from .preflight import preflight, without_teacher
from .reasons import tell_changed_clips, tell_why_trained, tell_why_transcribed
from .settings import changed_preset, check_changes, check_experts
from .speech import Speech


class Lab(Speech):
    """Data, models, trainings and predictions at one preset.

    What is asked for twice is computed once and kept under `folder`. A result's name on disk holds
    a hash of all that it depends on, contents of clips and weights included: where anything has
    changed, it is computed anew.

    Args:
        preset: A preset or its name; None: the one that LAB_PRESET names.
        changes: Fields of the preset with other values. Languages by code or name.

    Raises:
        ValueError: For an unknown preset, field or language, or a value out of range.
    """

    def __init__(self, preset: str | Preset | None = None, **changes):
        if isinstance(preset, Preset):
            base = preset  # one that is given whole stays as it is
        else:
            base = fit_to_memory(get_preset(preset), card_memory_gb(pick_device()), changes)
        super().__init__(changed_preset(base, changes))
        self.device: torch.device = pick_device()
        self.folder: Path = cache_dir() / "runs" / self.preset.name
        self.results: Path = results_dir(self.preset.name)
        check_choice("normaliser", self.preset.normaliser, NORMALISERS)
        self.used: set[str] = set()  # names of the results that this lab was asked for
        self._held: tuple | None = None  # (name, model) used last

    def steps(self) -> list[dict]:
        """Return step, seconds and peak memory of each result that was asked for."""
        return read_steps(self.folder, self.used)

    @property
    def precision(self) -> str:
        """Mixed precision of training and transcription: "bf16", "fp16" or "no".

        It is part of every result's name. Of results that cannot be added to, because another owner
        shares them as a read-only folder, it is theirs, whatever this processor computes in.
        """
        with use_precision(self.preset.precision):
            own = mixed_precision(self.device)
        if os.environ.get("LAB_PRECISION") or can_write(self.folder):
            return own
        runs = sorted((self.folder / "runs").glob("*/run.json"))
        made = [read_json(path).get("config", {}).get("precision") for path in runs]
        known = [precision for precision in made if precision]
        return own if own in known or not known else known[0]

    # ---- models

    @cached_property
    def overridden(self) -> dict[str, dict]:
        """Settings of generation that checkpoints have and evaluation does not use, by role."""
        return overridden_of(self.preset)

    def student(self) -> WhisperForConditionalGeneration:
        """Return a fresh copy of the student."""
        return load_whisper(self.preset.student).to(self.device)

    def teacher(self, half: bool = False) -> WhisperForConditionalGeneration:
        """Return the teacher: the preset's own, or the stand-in, trained here at the first call.

        Args:
            half: In half precision where there is a GPU: large-v2 and large-v3 then take 3.1 GB.
        """
        check_flag("half", half)
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
        check_changes(changes)
        if method.weights is Weights.STUDENT:
            return self.student()
        if method.weights is Weights.TEACHER:
            return self.teacher(half=True)

        folder = self.train(name, **changes)
        config = self.run_config(name, **changes)
        model = method.load(folder / "model", config).to(self.device)
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
        language = self._language(language)
        is_teacher = method.weights is Weights.TEACHER
        fidelity = Fidelity() if is_teacher else self.fidelity
        rate = changes.pop("learning_rate", None)

        clips = self._training_clips(method, language)
        validation = self._validation_clips(method, language, fidelity)
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
            method_settings=method.own_settings(),
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
        check_changes(changes)
        preflight(self, [name], [], language, **changes)
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
        try:
            parts = [
                self.clips("teacher", code, p.teacher_clips, fidelity=plain) for code in languages
            ]
        except ValueError as error:
            raise ValueError(f"{error}{without_teacher()}") from error
        return JoinedClips(parts)

    def _validation_clips(self, method: Method, language: str, fidelity: Fidelity) -> Clips:
        """Return what a training is validated on: the stand-in on all voices, which teach it."""
        return self.clips(
            "validation",
            language,
            self.preset.validation_clips,
            fidelity=fidelity,
            every_voice=method.weights is Weights.TEACHER,
        )

    def _train(self, config: RunConfig) -> Path:
        folder = self.folder / "runs" / config.name
        self.used.add(folder.name)
        if config.teacher is not None:
            self.used.add(config.teacher)
        if stored_run(folder):
            step = f"train {config.method} {config.data.language}"
            note_missing_step(self.folder, step, folder)
            return folder

        check_writable(folder.parent)
        tell_why_trained(folder, config)
        teacher = None
        if config.objective.distils:
            teacher = self.teacher_distributions(config.data.language, config.objective.temperature)

        with one_at_a_time(folder):
            if stored_run(folder):  # another process has made it
                return folder
            p = self.preset
            language = config.data.language
            method = get_method(config.method)
            clips = self._training_clips(method, language)
            validation = self._validation_clips(method, language, config.fidelity)
            self._held = None  # no second model in memory
            step = timed_step(self.folder, f"train {config.method} {language}", folder.name)
            with use_precision(p.precision), step:
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
        check_number("temperature", temperature, above=0)
        language = self._language(language)
        folder = self._distributions_folder(language, temperature)
        self.used.add(folder.name)

        clips = self.clips("train", language, self.preset.train_clips)
        digests = dict(zip(clips.ids, clips.digests, strict=True))
        if digests.items() <= stored_clips(folder):
            return TeacherDistributions(folder, digests)

        check_writable(folder)
        with one_at_a_time(folder):
            stored = stored_clips(folder)
            if digests.items() <= stored:  # another process has made them
                return TeacherDistributions(folder, digests)
            tell_changed_clips(f"teacher outputs {language}", dict(stored), digests)
            return self._compute_distributions(folder, language, temperature)

    def _compute_distributions(
        self, folder: Path, language: str, temperature: float
    ) -> TeacherDistributions:
        """Run the teacher on the training clips whose distributions a folder lacks."""
        p = self.preset
        own = self.teacher_processor
        self._held = None  # no second model in memory
        step = timed_step(self.folder, f"teacher outputs {language}", folder.name)
        with use_precision(p.precision), step:
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
                translates), or False, where the predictions are the student's. LoRA's adapters are
                switched off by False too; to other methods it makes no difference.
            changes: As for `train`, for another run of the method.

        Returns:
            Columns id and prediction.
        """
        check_experts(experts)
        check_changes(changes)
        test = self.test_set(key)
        method = get_method(name)
        if method.can_be_switched_off and experts is False:
            return self.transcribe("student", key)
        encoder_alone = method.has_experts and experts == "encoder"

        self._check_before_training(method, key, changes)
        clips = self.test_clips(key, self._processor_of(method))
        result = self._predictions_name(name, test, clips, encoder_alone, changes)
        path = self.folder / "predictions" / result
        self.used.add(result)
        table = stored_predictions(clips, path)
        if table is not None:
            return table

        label = f"transcribe {name} {key}"
        if method.weights is not Weights.RUN:  # of a training it has been checked
            preflight(self, [name], [key])
        check_writable(path.parent)
        with one_at_a_time(path):
            table = stored_predictions(clips, path)
            if table is not None:  # another process has made it
                return table
            tell_why_transcribed(path, label, clips)
            with use_precision(self.preset.precision), timed_step(self.folder, label, result):
                table = self._compute_predictions(name, test, clips, path, encoder_alone, changes)
        clips.forget_features()  # the clips of a test stay in memory, for their texts
        return table

    def _check_before_training(self, method: Method, key: str, changes: dict) -> None:
        """Call the preflight where a test's predictions need a training that is not there."""
        if not self.is_ready(method.name, **changes):
            preflight(self, [method.name], [key], **changes)

    def _compute_predictions(
        self, name: str, test: TestSet, clips: Clips, path: Path, encoder_alone: bool, changes: dict
    ) -> pd.DataFrame:
        """Transcribe a test with a method's model, and write the predictions to `path`."""
        model = self._held_model(name, changes)
        decoder_blocks = clsr_blocks(model)[model.config.encoder_layers :]
        shut = {get_language(model): False} if encoder_alone else {}
        for block in decoder_blocks:
            block.constant_gates = dict(shut)
        processor = self._processor_of(get_method(name))
        return transcribe(
            model,
            clips,
            replace(self.collator, tokenizer=processor.tokenizer),
            self.decoding,
            path,
            test.language,
            test.task,
            f"{name}: {test.key}",
        )

    def is_ready(self, name: str, **changes) -> bool:
        """Return whether a method can be scored without a training.

        Args:
            name: Name of the method.
            changes: As for `train`.

        Raises:
            ValueError: As `run_config` does.
        """
        run = self._run_of(get_method(name), changes)
        return run is None or stored_run(self.folder / "runs" / run.name)

    def is_transcribed(self, name: str, key: str, **changes) -> bool:
        """Return whether `transcribe` has its predictions on disk; nothing is computed."""
        test = self.test_set(key)
        method = get_method(name)
        clips = self.test_clips(key, self._processor_of(method))
        if not self.is_ready(name, **changes):
            return False
        result = self._predictions_name(name, test, clips, False, changes)
        return stored_predictions(clips, self.folder / "predictions" / result) is not None

    def _processor_of(self, method: Method):
        """Return the processor of the Whisper that a method is scored with."""
        return self.teacher_processor if method.weights is Weights.TEACHER else self.processor

    def _predictions_name(
        self, name: str, test: TestSet, clips: Clips, encoder_alone: bool, changes: dict
    ) -> str:
        """Return the name on disk that predictions have, by all that they depend on."""
        weights = self.weights_name(name, **changes)
        return f"{weights}/{self._predictions_file(get_method(name), test, clips, encoder_alone)}"

    def _predictions_file(
        self, method: Method, test: TestSet, clips: Clips, encoder_alone: bool
    ) -> str:
        """Return the name of a file of predictions, by all that they depend on but the weights."""
        depends = self.settings_of_test(test, clips)
        depends |= {"task": test.task, "encoder_alone": encoder_alone}
        is_teacher = method.weights is Weights.TEACHER and self.preset.teacher is not None
        overridden = self.overridden.get("teacher" if is_teacher else "student")
        if overridden:  # earlier versions decoded by these
            depends["overridden"] = overridden
        return f"{test.language}-{test.name}-{short_hash(depends)}.csv"

    def settings_of_test(self, test: TestSet, clips: Clips) -> dict:
        """Return what the predictions of a test depend on, whichever system makes them.

        Args:
            test: The test.
            clips: Its clips.
        """
        p = self.preset
        return {
            "clips": clips.digests,
            "change": test.change,
            "margin_seconds": p.margin_seconds,
            "max_new_tokens": p.max_new_tokens,
            "batch_size": p.eval_batch_size,
            "precision": self.precision,
        }

    def _run_of(self, method: Method, changes: dict) -> RunConfig | None:
        """Return the run that a method's weights come from; None for a checkpoint's."""
        if method.weights is Weights.RUN:
            return self.run_config(method.name, **changes)
        if method.weights is Weights.TEACHER and self.preset.teacher is None:
            return self.run_config("teacher")
        return None

    def weights_name(self, name: str, **changes) -> str:
        """Return a name that changes with a method's weights: the run's, or the checkpoint's.

        The run is trained where that has not been done.

        Args:
            name: Name of the method.
            changes: As for `train`.
        """
        method = get_method(name)
        run = self._run_of(method, changes)
        if run is not None:
            return self._train(run).name
        identity = self.student_identity
        if method.weights is Weights.TEACHER and self.teacher_identity is not None:
            identity = self.teacher_identity
        return f"{method.weights.value}-{short_hash(identity.content)}"

    def _held_model(self, name: str, changes: dict):
        """Return the model, keeping the latest one in memory: tests come one after another."""
        key = self.weights_name(name, **changes)
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
    print(f"runs on {processor} ({machine['cores']} cores), mixed precision: {lab.precision}")
    if lab.device.type == "cuda":
        print(
            f"batches: {p.batch_size} x {p.accumulation} in training, {p.eval_batch_size} clips "
            "decoded together; they are part of every result's name"
        )
    print(f"the whole course takes about {p.minutes}, {p.memory} of memory")
    return lab
