"""Fill the parts of README.md and CONTRIBUTING.md that are made from other files, between two comments each.

    .venv/bin/python tools/readme_results.py

README.md: "results" from results/reference/laptop, "presets" from presets.py, "method" and "fidelity" from
method_table.py, "inference", "training" and "storage" from the benchmarks, and the notebooks' minutes.
CONTRIBUTING.md: "modules" from the library's own first lines and imports. A test compares; run this to update.
"""

import ast
import json
import re
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distilwhisper_lib.lab.comparison import main_table  # noqa: E402
from distilwhisper_lib.training.systems import EVERY, SYSTEMS  # noqa: E402
from method_table import MODES, fidelity_rows, method_rows  # noqa: E402

from distilwhisper_lib.presets import PRESETS, Preset  # noqa: E402

LIBRARY = ROOT / "distilwhisper_lib"
REFERENCE = ROOT / "results" / "reference" / "laptop"
BENCHMARKS = ROOT / "results" / "reference" / "benchmarks"
STORED = ("size", "form", "rank", "megabytes", "times fp32")
ABSENT = (
    "*The reference run is not in yet: there is no `results/reference/laptop/comparison.csv`. "
    "`make course` prints this table for your own machine.*"
)
CAPTIONS = {  # first words of a figure's file name -> what it shows
    "comparison": "WER of every system in both domains, with 95 % intervals",
    "gap": "WER of student and teacher on every test",
    "forgetting": "Change against the student on other languages and on translation",
    "gate": "Share of positions that the gates send to the expert",
    "cost": "WER against training time and stored size",
    "curves": "Losses over the epochs of training",
}


def markdown_table(rows: list[list[str]], head: list[str]) -> str:
    """Return rows as a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def results(folder: Path) -> str:
    """Return the section of results: table, paired differences, record, pictures; a remark where there are none."""
    if not (folder / "comparison.csv").is_file():
        return ABSENT
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    table = main_table(pd.read_csv(folder / "comparison.csv"), record["preset"]["language"])
    rows = [[name, *("–" if cell in ("nan", "nan [nan, nan]") or pd.isna(cell) else cell for cell in row)]
            for name, *row in table.itertuples()]
    parts = [markdown_table(rows, ["system", *table.columns]), paired_differences(folder), about_run(folder, record),
             *pictures(folder)]
    return "\n\n".join(part for part in parts if part)


def paired_differences(folder: Path) -> str:
    """Return the paired differences as a table; the last column says whether the interval excludes zero."""
    path = folder / "paired.csv"
    if not path.is_file():
        return ""
    found = pd.read_csv(path)
    label = found["first"].map(lambda name: SYSTEMS[name].label).iloc[0]
    rows = [[SYSTEMS[row.other].label, row.test_set, f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]",
             "yes" if row.low > 0 or row.high < 0 else "no"] for row in found.itertuples()]
    text = (f"WER of *{label}* less that of another system on the same clips, in points, with the 95 % interval of "
            "the paired bootstrap (negative: fewer errors):")
    return text + "\n\n" + markdown_table(rows, ["against", "test", "difference", "interval without zero"])


def about_run(folder: Path, record: dict) -> str:
    """Return a sentence on where the figures come from."""
    machine, steps = record["machine"], record.get("steps", [])
    minutes = sum(step["seconds"] for step in steps) / 60
    peak = max((step["peak_memory_gb"] for step in steps), default=0)
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items()
                         if name in ("torch", "transformers", "peft"))
    return (f"WER and CER in %, 95 % bootstrap intervals in brackets, corpus level, greedy decoding, normaliser "
            f"`{record['preset'].get('normaliser', 'whisper-basic')}`. Measured on "
            f"{machine['gpu'] or machine['processor']} ({machine['cores']} cores, precision {machine['precision']}) in "
            f"{minutes:.0f} minutes of training and transcribing, at most {peak:.1f} GB of memory in a process, commit "
            f"`{(record['commit'] or 'none')[:10]}`, {versions}. Everything else: "
            f"[`run.json`]({(folder / 'run.json').relative_to(ROOT).as_posix()}).")


def pictures(folder: Path) -> list[str]:
    """Return a Markdown image for each of the figures, those that compare systems first."""
    order = list(CAPTIONS)
    paths = sorted((folder / "figures").glob("*.png"), key=lambda path: (_rank(path, order), path.name))
    return [f"![{_caption(path)}]({path.relative_to(ROOT).as_posix()})" for path in paths]


def _rank(path: Path, order: list[str]) -> int:
    return next((i for i, word in enumerate(order) if word in path.stem), len(order))


def _caption(path: Path) -> str:
    words = path.stem.replace("_", " ").replace("-", " ")
    return next((text for word, text in CAPTIONS.items() if word in path.stem), words.capitalize())


def presets() -> str:
    """Return the table of presets."""
    head = ["preset", "student", "teacher", "speech", "epochs", "time of `make course`", "memory"]
    rows = [[f"`{p.name}`", p.student, p.teacher or "stand-in, trained here", _speech(p), p.epochs, p.minutes, p.memory]
            for p in PRESETS.values()]
    return markdown_table(rows, head)


def _speech(preset: Preset) -> str:
    if preset.corpus == "toy":
        return "made up"
    window = "30 s window" if preset.margin_seconds is None else f"clip + {preset.margin_seconds:g} s"
    return f"{preset.corpus}, {preset.second_corpus}; {window}"


RUNS = {"mixed": "both blocks", "routed": "routed", "languages": "rows of three languages",
        "agreeing": "gates that agree", "fixed": "fixed gates", "halves": "plain in two halves"}


def inference() -> str:
    """Return the table of the benchmark of inference: times plain Whisper, plain Whisper over the floor, and where."""
    found = pd.read_csv(BENCHMARKS / "inference.csv")
    setting, rows = ["size", "dtype", "batch", "compiled", "work"], []
    for keys, part in found.groupby(setting, sort=False):
        runs = part.set_index("run")
        times = runs["times plain"].reindex(list(RUNS)).map("{:.2f}".format, na_action="ignore").fillna("")
        rows.append([*keys, *times, f"{runs.loc['plain', 'times floor']:.1f}", machine_of(runs.loc["plain"])])
    head = [*setting, *RUNS.values(), "plain Whisper over the floor", "machine"]
    return f"{markdown_table(rows, head)}\n\n{measured_on(found)}"


def machine_of(row: pd.Series) -> str:
    """Return the maker of a row's processor or its GPU, and whether it computes in 16 bits."""
    name = row.processor.split("(")[0].split()[0] if pd.isna(row.gpu) else row.gpu
    return name + ("" if row.precision == "no" else f", {row.precision}")


def measured_on(found: pd.DataFrame) -> str:
    """Return a sentence on the machines that a benchmark ran on."""
    machines = found[["processor", "gpu", "threads", "precision", "torch"]].drop_duplicates()
    each = [f"{row.processor if pd.isna(row.gpu) else row.gpu} ({row.threads} threads, 16 bits: {row.precision}), "
            f"torch {row.torch}" for _, row in machines.iterrows()]
    return f"Measured on {'; '.join(each)}."


def training() -> str:
    """Return the table of the benchmark of training, by shapes: seconds, times the baseline, what each step is worth."""
    found, memory = (pd.read_csv(BENCHMARKS / f"{name}.csv") for name in ("training", "memory"))
    setting, rows, peaks = ["size", "teacher", "batch"], [], []
    name_of = "{} from {}, batches of {}".format
    for shapes, part in found.groupby(setting, sort=False):
        called, steps = name_of(*shapes), part[part["work"] == "step"].set_index("run")["seconds"]
        plain = [run for run in steps.index if run != "frozen front" and not run.startswith("without")]
        above = dict(zip(plain[1:], steps[plain[:-1]], strict=True))
        above |= {run: steps[plain[-1]] for run in steps.index if run.startswith("without")}
        for _, row in part.iterrows():
            worth = f"{row['seconds'] / above[row['run']]:.2f}" if row["work"] == "step" and row["run"] in above else ""
            rows.append([called, row["work"], row["run"], f"{row['seconds']:.1f}", f"{row['times baseline']:.2f}", worth,
                         f"{row['times floor']:.1f}"])
    for shapes, part in memory.groupby(setting, sort=False):
        peak = part.set_index("run")
        peaks.append(f"{name_of(*shapes)}: {peak.gb['library']:.1f} against {peak.gb['baseline']:.1f} GB, "
                     f"{peak['times baseline']['library']:.2f} times the baseline's")
    head = ["shapes", "work", "with", "seconds", "times baseline", "times the row above; without: times all steps",
            "over the floor"]
    return (f"{markdown_table(rows, head)}\n\nPeak of memory of a step, {'; '.join(peaks)}. "
            f"{measured_on(pd.concat([found, memory]))}")


def smaller() -> str:
    """Return the table of the study of smaller experts: megabytes, WER, the paired difference to the training itself."""
    rows = []
    for row in pd.read_csv(REFERENCE / "studies" / "smaller.csv").itertuples():
        name = EVERY[row.system].label + (", gates that agree" if row.agreement else "")
        difference = "" if pd.isna(row.difference) else f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
        rows.append([name, row.form, "" if pd.isna(row.megabytes) else f"{row.megabytes:.1f}",
                     f"{row.wer:.1f} [{row.wer_low:.1f}, {row.wer_high:.1f}]", difference])
    return markdown_table(rows, ["experts", "form", "MB a language", "WER", "against the same training as it is (rank 64: against our variant as it is)"])


def storage() -> str:
    """Return the table of the benchmark of storage: megabytes of a language in each form."""
    found = pd.read_csv(BENCHMARKS / "storage.csv")
    rows = [[size, form if pd.isna(rank) else f"{form}, rank {rank:.0f}", f"{megabytes:.1f}", f"{times:.2f}"]
            for size, form, rank, megabytes, times in zip(*(found[name] for name in STORED), strict=True)]
    return markdown_table(rows, ["size", "form", "MB a language", "times fp32"])


def method() -> str:
    """Return the table of settings: release, source, presets."""
    return markdown_table(method_rows(), ["setting", "release", "where it stands", "`laptop`", "`colab`", "`paper`"])


def fidelity() -> str:
    """Return the table of the differences between paper, release and kit: switch, what each fidelity does, source."""
    return markdown_table(fidelity_rows(), ["setting", "switch", *(f"`{mode}`" for mode in MODES), "where it stands"])


def fill_minutes(text: str, folder: Path) -> str:
    """Put the reference run's minutes into the last column of README's table of notebooks ("–" without one)."""
    path = folder / "timing.json"
    seconds = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def minutes(row: re.Match) -> str:
        spent = seconds.get(row["stem"])
        return f"{row['cells']} {'–' if spent is None else f'{spent / 60:.1f}'} |"

    return re.sub(r"^(?P<cells>\| \[\d\d\]\(notebooks/(?P<stem>\w+)\.ipynb\).*\|)[^|\n]*\|$", minutes, text, flags=re.M)


def module_name(path: Path) -> str:
    """Return a module's dotted name inside the library; a package has the name of its folder."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(path: Path) -> list[str]:
    """Return the modules of the library that a module imports, in alphabetical order, as `module_name` gives them."""
    package = path.relative_to(LIBRARY).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        inside = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
        found |= {".".join([*inside, *([] if node.module else [alias.name])]) for alias in node.names}
    return sorted(found)


def in_order(imports: dict[str, list[str]]) -> list[str]:
    """Return the modules so that each imports only earlier ones; raises ValueError where they go in a circle."""
    placed: list[str] = []
    while len(placed) < len(imports):
        ready = [name for name in sorted(imports) if name not in placed and set(imports[name]) <= set(placed)]
        if not ready:
            left = sorted(set(imports) - set(placed))
            raise ValueError(f"imports go in a circle among {', '.join(left)}")
        placed += ready
    return placed


def modules() -> str:
    """Return the map of the library: module, first line of its docstring, imports; a row imports only earlier rows."""
    paths = {module_name(path): path for path in LIBRARY.rglob("*.py")}
    del paths["__init__"]
    imports = {name: imports_of(path) for name, path in paths.items()}
    rows = []
    for name in in_order(imports):
        first = ast.get_docstring(ast.parse(paths[name].read_text(encoding="utf-8"))).split("\n\n")[0].split("\n")
        rows.append([f"`{name}`", " ".join(first), ", ".join(imports[name]) or "–"])
    return markdown_table(rows, ["module", "what it is for", "imports"])


def fill(text: str, name: str, content: str) -> str:
    """Return `text` with what is between the comments `name` and `/name` replaced; ValueError where they are not."""
    pattern = rf"(<!-- {name}:[^>]*-->\n).*?(<!-- /{name} -->)"
    if len(re.findall(pattern, text, re.S)) != 1:
        raise ValueError(f"there must be one pair of comments <!-- {name}: ... --> and <!-- /{name} -->")
    return re.sub(pattern, lambda found: f"{found[1]}{content}\n{found[2]}", text, flags=re.S)


def readme(text: str, folder: Path = REFERENCE) -> str:
    """Return README.md's text with its generated parts."""
    parts = {"results": results(folder), "presets": presets(), "method": method(), "fidelity": fidelity(),
             "inference": inference(), "training": training(), "storage": storage(), "smaller": smaller()}
    for name, content in parts.items():
        text = fill(text, name, content)
    return fill_minutes(text, folder)


def contributing(text: str) -> str:
    """Return CONTRIBUTING.md's text with its generated part."""
    return fill(text, "modules", modules())


def main() -> None:
    """Update both files; says what changed, and where the reference is absent."""
    for name, update in (("README.md", readme), ("CONTRIBUTING.md", contributing)):
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = update(old)
        path.write_text(new, encoding="utf-8")
        print(f"{name}: {'updated' if new != old else 'as it was'}")
    if not (REFERENCE / "comparison.csv").is_file():
        print(f"no reference run in {REFERENCE.relative_to(ROOT)}: copy results/laptop there after `make course`")


if __name__ == "__main__":
    main()
