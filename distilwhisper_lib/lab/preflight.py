"""The preflight: what would fail after hours is found before anything is computed."""

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from ..device import RANK
from ..evaluation.transcription import TASKS, FixedLimits, generate_batch
from ..fidelity import Fidelity
from ..files import can_write, check_writable, read_json, short_hash, write_json
from ..training.methods import METHODS, Method, Weights, get_method
from ..training.stored import stored_run
from ..training.teacher import stored_clips
from ..whisper.loading import find_weights, load_processor, load_whisper
from ..whisper.shapes import SHAPES, WhisperShape
from ..whisper.tokens import language_code, prefix_tokens, token_id, vocabulary_map

CHECKED = "preflight.json"  # in a lab's folder: models that have passed, by a hash of what they are

WEIGHT_BYTES = 4  # experts, adapters and weights are saved in fp32
CHECKPOINT_BYTES = 12  # of a trained weight in a checkpoint: fp32, and Adam's two moments
DISTRIBUTION_BYTES = 6  # of a kept token: its id in int32, its log-probability in fp16
TOKENS = 40  # assumed: of a clip's text

# What `generate` raises for a model that does not fit its tokenizer or generation settings.
GENERATE_ERRORS = (ValueError, RuntimeError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Step:
    """Something that is going to be computed.

    Attributes:
        name: Of a method; None: the teacher's distributions alone.
        changes: As for `Lab.train`, the language among them.
        tests: Keys of the tests that it is scored on.
    """

    name: str | None
    changes: dict = field(default_factory=dict)
    tests: tuple[str, ...] = ()

    @property
    def method(self) -> Method:
        """The method; for the teacher's distributions the teacher."""
        return get_method("teacher" if self.name is None else self.name)

    @property
    def distils(self) -> bool:
        """Whether the teacher's distributions are needed."""
        return self.name is None or self.method.distils


def preflight(
    lab,
    methods: Iterable[str],
    tests: Iterable[str] | None = None,
    language: str | None = None,
    **changes,
) -> None:
    """Check that methods can be trained and scored, before anything is computed.

    Student and teacher can transcribe the languages (a `generate` of two tokens), all splits that
    are needed exist and have clips, there is space on the disk, and the configuration is valid.
    Where all results are there already nothing is checked, and a model that has passed is not
    loaded again.

    Args:
        lab: A `Lab`.
        methods: Names of methods.
        tests: Keys of the tests that they are scored on; None: those of the comparison; an empty
            list: the methods are trained and not scored.
        language: That is trained on; None: the preset's first.
        changes: As for `Lab.train`.

    Raises:
        ValueError: Where anything is wrong; the message lists all of it.
        OSError: Where a single thing is wrong, a file or the disk.
    """
    if RANK:  # of several processes of one training the first checks
        return
    for option, names in {"methods": methods, "tests": tests}.items():
        if isinstance(names, str):
            raise ValueError(f"{option} is {names!r}: a list is needed")
    if language is not None:
        changes = {"language": language_code(language)} | changes
    asked = None if tests is None else tuple(tests)
    steps: list[Step] = []
    for name in methods:
        if asked is not None or name not in METHODS:
            steps.append(Step(name, changes, asked or ()))
        else:
            steps += _steps_of_comparison(lab, name, changes)
    raise_problems(find_problems(lab, steps))


def _steps_of_comparison(lab, name: str, changes: dict) -> list[Step]:
    """Return what the comparison scores of a method.

    Experts are of one language, and of transcription: on all else the student is scored.
    """
    own = []
    others = []
    for key, test in lab.test_sets.items():
        if test.name in ("validation", "second-language"):
            continue
        adapted = (test.language, test.task) == (lab.preset.language, "transcribe")
        if adapted or not get_method(name).has_experts:
            own.append(key)
        else:
            others.append(key)
    return [Step(name, changes, tuple(own)), Step("student", {}, tuple(others))]


def raise_problems(problems: list[Exception]) -> None:
    """Raise problems as one error; return where there is none.

    Raises:
        ValueError: With a line for each problem, or the only one.
        OSError: Where the only problem is one, or all are.
    """
    unique = {str(problem): problem for problem in problems}
    if not unique:
        return
    if len(unique) == 1:
        raise next(iter(unique.values()))
    all_of_system = all(isinstance(problem, OSError) for problem in unique.values())
    kind = OSError if all_of_system else ValueError
    lines = "".join(f"\n- {text}" for text in unique)
    raise kind(f"nothing was computed, for {len(unique)} things are wrong:{lines}")


def find_problems(lab, steps: list[Step]) -> list[Exception]:
    """Return what is wrong with steps; nothing where their results are there already."""
    problems = _Problems()
    _check_configuration(lab, steps, problems)
    if problems.found:  # nothing else can be known
        return problems.found

    _check_splits(lab, steps, problems)
    has_data = not problems.found
    pending = [step for step in steps if not has_data or _is_pending(lab, step, problems)]
    if not pending:
        return problems.found

    _check_models(lab, pending, has_data, problems)
    if problems.tried(check_writable, lab.folder) and has_data:
        problems.tried(_check_disk, lab, pending)
    return problems.found


class _Problems:
    """Collects what is wrong.

    Attributes:
        found: The errors, in the order in which they were found.
    """

    def __init__(self):
        self.found: list[Exception] = []

    def tried(self, function: Callable, *arguments, hint: str = "", **options) -> bool:
        """Call a function; keep its error, if there is one; return whether there was none.

        Args:
            function: What is called.
            arguments: Its arguments.
            hint: What to do about an error, added to its text.
            options: Its keyword arguments.
        """
        try:
            function(*arguments, **options)
        except (ValueError, OSError) as error:
            self.found.append(type(error)(f"{error}{hint}") if hint else error)
            return False
        return True


# ---- the configuration


def _check_configuration(lab, steps: list[Step], problems: _Problems) -> None:
    """Find unknown methods, tests and settings, and methods without a learning rate."""
    known_steps = [step for step in steps if problems.tried(get_method, step.name or "teacher")]
    for step in known_steps:
        for key in step.tests:
            problems.tried(lab.test_set, key)
        if step.method.is_trained and "learning_rate" not in step.changes:
            problems.tried(lab.preset.learning_rate, step.name)
    if _needs_stand_in(lab, known_steps):
        problems.tried(lab.preset.learning_rate, "teacher")


def _needs_stand_in(lab, steps: list[Step]) -> bool:
    """Return whether a stand-in for the teacher has to be there."""
    if lab.preset.teacher is not None:
        return False
    return any(step.distils or step.method.weights is Weights.TEACHER for step in steps)


# ---- the splits


def _check_splits(lab, steps: list[Step], problems: _Problems) -> None:
    """Find splits that are missing or empty, of all that is needed; the lab keeps the clips."""
    p = lab.preset
    languages = dict.fromkeys(
        step.changes.get("language") for step in steps if step.method.is_trained or step.distils
    )
    for language in languages:
        problems.tried(lab.clips, "train", language, p.train_clips)
        problems.tried(lab.clips, "validation", language, p.validation_clips)
    for key in dict.fromkeys(key for step in steps for key in step.tests):
        problems.tried(lab.test_clips, key)
    if not _needs_stand_in(lab, steps):
        return

    learners = [step.name for step in steps if step.name is not None and step.distils]
    hint = without_teacher(dict.fromkeys(learners))
    for language in dict.fromkeys((p.language, p.second_language)):
        options = {"fidelity": Fidelity(), "hint": hint}
        problems.tried(lab.clips, "teacher", language, p.teacher_clips, **options)


def without_teacher(learners: Iterable[str] = ()) -> str:
    """Return what to do where a stand-in for the teacher cannot be trained, as a sentence.

    Args:
        learners: The methods that learn from it; none: they are not known.
    """
    names = f" ({', '.join(learners)})" if learners else ""
    return (
        ". No teacher is named, so that a stand-in would be trained on the split 'teacher': name "
        f'one (teacher="openai/whisper-large-v2"), or leave out what learns from it{names}'
    )


# ---- what is there already


def _is_pending(lab, step: Step, problems: _Problems) -> bool:
    """Return whether anything of a step has to be computed."""
    try:
        if step.name is None:
            return _distributions_are_missing(lab, step)
        if _run_is_missing(lab, step):
            return True
        changes = step.changes if step.method.is_trained else {}
        return not all(lab.is_transcribed(step.name, key, **changes) for key in step.tests)
    except (ValueError, OSError) as error:  # a setting that is refused, a model that is not there
        problems.found.append(error)
        return False


def _run_of(lab, step: Step):
    """Return the configuration of the training that a step needs; None without one."""
    if step.name is not None and step.method.is_trained:
        return lab.run_config(step.name, **step.changes)
    if step.method.weights is Weights.TEACHER and lab.preset.teacher is None:
        return lab.run_config("teacher")
    return None


def _run_is_missing(lab, step: Step) -> bool:
    """Return whether a step needs a training that has not been done."""
    run = _run_of(lab, step)
    return run is not None and not stored_run(lab.folder / "runs" / run.name)


def _distributions_are_missing(lab, step: Step) -> bool:
    """Return whether a step needs distributions of the teacher that are not there."""
    if not step.distils:
        return False
    language = step.changes.get("language")
    if step.name is None:
        learner = "distilwhisper"  # any that distils: all share the teacher's distributions
        rate = {"learning_rate": 1.0}
        config = lab.run_config(learner, language, **rate)
    else:
        config = lab.run_config(step.name, **step.changes)
    folder = lab.folder / "teacher-distributions" / config.teacher
    clips = lab.clips("train", language, lab.preset.train_clips)
    needed = set(zip(clips.ids, clips.digests, strict=True))
    return not needed <= stored_clips(folder)


# ---- the models


def _check_models(lab, pending: list[Step], has_data: bool, problems: _Problems) -> None:
    """Let student and teacher transcribe, as far as they are needed."""
    p = lab.preset
    languages = [step.changes.get("language") or p.language for step in pending]
    languages += [lab.test_set(key).language for step in pending for key in step.tests]
    languages = sorted(set(languages))

    has_student = True
    if any(step.method.weights is not Weights.TEACHER or p.teacher is None for step in pending):
        identity = "student_identity"
        has_student = problems.tried(_check_model, lab, "student", p.student, identity, languages)

    if p.teacher is None or not any(_asks_teacher(lab, step, has_data) for step in pending):
        return
    identity = "teacher_identity"
    has_teacher = problems.tried(_check_model, lab, "teacher", p.teacher, identity, languages)
    if has_student and has_teacher and any(step.distils for step in pending):
        problems.tried(_check_vocabularies, lab)


def _asks_teacher(lab, step: Step, has_data: bool) -> bool:
    """Return whether a step runs the preset's teacher; a large one may have left the disk."""
    if step.name is not None and step.method.weights is Weights.TEACHER:
        return True
    if not step.distils:
        return False
    return not has_data or _distributions_are_missing(lab, step)


def _check_vocabularies(lab) -> None:
    """Raise ValueError where the teacher's tokens are not the student's."""
    teacher = load_processor(lab.preset.teacher).tokenizer
    vocabulary_map(teacher, load_processor(lab.preset.student).tokenizer)


def _check_model(lab, role: str, name: str, identity: str, languages: list[str]) -> None:
    """Raise where a model cannot transcribe; what has passed is noted in the lab's folder.

    Args:
        lab: The laboratory.
        role: "student" or "teacher", for the message.
        name: Of the model.
        identity: Attribute of the lab with the model's `ModelIdentity`.
        languages: Codes.

    Raises:
        ValueError: Where it cannot, and where the checkpoint is damaged.
        OSError: Where there is no such model.
    """
    about = [getattr(lab, identity).content, languages, transformers.__version__]
    key = short_hash(about)
    noted = lab.folder / CHECKED
    if key in read_json(noted):
        return

    dtype = torch.bfloat16 if role == "teacher" else torch.float32  # a teacher may be large
    try:
        check_whisper(name, languages, dtype)
    except ValueError as error:
        raise ValueError(f"the {role} {name} cannot be used: {error}") from error
    if can_write(lab.folder):
        with suppress(OSError):
            write_json(noted, read_json(noted) | {key: about})


def check_whisper(
    name: str | Path, languages: Iterable[str], dtype: torch.dtype = torch.float32
) -> None:
    """Check that a Whisper can transcribe languages, by a `generate` of two tokens.

    Args:
        name: As for `load_whisper`.
        languages: Codes.
        dtype: Of the weights.

    Raises:
        ValueError: Where it cannot; the message says why, and what to do.
        OSError: This and other errors as `load_whisper`.
    """
    languages = list(languages)
    tokenizer = load_processor(name).tokenizer
    model = load_whisper(name, dtype=dtype)

    room = model.get_input_embeddings().weight.shape[0]
    tokens = 1 + max(tokenizer.get_vocab().values())
    if tokens > room:
        raise ValueError(
            f"its tokenizer has {tokens} tokens and the model embeddings for {room}: take "
            "the tokenizer of the Whisper that it was trained from, or call "
            "model.resize_token_embeddings before it is trained"
        )
    _check_languages(model.generation_config, tokenizer, languages)

    # Half a second of silence; nothing is drawn, the state of random numbers stays.
    features = torch.zeros(1, model.config.num_mel_bins, 50)
    for language in languages[:1]:
        try:
            generate_batch(model, tokenizer, features, language, "transcribe", FixedLimits(1, 2))
        except GENERATE_ERRORS as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"it fails to transcribe {language!r} ({type(error).__name__}: {reason}): "
                "compare its config.json and generation_config.json with those of the Whisper that "
                "it was trained from"
            ) from error


def _check_languages(settings, tokenizer, languages: list[str]) -> None:
    """Raise ValueError where settings or tokenizer lack what a language needs.

    Args:
        settings: The model's generation_config.
        tokenizer: Its tokenizer.
        languages: Codes.
    """
    remedy = (
        "copy generation_config.json of the Whisper that it was trained from into its folder "
        "(openai/whisper-small's, say)"
    )
    if getattr(settings, "is_multilingual", True) is False:
        raise ValueError(
            "it knows English only: take a multilingual one, openai/whisper-small instead of "
            "openai/whisper-small.en"
        )
    known = getattr(settings, "lang_to_id", None)
    if not known:
        raise ValueError(f"its generation settings have no languages (lang_to_id): {remedy}")
    tasks = getattr(settings, "task_to_id", None)
    if not tasks:
        raise ValueError(f"its generation settings have no tasks (task_to_id): {remedy}")
    for language in languages:
        if f"<|{language}|>" not in known:
            raise ValueError(
                f"its generation settings have no token for the language {language!r} (lang_to_id):"
                f" take a model that knows it, or {remedy}"
            )
        prefix_tokens(tokenizer, language)
    missing = [task for task in TASKS if task not in tasks]
    if missing:
        raise ValueError(f"its generation settings lack the task {missing[0]!r}: {remedy}")
    _check_token_ids(settings, tokenizer, languages, remedy)


def _check_token_ids(settings, tokenizer, languages: list[str], remedy: str) -> None:
    """Raise ValueError where settings name other tokens than the tokenizer has.

    With those of another Whisper (large-v3's ids are shifted) it would transcribe another language.

    Args:
        settings: The model's generation_config.
        tokenizer: Its tokenizer.
        languages: Codes.
        remedy: What to do, for the message.
    """
    named = {
        "<|startoftranscript|>": getattr(settings, "decoder_start_token_id", None),
        "<|notimestamps|>": getattr(settings, "no_timestamps_token_id", None),
    }
    named |= {f"<|{task}|>": settings.task_to_id[task] for task in TASKS}
    named |= {f"<|{code}|>": settings.lang_to_id[f"<|{code}|>"] for code in languages}
    for token, found in named.items():
        expected = token_id(tokenizer, token)
        if found is not None and found != expected:
            raise ValueError(
                f"its generation settings have the id {found} for {token}, and its tokenizer "
                f"{expected}: they are of two models; {remedy}"
            )

    ends = settings.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if tokenizer.eos_token_id not in ends:
        raise ValueError(
            f"its generation settings end a text with the token {ends[0]}, and its tokenizer with "
            f"{tokenizer.eos_token_id}: {remedy}"
        )


# ---- the disk


def _check_disk(lab, pending: list[Step]) -> None:
    """Raise OSError where the disk has less space than trainings and distributions need."""
    needed = bytes_needed(lab, pending)
    free = shutil.disk_usage(lab.folder).free
    if free < needed:
        raise OSError(
            f"{lab.folder} has {free / 1e9:.1f} GB free, and trainings and the teacher's "
            f"distributions need about {needed / 1e9:.1f} GB: free some, or set LAB_CACHE to a "
            "folder on another disk"
        )


def bytes_needed(lab, steps: list[Step]) -> float:
    """Return the bytes that steps take on the disk, estimated, without what is there already.

    Each training leaves its weights; the largest one has two checkpoints beside them for a moment,
    three where the best epoch is kept.
    """
    shape = _shape_of(lab.preset.student)
    if shape is None:
        return 0.0
    weights = 0.0
    checkpoints = 0.0
    distributions: dict[str | None, float] = {}
    copies = 3 if lab.preset.keep == "best" else 2
    runs = {run.name: run for run in (_run_of(lab, step) for step in steps) if run is not None}
    if _needs_stand_in(lab, steps):
        stand_in = lab.run_config("teacher")
        runs[stand_in.name] = stand_in
    for name, run in runs.items():
        folder = lab.folder / "runs" / name
        if stored_run(folder):
            continue
        method = get_method(run.method)
        trained = method.count(shape).trained
        if method.weights is Weights.TEACHER:
            trained = shape.parameters
        weights += WEIGHT_BYTES * trained
        room = copies * CHECKPOINT_BYTES * trained - _size_of(folder)
        checkpoints = max(checkpoints, room)

    for step in steps:
        language = step.changes.get("language")
        if language not in distributions and _distributions_are_missing(lab, step):
            clips = len(lab.clips("train", language, lab.preset.train_clips))
            distributions[language] = clips * TOKENS * lab.preset.top_k * DISTRIBUTION_BYTES
    return weights + checkpoints + sum(distributions.values())


def _shape_of(name: str) -> WhisperShape | None:
    """Return the sizes of a Whisper; None for the tiny one, which takes no space to speak of."""
    if name in SHAPES:
        return SHAPES[name]
    folder = find_weights(name).folder
    if folder is None:
        return None
    config = read_json(folder / "config.json", strict=True)
    return WhisperShape(config["d_model"], config["encoder_layers"], config["encoder_ffn_dim"])


def _size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
