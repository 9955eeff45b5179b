"""Fill the generated parts of README.md and docs/, each between two comments of its name.

    .venv/bin/python tools/readme_results.py

Tables come from results/reference, from the presets and from method_table.py; so do the sentences
with a verdict, and from docs/book/publication.toml. A test compares; run this to update.
tools/docs_figures.py draws the pictures of docs/figures, tools/write_address.py writes the address
of publication everywhere.
"""

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import docs_results
import docs_study
import docs_tables
import docs_teach
import docs_toy
import publication
from docs_results import DOMAINS
from docs_tables import markdown_table
from stored_results import OURS, REFERENCE, ROOT

POOLED = "distilwhisper-released"


# ---- README


def fill_minutes(text: str, folder: Path = REFERENCE) -> str:
    """Put the reference run's minutes behind each notebook of README's list."""
    path = folder / "timing.json"
    seconds = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def minutes(line: re.Match) -> str:
        spent = seconds.get(line["stem"])
        return f"{line['text']} ({'–' if spent is None else f'{spent / 60:.1f}'} min)"

    pattern = r"^(?P<text>- \[\d\d [^]]*\]\(notebooks/(?P<stem>\w+)\.ipynb\).*) \([^()]* min\)$"
    return re.sub(pattern, minutes, text, flags=re.M)


# ---- reliability

PARTS = {  # of the fault harness -> what is done
    "kills": "killed or stopped at a random moment, then called again",
    "pairs": "two processes at one cache",
    "damage": "a damaged file in the cache or the results",
    "inputs": "a bad input",
    "disks": "a full, read-only or limited disk",
}
FAULTS = ("lost", "crashed", "bare traceback", "silently other")


def reliability() -> str:
    """Return the stored figures of the fault harness (`python -m tests.faults --publish`)."""
    rows = []
    for part, what in PARTS.items():
        found = read_faults(part)
        rows.append([what, *(str(found[column]) for column in ("tried", *FAULTS))])
    return markdown_table(rows, ["what", "tried", *FAULTS])


def read_faults(part: str) -> dict:
    """Return the stored counts of a part of the fault harness."""
    path = ROOT / "results" / "reference" / "faults" / f"{part}.json"
    return json.loads(path.read_text(encoding="utf-8"))


# ---- filling

Content = Callable[[], str]


def each(
    name: str, content: Callable[[str], str], arguments: tuple[str, ...]
) -> dict[str, Content]:
    """Return a block for each argument: its name with the argument, and its content."""
    return {name.format(argument): partial(content, argument) for argument in arguments}


FIDELITY_STUDIES = ("fidelity", "fidelity-lora", "fidelity-lora-labels")
PAGES: dict[str, dict[str, Content]] = {  # page -> block -> what fills it
    "README.md": {
        "colab": publication.front_badge,
        "results": docs_study.headline,
        "sentences": docs_study.sentences,
    },
    "docs/colab.md": {"notebooks": publication.steps_on_colab},
    "docs/results.md": {
        "run": docs_results.about_run,
        **each("{}", docs_results.domain, DOMAINS),
        "other-languages": docs_results.other_languages,
        **each("paired-{}", docs_results.differences, DOMAINS),
        "stress": docs_results.stress,
        "variants": docs_results.variants,
        "harder-sound": docs_results.harder_sound,
        "second-language": docs_results.second_language,
        "translation": docs_results.translation,
    },
    "docs/statistics.md": {
        "power": docs_study.power_in_words,
        **each("ways-{}", docs_results.ways, (*DOMAINS, docs_results.STRESS)),
        "corrected": docs_results.corrected,
        "stand-in": docs_results.stand_in,
    },
    "docs/method.md": {
        "same-settings": docs_tables.same_settings,
        "preset-settings": docs_tables.preset_settings,
        "learning-rates": docs_tables.learning_rates,
        "switches": docs_tables.switches,
        "without-switch": docs_tables.without_switch,
        **each("{}", docs_tables.fidelity_study, FIDELITY_STUDIES),
    },
    "docs/running.md": {
        "presets": docs_tables.presets,
        "preset-speech": docs_tables.preset_speech,
    },
    "docs/benchmarks.md": {
        "inference": docs_tables.inference,
        "training": docs_tables.training,
        "memory": docs_tables.memory,
        **each("{}-machines", docs_tables.measured_on, ("inference", "training", "memory")),
    },
    "docs/claims.md": {
        "progress": docs_study.progress,
        "answer": docs_study.answer,
        "plan": docs_study.plan,
        "tuning": docs_study.tuning,
        "power": docs_study.power,
        "hypotheses": docs_study.hypotheses,
        "systems": docs_study.systems,
        "other-languages": docs_study.other_languages,
        "pairs": docs_study.pairs,
        "causes-answer": docs_study.causes_answer,
        "ceiling": docs_study.ceiling,
        "fewer-clips-rates": docs_study.fewer_clips_rates,
        "fewer-clips": docs_study.fewer_clips,
        "other-losses": docs_study.other_losses,
        "curve": docs_study.curve,
        "curve-answer": docs_study.curve_answer,
    },
    "docs/toy-languages.md": {
        "models": docs_toy.models,
        "answer": docs_toy.answer,
        "systems": docs_toy.systems,
        "claims": docs_toy.claims,
        "pairs": docs_toy.pairs,
        "run": docs_toy.run,
        "real-speech": docs_toy.real_speech,
        "where": docs_toy.where_others_lie,
        "knobs-answer": docs_toy.knobs_answer,
        **each("knob-{}", docs_toy.knob, docs_toy.COMPUTED),
    },
    "docs/reliability.md": {"faults": reliability},
    "docs/deployment.md": {
        "storage": docs_tables.storage,
        **each("smaller-{}", docs_tables.smaller, (OURS, "distilwhisper-low-rank", POOLED)),
    },
    "docs/teach/README.md": {"times": docs_teach.times, "exercises": docs_teach.exercises},
    **{
        f"docs/teach/afternoon-{number}.md": {"times": partial(docs_teach.times_of, number)}
        for number in docs_teach.AFTERNOONS
    },
    "docs/teach/quiz.md": each("quiz-{}", docs_teach.quiz, docs_teach.NUMBERS),
}


def fill(text: str, name: str, content: str) -> str:
    """Return `text` with what is between the comments `name` and `/name` replaced.

    Raises:
        ValueError: where there is not exactly one pair of such comments.
    """
    pattern = rf"(<!-- {name}:[^>]*-->\n).*?(<!-- /{name} -->)"
    if len(re.findall(pattern, text, re.S)) != 1:
        raise ValueError(
            f"there must be one pair of comments <!-- {name}: ... --> and <!-- /{name} -->"
        )
    return re.sub(pattern, lambda found: f"{found[1]}{content}\n{found[2]}", text, flags=re.S)


def filled(page: str, text: str) -> str:
    """Return the text of a page, such as "docs/results.md", with its generated parts."""
    for name, content in PAGES.get(page, {}).items():
        text = fill(text, name, content())
    if page == "README.md":
        text = publication.with_clone_address(fill_minutes(text))
    return text


def main() -> None:
    """Update all pages and say what changed."""
    for page in PAGES:
        path = ROOT / page
        old = path.read_text(encoding="utf-8")
        new = filled(page, old)
        path.write_text(new, encoding="utf-8")
        print(f"{page}: {'updated' if new != old else 'as it was'}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
