"""Bad inputs: refused by an error that names them, told as a flaw, or taken for a reason."""

import os
import random
import runpy
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

import distilwhisper_lib as library
from distilwhisper_lib.evaluation.scoring import translation_scores
from distilwhisper_lib.method.storage import save_experts

from .attempts import Attempt, Workshop, start
from .report import Outcome
from .work import small_lab
from .wrong_files import EXPERTS, SOUND_VALUES, TABLES, WHISPERS, write_recordings
from .wrong_values import ACCEPTED, NAN, PRESET, TRAINING, wrong_values

COUNT = 1000
PATIENCE = 120
FINE = "fine"  # what a call returns where the input was told as a flaw, or read as it is meant


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        group: Of the table.
        what: The door and the value, as text.
        call: Gives the input to the library.
        names: Of which the message must hold one; empty: it may say what it likes.
        accepted: Why it may be taken; "" where it may not.
        is_program: Whether it is a command line, which ends with a message and no traceback.
        environment: Variables.
    """

    group: str
    what: str
    call: Callable[[], object]
    names: tuple[str, ...] = ()
    accepted: str = ""
    is_program: bool = False
    environment: dict[str, str] | None = None


def wrong_inputs(workshop: Workshop, count: int, draw: random.Random) -> Iterator[Outcome]:
    """Give each bad input to the library in a process of its own."""
    folder = workshop.copy(workshop.state(("toy corpus", "train clsr-ft")))
    cases = all_cases(folder)
    draw.shuffle(cases)
    for case in cases[:count]:
        running = start(partial(_asked, case, folder), folder, case.environment)
        yield _judged(case, running.end(PATIENCE))


def _asked(case: Case, folder: Path) -> dict:
    """Make the call, in a new folder below `folder`; return what it returned, as text."""
    os.chdir(tempfile.mkdtemp(dir=folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = case.call()
    return {"value": value if isinstance(value, str) else repr(value)[:300]}


def _judged(case: Case, attempt: Attempt) -> Outcome:
    outcome = Outcome(case.group, case.what)
    error = attempt.error
    if attempt.code == 0:
        value = attempt.result["value"] if attempt.result else "it ended well"
        if case.accepted:
            outcome.notes.append(f"taken: {case.what}: {case.accepted}")
        elif not value.startswith(FINE):
            outcome.fault = "silently other"
            outcome.told = f"taken: {value}"
    elif attempt.code is None or not error:
        outcome.fault = "crashed"
        outcome.told = error or f"exit code {attempt.code}: {attempt.log[-1000:]}"
    elif not _is_told(case, attempt):
        outcome.fault = "bare traceback"
        outcome.told = f"{error} {attempt.log[-300:] if case.is_program else ''}".strip()
        if attempt.is_clear and case.names:
            outcome.told = f"names none of {case.names}: {outcome.told}"
    return outcome


def _is_told(case: Case, attempt: Attempt) -> bool:
    """Return whether an error is clear, and names the thing."""
    if attempt.printed_traceback or not attempt.is_clear:
        return False
    if case.is_program and not attempt.error.startswith("SystemExit"):
        return False
    text = (attempt.error + attempt.log).lower()
    return not case.names or any(name.lower() in text for name in case.names)


def all_cases(folder: Path) -> list[Case]:
    """Return every bad input; folder: with a prepared corpus and a trained run."""
    return [
        *_presets(),
        *_training(),
        *_functions(folder),
        *_environment(folder),
        *_command_lines(),
        *_tables(folder),
        *_sounds(),
        *_checkpoints(folder),
    ]


def _named(option: str, value: object) -> tuple[str, ...]:
    """Return what a message about a value may name: the option, or the value."""
    values = value if isinstance(value, list | tuple) else [value]
    names = [option, option.replace("_", " "), repr(value)[:40]]
    texts = (str(one) if len(str(one)) > 1 else repr(one) for one in values)
    return (*names, *(text[:40] for text in texts))


def _options(group: str, options: dict[str, str], call: Callable) -> Iterator[Case]:
    """Yield a case for each wrong value of options; call(option=value)."""
    for wrong in wrong_values(options):
        accepted = ACCEPTED.get((wrong.option, repr(wrong.value)), "")
        yield Case(
            group,
            f"{wrong.option}={wrong.shown}",
            partial(call, **{wrong.option: wrong.value}),
            _named(wrong.option, wrong.value),
            accepted,
        )


# ---- presets and trainings


def _presets() -> Iterator[Case]:
    def lab(**changes) -> object:
        made = small_lab(**changes)
        if {"student", "teacher"} & changes.keys():  # which are looked for when they are needed
            return made.student(), made.teacher()
        if {
            "corpus",
            "second_corpus",
            "other_corpus",
            "language",
            "second_language",
        } & changes.keys():
            return (
                made.rows("train"),
                made.rows("train", made.preset.second_language),
                made.test_sets,
            )
        return made

    yield from _options("presets", PRESET, lab)
    more: dict[str, tuple] = {
        "retention": ("toy", [("toy",)], (("toy", "xx"),), ((3, 4),), None, 7),
        "learning_rates": (None, [1], {"lora": "fast"}, {"lora": 0}, {"lora": NAN}, {"x": 1e-3}, 3),
        "voice": (3, "nobody", True),
        "name": ("", "../x", "a/b", None, 3),
        "no_such_field": (1,),
    }
    for option, values in more.items():
        for value in values:
            call = partial(_with_rows, **{option: value})
            yield Case("presets", f"{option}={value!r}", call, _named(option, value))


def _with_rows(**changes) -> object:
    lab = small_lab(**changes)
    return [lab.rows("train"), lab.test_sets, lab.run_config("lora").name]


def _training() -> Iterator[Case]:
    def config(**changes) -> object:
        return small_lab().run_config("distilwhisper", **changes)

    yield from _options("trainings", TRAINING, config)
    yield Case("trainings", "no_such=1", lambda: config(no_such=1), ("no_such",))


# ---- public functions


def _functions(folder: Path) -> Iterator[Case]:
    texts = ["one", "two"]
    audio = (0.1 * np.sin(np.arange(8000))).astype(np.float32)
    tokenizer = library.tiny_processor().tokenizer
    run = str(next((folder / "cache" / "runs" / "smoke" / "runs").glob("clsr-ft-*")) / "model")

    def lab(method: str) -> Callable:
        return lambda *given, **named: getattr(small_lab(), method)(*given, **named)

    def on_model(function: Callable) -> Callable:
        def call(*given, **named):
            model = library.attach_experts(library.tiny_whisper(), "cs")
            return function(model, *given, **named)

        return call

    def on_lab(function: Callable) -> Callable:
        return lambda *given, **named: function(small_lab(), *given, **named)

    def made_jobs(**named) -> object:
        jobs = library.make_jobs(**{"preset": "smoke"} | named)
        return library.listing(jobs), [job.needs for job in jobs]

    attach = lambda **named: library.attach_experts(library.tiny_whisper(), **named)  # noqa: E731
    loads = lambda **named: library.load_experts(  # noqa: E731
        library.tiny_whisper(), **{"folder": run} | named
    )
    logits = torch.randn(3, 20)
    doors: list[tuple[str, Callable, dict[str, str]]] = [
        ("Lab.train", lab("train"), {"name": "name"}),
        ("Lab.train of a language", partial(lab("train"), "lora"), {"language": "language?"}),
        ("Lab.model", lab("model"), {"name": "name"}),
        ("Lab.rows", lab("rows"), {"split": "name"}),
        (
            "Lab.rows",
            partial(lab("rows"), "train"),
            {"language": "language?", "limit": "whole from 1?"},
        ),
        ("Lab.clips", partial(lab("clips"), "train"), {"limit": "whole from 1?"}),
        ("Lab.test_clips", lab("test_clips"), {"key": "name"}),
        ("Lab.transcribe", partial(lab("transcribe"), key="cs/in-domain"), {"name": "name"}),
        ("Lab.transcribe", partial(lab("transcribe"), "student"), {"key": "name"}),
        (
            "Lab.transcribe",
            partial(lab("transcribe"), "clsr-ft", "cs/in-domain"),
            {"experts": "flag"},
        ),
        (
            "Lab.teacher_distributions",
            lab("teacher_distributions"),
            {"language": "language?", "temperature": "above 0"},
        ),
        ("score", partial(on_lab(library.score), "student"), {"key": "name"}),
        ("score", partial(on_lab(library.score), "clsr-ft", "cs/in-domain"), {"experts": "flag"}),
        ("get_preset", library.get_preset, {"name": "name?"}),
        ("get_fidelity", library.get_fidelity, {"name": "name"}),
        ("get_method", library.get_method, {"name": "name"}),
        ("language_code", library.language_code, {"language": "language"}),
        ("load_whisper", library.load_whisper, {"name": "model"}),
        ("load_processor", library.load_processor, {"name": "model"}),
        ("identify", library.identify, {"name": "model"}),
        ("attach_experts", attach, {"languages": "languages"}),
        ("set_language", on_model(library.set_language), {"language": "language?"}),
        ("load_experts", loads, {"languages": "languages?"}),
        (
            "load_experts",
            partial(library.load_experts, library.tiny_whisper()),
            {"folder": "model"},
        ),
        ("save_experts", on_model(library.save_experts), {"folder": "folder"}),
        ("save_experts", partial(on_model(library.save_experts), "x"), {"form": "name"}),
        (
            "save_experts",
            partial(on_model(library.save_experts), "x", form="low-rank"),
            {"rank": "whole from 1"},
        ),
        ("load_corpus", partial(library.load_corpus, language="cs"), {"name": "name"}),
        ("load_corpus", partial(library.load_corpus, "toy"), {"language": "language"}),
        ("corpus_report", partial(library.corpus_report, "toy"), {"language": "language"}),
        ("normalise", library.normalise, {"text": "text"}),
        ("normalise", partial(library.normalise, "one"), {"name": "name"}),
        ("count_errors", partial(library.count_errors, texts, texts), {"normaliser": "name"}),
        (
            "encode_labels",
            partial(library.encode_labels, tokenizer, language="cs"),
            {"text": "text"},
        ),
        (
            "encode_labels",
            partial(library.encode_labels, tokenizer, "one"),
            {"language": "language"},
        ),
        (
            "encode_labels",
            partial(library.encode_labels, tokenizer, "one", "cs"),
            {"task": "name"},
        ),
        ("prefix_tokens", partial(library.prefix_tokens, tokenizer), {"language": "language"}),
        ("add_noise", partial(library.add_noise, audio, seed=1), {"snr_db": "from 0"}),
        (
            "add_reverberation",
            partial(library.add_reverberation, audio, seed=1),
            {"rt60": "above 0"},
        ),
        (
            "length_batches",
            partial(library.length_batches, [1.0, 2.0]),
            {"batch_size": "whole from 1"},
        ),
        ("top_k_log_probs", partial(library.top_k_log_probs, logits), {"k": "whole from 1"}),
        (
            "js_divergence",
            partial(library.js_divergence, logits, logits),
            {"temperature": "above 0"},
        ),
        (
            "make_jobs",
            made_jobs,
            {"preset": "name"},
        ),
        ("use_window", on_model(_use_window), {"frames": "whole from 1"}),
        (
            "Decoding",
            _decoding,
            {"max_new_tokens": "whole from 1", "eval_batch_size": "whole from 1"},
        ),
    ]
    for door, call, options in doors:
        for case in _options("functions", options, call):
            yield _at(door, case)

    lists: dict[str, tuple[Callable, tuple]] = {
        "languages": (made_jobs, ([], ["xx"], "cs", [3], [None])),
        "sizes": (made_jobs, ([], ["many"], ["0"], ["-4"], ["1.5"], [4], "4")),
        "seeds": (made_jobs, (["x"], [-1], [1.5], [True], "77", 77)),
        "rows": (made_jobs, ([], ["unknown"], [3], "lora", [""])),
    }
    for option, (call, values) in lists.items():
        for value in values:
            named = (*_named(option, value), "no job")
            yield Case(
                "functions",
                f"make_jobs({option}={value!r})",
                partial(call, **{option: value}),
                named,
            )

    paired = on_lab(library.paired)
    calls: list[tuple[str, Callable[[], object], tuple[str, ...]]] = [
        ("paired(first='unknown')", lambda: paired(first="unknown"), ("unknown",)),
        ("paired(against=['unknown'])", lambda: paired(["unknown"]), ("unknown",)),
        (
            "paired(tests=('unknown',))",
            lambda: paired(["student"], "student", tests=("unknown",)),
            ("unknown",),
        ),
        ("paired(seeds=['x'])", lambda: paired(["student"], "clsr-ft", seeds=["x"]), ("seed",)),
        (
            "count_errors of unequal length",
            lambda: library.count_errors(texts, ["one"]),
            ("2", "1"),
        ),
        ("count_errors of numbers", lambda: library.count_errors([1], [2]), ("1", "text")),
        (
            "count_errors of nothing, summarised",
            lambda: library.summarise(library.count_errors([], [])),
            ("utterance", "reference", "empty", "nothing"),
        ),
        (
            "summarise of empty references",
            lambda: library.summarise(library.count_errors([""], ["a"])),
            ("utterance", "reference", "empty", "nothing"),
        ),
        (
            "translation_scores of unequal length",
            lambda: translation_scores(texts, ["one"]),
            ("2", "1"),
        ),
        (
            "paired_difference of other clips",
            lambda: library.paired_difference(
                library.count_errors(texts, texts), library.count_errors(["a"], ["a"])
            ),
            ("utterance", "clips"),
        ),
        (
            "attach_experts to a list",
            lambda: library.attach_experts([], "cs"),
            ("model", "list", "Whisper"),
        ),
        ("set_language of no expert", lambda: on_model(library.set_language)("ca"), ("ca",)),
        (
            "set_language without experts",
            lambda: library.set_language(library.tiny_whisper(), "cs"),
            ("experts",),
        ),
        (
            "save_experts without experts",
            lambda: save_experts(library.tiny_whisper(), "x"),
            ("experts",),
        ),
        ("load_experts of a missing language", lambda: loads(languages="ca"), ("ca",)),
        (
            "load_experts from a file",
            lambda: library.load_experts(library.tiny_whisper(), run + "/experts.json"),
            ("experts",),
        ),
        (
            "log_mel of a text",
            lambda: library.log_mel("x", library.tiny_processor().feature_extractor),
            ("audio", "array", "sound", "str"),
        ),
        (
            "log_mel of not a number",
            lambda: library.log_mel(audio * NAN, library.tiny_processor().feature_extractor),
            ("finite", "number", "nan"),
        ),
        (
            "add_noise to nothing",
            lambda: library.add_noise(audio[:0], 5, 1),
            ("audio", "sample", "sound"),
        ),
        (
            "estimate of no clips",
            lambda: library.estimate("lora", library.get_preset("laptop"), 0),
            ("clips",),
        ),
        (
            "estimate of an unknown method",
            lambda: library.estimate("x", library.get_preset("laptop"), 10),
            ("'x'",),
        ),
        (
            "bake of a plain Whisper",
            lambda: library.bake(library.tiny_whisper(), "cs", []),
            ("experts", "language"),
        ),
        (
            "bake with a threshold over 1",
            lambda: on_model(library.bake)("cs", [], 1.5),
            ("threshold",),
        ),
        ("bake of no batches", lambda: on_model(library.bake)("cs", []), ("batch",)),
        ("register of no method", lambda: library.register("x"), ("method", "'x'")),
        (
            "teacher distributions of a missing folder",
            lambda: library.TeacherDistributions("/no/such").lookup(["a"], torch.ones(1, 2)),
            ("/no/such",),
        ),
        (
            "load_corpus from a missing source",
            lambda: library.load_corpus("recordings", "es", "/no/such"),
            ("/no/such",),
        ),
        (
            "load_corpus from an empty folder",
            lambda: library.load_corpus("fleurs", "es", tempfile.mkdtemp()),
            ("fleurs",),
        ),
        (
            "load_corpus of an archive that is none",
            lambda: library.load_corpus("common-voice-3k", "es", __file__),
            ("inputs.py",),
        ),
        (
            "RunConfig.changed of an unknown field",
            lambda: small_lab().run_config("lora").changed(x=1),
            ("x",),
        ),
        ("experts' setting of LoRA", lambda: small_lab().run_config("lora", hard=True), ("hard",)),
        ("training the student", lambda: small_lab().train("student"), ("student",)),
        ("open_lab of an unknown field", lambda: library.open_lab("smoke", epoch=1), ("epoch",)),
        ("Lab of a dict", lambda: library.Lab({"name": "x"}), ("preset", "dict")),
    ]
    for what, call, names in calls:
        yield Case("functions", what, call, names)


def _at(door: str, case: Case) -> Case:
    """Return a case with the door in its text, and its own reasons to be taken."""
    reason = case.accepted or TAKEN.get((door, case.what), "")
    return Case(case.group, f"{door}({case.what})", case.call, case.names, reason)


TAKEN = {  # (door, value) -> why it is taken
    ("add_noise", "snr_db=-1.0"): "noise louder than speech",
    ("get_preset", "name=''"): "the default",
    ("make_jobs", "preset=None"): "the default",
}


def _use_window(model, frames) -> object:
    with library.use_window(model, frames):
        return model


def _decoding(**named) -> object:
    given = {"margin_seconds": 1.0, "max_new_tokens": 8, "eval_batch_size": 2, "normaliser": "none"}
    return library.Decoding(**given | named)


# ---- environment and command lines


def _environment(folder: Path) -> Iterator[Case]:
    def works() -> object:
        lab = library.open_lab()
        return lab.rows("train"), library.data_dir(), library.results_dir("x"), lab.precision

    file = str(folder / "cache" / "runs" / "smoke" / "steps.jsonl")
    wrong: dict[str, tuple[str, ...]] = {
        "LAB_PRESET": ("unknown", "SMOKE ", "../x", "1", "smoke,laptop", "."),
        "LAB_PRECISION": ("unknown", "16", "BF16x", "fp8", "true"),
        "LAB_CACHE": (file, f"{file}/below", "/proc/none", "/dev/null"),
        "LAB_RESULTS": (file, f"{file}/below", "/dev/null"),
        "LAB_DATA": (file, f"{file}/below", "/dev/null"),
    }
    for variable, values in wrong.items():
        for value in values:
            environment = {"LAB_PRESET": "smoke", variable: value}
            yield Case(
                "environment",
                f"{variable}={value[-40:]}",
                works,
                (variable, value),
                environment=environment,
            )


_LINES = {
    "distilwhisper_lib.lab.course": (
        "--preset unknown",
        "--preset",
        "--only 99",
        "--only",
        "--only x --preset smoke",
        "--unknown",
        "more",
    ),
    "distilwhisper_lib.experiments.grid": (
        "",
        "unknown",
        "list --preset unknown",
        "list --preset smoke --languages xx",
        "list --preset smoke --sizes many",
        "list --preset smoke --sizes 0",
        "list --preset smoke --sizes -4",
        "list --preset smoke --seeds x",
        "list --preset smoke --seeds -1",
        "list --preset smoke --systems unknown",
        "run --preset smoke --systems unknown",
        "run --preset smoke --sizes 4 --gpus 0 --systems student",
        "run --preset smoke --sizes 4 --gpus -1 --systems student",
        "run --preset smoke --job unknown",
        "run --preset smoke --job 999",
        "run --preset paper",
        "status --preset unknown",
        "table --preset unknown",
        "pairs --preset smoke --systems student",
        "slurm --preset smoke --sizes x",
        "list --preset paper --sizes 3k --languages cs --systems ''",
    ),
    "distilwhisper_lib.experiments.study": (
        "",
        "unknown",
        "tune --preset unknown",
        "tune --preset smoke --systems unknown",
        "tune --preset smoke --systems student",
        "seeds --preset smoke --seeds x",
        "seeds --preset smoke --seeds -1 --systems lora",
        "tune --preset smoke --epochs 0",
        "tune --preset smoke --epochs -1",
        "tune --preset smoke --epochs 1.5",
        "seeds --preset smoke --seeds --systems lora",
        "fidelity --preset smoke --systems student",
        "variants --preset smoke --systems lora",
        "top-k --preset smoke --systems lora",
        "tune --preset smoke --systems lora --seeds 78",
        "fidelity --preset smoke --seeds 78",
    ),
    "distilwhisper_lib.experiments.estimates": (
        "--preset unknown",
        "--clips 0",
        "--clips -1",
        "--clips x",
        "--clips 1.5",
        "--unknown",
    ),
    "distilwhisper_lib.experiments.smaller": ("--preset unknown", "--unknown", "more"),
    "distilwhisper_lib.experiments.convergence": ("--preset unknown", "--unknown"),
    "benchmarks.inference": (
        "--sizes unknown",
        "--batches 0 --sizes tiny",
        "--batches x",
        "--dtypes fp8",
        "--tokens 0 --sizes tiny",
        "--tokens -1 --sizes tiny",
        "--repeats 0 --sizes tiny",
        "--tokens 445 --sizes tiny",
        "--batches",
    ),
    "benchmarks.training": (
        "--size unknown",
        "--batch 0 --size tiny --teacher tiny",
        "--epochs 0 --size tiny --teacher tiny",
        "--repeats 0 --size tiny --teacher tiny",
        "--size tiny --batch 1 --repeats 1",
    ),
    "benchmarks.memory": ("--size unknown", "--batch 0 --size tiny --teacher tiny"),
    "benchmarks.storage": ("--sizes unknown", "--sizes"),
}


def _command_lines() -> Iterator[Case]:
    def run(module: str, words: list[str]) -> str:
        sys.argv = [module, *words]
        warnings.simplefilter("ignore")  # the module is imported already
        runpy.run_module(module, run_name="__main__")
        return "ran"

    for module, lines in _LINES.items():
        for line in lines:
            words = ["" if word == "''" else word for word in line.split()]
            what = f"{module.rpartition('.')[2]} {line}"
            environment = {"LAB_PRESET": "smoke"}
            yield Case(
                "command lines",
                what,
                partial(run, module, words),
                is_program=True,
                environment=environment,
            )
    for variable in ("LAB_PRESET", "LAB_CACHE", "LAB_RESULTS"):
        for module, line in (("lab.course", "--only 00"), ("experiments.study", "tune")):
            environment = {"LAB_PRESET": "smoke", variable: "/dev/null/x"}
            yield Case(
                "command lines",
                f"{variable}=/dev/null/x {module} {line}",
                partial(run, f"distilwhisper_lib.{module}", line.split()),
                (variable, "/dev/null"),
                is_program=True,
                environment=environment,
            )


# ---- files


def _tables(folder: Path) -> Iterator[Case]:
    for number, (what, (content, right, told)) in enumerate(TABLES.items()):
        source = folder / "tables" / str(number) / "ca"
        write_recordings(source, content)
        yield Case(
            "tables",
            what,
            partial(_table_read, source, right, told),
            ("recordings.csv",),
            environment={"LAB_CACHE": str(source.parent / "cache")},
        )


def _table_read(source: Path, right: int, told: int) -> str:
    """Prepare recordings; say whether every right row is there, and every other one told."""
    kept = len(library.load_corpus("recordings", "ca", source))
    report = library.corpus_report("recordings", "ca")
    flaws = report["malformed"] + sum(report["dropped"].values())
    return FINE if (kept, flaws) == (right, told) else f"{kept} rows kept, {flaws} told"


def _sounds() -> Iterator[Case]:
    for what, value in SOUND_VALUES.items():
        yield Case("sounds", what, partial(library.read_audio, value))


def _checkpoints(folder: Path) -> Iterator[Case]:
    run = next((folder / "cache" / "runs" / "smoke" / "runs").glob("clsr-ft-*")) / "model"

    def whisper(change: Callable[[Path], None]) -> object:
        copy = Path(tempfile.mkdtemp()) / "checkpoint"
        library.tiny_whisper().save_pretrained(copy)
        library.tiny_processor().save_pretrained(copy)
        change(copy)
        try:
            return library.load_whisper(str(copy)).dtype
        finally:
            shutil.rmtree(copy.parent)

    def experts(change: Callable[[Path], None]) -> object:
        copy = Path(tempfile.mkdtemp()) / "checkpoint"
        shutil.copytree(run, copy)
        change(copy)
        try:
            return type(library.load_experts(library.load_whisper("tiny"), copy))
        finally:
            shutil.rmtree(copy.parent)

    settings = ("expert_dropout", "gate_dim", "always_open")
    names = ("checkpoint", "experts.", "model.", "config", "outside", *settings)
    for what, change in WHISPERS.items():
        yield Case("checkpoints", f"Whisper: {what}", partial(whisper, change), names)
    for what, change in EXPERTS.items():
        yield Case("checkpoints", f"experts: {what}", partial(experts, change), names)
