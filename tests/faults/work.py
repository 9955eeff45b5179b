"""The kinds of work that are disturbed: each does something in a folder, and says what came out.

A kind starts from a state (a folder that another kind has left), so that what is disturbed is its
own work. All is small: the tiny Whisper, eight clips, three epochs.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import nbformat
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from contents import TIMES, without_times  # noqa: E402
from made_corpora import make_fleurs, make_recordings  # noqa: E402

from distilwhisper_lib.data.corpora import shards  # noqa: E402
from distilwhisper_lib.data.corpora.loading import load_corpus  # noqa: E402
from distilwhisper_lib.evaluation import transcription  # noqa: E402
from distilwhisper_lib.experiments import grid as grid_program  # noqa: E402
from distilwhisper_lib.experiments import grid_tables  # noqa: E402
from distilwhisper_lib.experiments import jobs as grid_jobs  # noqa: E402
from distilwhisper_lib.files import results_dir  # noqa: E402
from distilwhisper_lib.lab import course as course_program  # noqa: E402
from distilwhisper_lib.lab import course_steps  # noqa: E402
from distilwhisper_lib.lab.comparison import compare  # noqa: E402
from distilwhisper_lib.lab.lab import Lab  # noqa: E402
from distilwhisper_lib.training import teacher  # noqa: E402
from distilwhisper_lib.training.methods import trained_methods  # noqa: E402
from distilwhisper_lib.training.trainer import LabTrainer  # noqa: E402

EPOCHS = 3
STEPS_PER_EPOCH = 2
METHODS = (
    "teacher",
    "fine-tuning",
    "lora",
    "clsr-ft",
    "experts",
    "distilwhisper-released",
    "distilwhisper",
    "distilwhisper-low-rank",
)
RECORDINGS = 24
NOTEBOOKS = ("00", "01")
shards.SHARD = 6  # of these, so that there are several


def small_lab(**changes) -> Lab:
    """Return a lab of few clips and small batches, so that work has many steps."""
    small = {
        "epochs": EPOCHS,
        "teacher_epochs": EPOCHS,
        "teacher_clips": 4,  # in each of two languages: two steps an epoch here too
        "eval_batch_size": 2,
        "retention": (("toy", "nl"),),
    }
    return Lab("smoke", **small | changes)


def digest(value) -> str:
    """Return a hash of JSON, bytes, an array or a tensor."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous().view(torch.uint8).numpy()
    if isinstance(value, np.ndarray):
        value = value.tobytes()
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, default=str).encode()
    return hashlib.sha256(value).hexdigest()[:16]


# ---- what a kind of work gives back


def weights_of(lab: Lab, name: str) -> str:
    """Return a hash of the weights of a method's model, as the library loads it."""
    state = lab.model(name).state_dict()
    return digest([(key, digest(tensor)) for key, tensor in sorted(state.items())])


def log_of(lab: Lab, name: str) -> str:
    """Return a hash of a training's losses."""
    kept = ("loss", "eval_loss", "epoch", "step", "learning_rate", "ce", "kd", "budget")
    rows = [{key: row[key] for key in kept if key in row} for row in lab.run_log(name)]
    return digest(rows)


def corpus_rows(name: str, language: str) -> str:
    """Return a hash of all rows of a corpus, sounds included."""
    rows = [
        {key: digest(value["bytes"]) if key == "audio" else value for key, value in row.items()}
        for row in load_corpus(name, language).to_list()
    ]
    return digest(rows)


def train(name: str) -> dict:
    """Train a method, with whatever it needs: the teacher and its distributions."""
    lab = small_lab()
    lab.train(name)
    return {"weights": weights_of(lab, name), "log": log_of(lab, name)}


def train_best() -> dict:
    """Train with the best epoch kept."""
    lab = small_lab(keep="best")
    lab.train("clsr-ft")
    return {"weights": weights_of(lab, "clsr-ft"), "log": log_of(lab, "clsr-ft")}


def teacher_outputs() -> dict:
    """Cache the teacher's distributions."""
    lab = small_lab()
    found = lab.teacher_distributions()
    clips = lab.clips("train", limit=lab.preset.train_clips)
    rows = []
    for clip, labels in zip(clips.ids, clips.labels, strict=True):
        looked_up = found.lookup([clip], torch.tensor([labels]))
        rows.append([clip, *map(digest, looked_up)])
    return {"distributions": digest(rows)}


def transcribe() -> dict:
    """Transcribe the tests of the student and of one method."""
    lab = small_lab(eval_batch_size=1)
    tests = ("cs/in-domain", "cs/out-of-domain", "nl/retention")
    tables = [lab.transcribe("student", test).to_csv() for test in tests]
    return {"predictions": digest(tables)}


def comparison() -> dict:
    """Compare all methods."""
    table = compare(small_lab())
    return {"comparison": digest(table.round(3).to_csv())}


def toy_corpus() -> dict:
    """Prepare the toy corpus in four languages."""
    return {code: corpus_rows("toy", code) for code in ("cs", "ca", "nl", "es")}


def recordings() -> dict:
    """Prepare recordings in shards."""
    return {"rows": corpus_rows("recordings", "ca")}


def fleurs() -> dict:
    """Unpack and prepare FLEURS."""
    return {"rows": corpus_rows("fleurs", "ca")}


def grid() -> dict:
    """Do the jobs of a small grid, in this process."""
    listed = grid_jobs.make_jobs("smoke", None, ["4"], [77], ["student", "clsr-ft"])
    for job in listed:
        grid_jobs.run_job(job)
    states = [job.state()["state"] for job in listed]
    return {"table": digest(grid_tables.table(listed).to_csv()), "states": states}


def grid_run() -> dict:
    """Run a small grid by its program, each job in a process of its own."""
    options = ["--preset", "smoke", "--sizes", "4", "--seeds", "77", "--systems", "student", "lora"]
    code = grid_program.main(["run", *options])
    if code:
        raise SystemExit(code)
    listed = grid_jobs.make_jobs("smoke", None, ["4"], [77], ["student", "lora"])
    return {"table": digest(grid_tables.table(listed).to_csv())}


def course() -> dict:
    """Run two small notebooks by the program of the course."""
    course_steps.NOTEBOOKS = Path(os.environ["LAB_DATA"]) / "notebooks"
    course_program.main(["--preset", "smoke", "--only", *NOTEBOOKS])
    results = results_dir("smoke")
    paths = [next((results / "notebooks").glob(f"{number}_*[a-z].ipynb")) for number in NOTEBOOKS]
    return {"shown": [printed(path.read_text(encoding="utf-8")) for path in paths]}


# ---- states from which work starts


def make_data(data: Path) -> None:
    """Write the data that corpora and notebooks are made from."""
    make_recordings(data / "recordings" / "ca", RECORDINGS)
    make_fleurs(data / "fleurs")
    lines = ["from distilwhisper_lib import Lab", "lab = Lab('smoke')"]
    last_lines = ("print(len(lab.rows('train')))", "print(lab.train('lora').name)")
    for number, last_line in zip(NOTEBOOKS, last_lines, strict=True):
        notebook = nbformat.v4.new_notebook()
        for line in (*lines, last_line):
            notebook.cells.append(nbformat.v4.new_code_cell(line))
        (data / "notebooks").mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, data / "notebooks" / f"{number}_made_up.ipynb")


@dataclass(frozen=True)
class Kind:
    """A kind of work.

    Attributes:
        run: What is done; it returns what came out.
        start: Kinds whose work is there at the start.
        share: Of the attempts, relative to the others': slow kinds have less.
    """

    run: Callable[[], dict]
    start: tuple[str, ...] = ()
    share: float = 1.0


KINDS: dict[str, Kind] = {
    **{f"train {name}": Kind(lambda name=name: train(name), ("toy corpus",)) for name in METHODS},
    "train, best epoch": Kind(train_best, ("toy corpus",)),
    "teacher outputs": Kind(teacher_outputs, ("toy corpus",), 2),
    "transcribe": Kind(transcribe, ("toy corpus",), 2),
    "comparison": Kind(comparison, ("toy corpus", *(f"train {name}" for name in METHODS)), 2),
    "toy corpus": Kind(toy_corpus, (), 1),
    "recordings": Kind(recordings, (), 2),
    "fleurs": Kind(fleurs, (), 2),
    "grid": Kind(grid, ("toy corpus",), 2),
    "grid run": Kind(grid_run, ("toy corpus",), 0.2),
    "course step": Kind(course, ("toy corpus",), 0.4),
}
SHORT = ("toy corpus", "train clsr-ft", "transcribe", "recordings")  # of the short form


def all_of(kinds: Iterable[str]) -> dict:
    """Ask for the results of several kinds of work."""
    return {kind: KINDS[kind].run() for kind in kinds}


assert set(METHODS) >= set(trained_methods())


# ---- units of work, by which finished work that is done again shows


UNITS = {  # where the function is that does one
    "training_step": LabTrainer,
    "generate_batch": transcription,
    "teacher_forced_logits": teacher,
    "read_rows": shards,
}
# How much of each a kill may cost: what was under way.
UNDER_WAY = dict.fromkeys(UNITS, 1) | {"training_step": STEPS_PER_EPOCH}


def before_units(names: Iterable[str], call: Callable[[str], None]) -> None:
    """Have a function called before each training step, batch or shard."""

    def wrap(owner, name: str) -> None:
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            call(name)
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    for name in names:
        wrap(UNITS[name], name)


def count_units(path: Path) -> None:
    """Write a line into a file at the beginning of each unit of work."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    before_units(UNITS, lambda name: os.write(descriptor, f"{name}\n".encode()))


def die_at(name: str, number: int) -> None:
    """Kill this process before the unit of work with this number."""
    numbers = count(1)

    def call(_: str) -> None:
        if next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    before_units([name], call)


# ---- files of a folder


IGNORED = (".lock", "lock", "steps.jsonl", "log.txt", "timing-so-far.json", "preflight.json")
STATES = {"steps", "running", "done", "failed", "killed", "pid", "began"}  # when, of work and jobs


def printed(notebook: str) -> list[str]:
    """Return what an executed notebook has printed, without progress bars."""
    outputs = [
        output for cell in nbformat.reads(notebook, as_version=4).cells for output in cell.outputs
    ]
    return [output.text for output in outputs if output.get("name") == "stdout"]


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of each finished file below a folder, times left out, by its path there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name.endswith(IGNORED) or ".damaged-" in name:
            continue
        data = path.read_bytes().replace(str(folder).encode(), b"")
        if path.name == "timing.json":
            data = json.dumps(sorted(json.loads(data))).encode()
        elif path.suffix == ".json":
            kept = without_times(json.loads(data), TIMES | STATES)
            data = json.dumps(kept, sort_keys=True).encode()
        elif path.suffix == ".ipynb":
            data = json.dumps(printed(data.decode())).encode()
        found[name] = digest(data)
    return found


def folders_of(root: Path) -> dict[str, str]:
    """Return the environment in which a library works in a folder alone."""
    return {
        "LAB_CACHE": str(root / "cache"),
        "LAB_RESULTS": str(root / "results"),
        "LAB_DATA": str(root / "data"),
        "LAB_PRECISION": "no",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "0",  # of kernels: the order of sets in files of PEFT
        "PYTHONPATH": str(ROOT),
    }
