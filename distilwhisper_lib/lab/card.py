"""The model card of a run's experts, for `push_experts`: data, settings, scores and limits."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..data.corpora.common_voice import SIZES
from ..data.corpora.reports import corpus_report
from ..evaluation.scoring import paired_difference
from ..evaluation.testsets import DOMAINS, TestSet, corpus_of, is_retention
from ..files import REPOSITORY, read_json
from ..method.card import (
    NOT_STATED,
    base_name,
    base_section,
    card_data,
    language_names,
    library_section,
    loading_section,
    settings_table,
    title_end,
    what_they_are,
    write_card,
)
from ..method.storage import read_description
from ..presets import Preset
from ..training.config import RunConfig
from ..training.methods import METHODS, Weights, compared_methods, get_method
from ..whisper.tokens import language_code
from .comparison import counts, score
from .lab import Lab
from .metadata import commit

# Tests whose differences the card's first sentence states; the others are in its table.
DECISIVE = (*DOMAINS, "second-language")

ON_THE_HUB = {"fleurs": "google/fleurs"}  # corpora that are data sets of the hub, by their ids

# Asks for the licence of the corpus.
OF_THE_CORPUS = "corpus"


def model_card(
    lab: Lab,
    method: str = "distilwhisper",
    language: str | None = None,
    *,
    licence: str | None = None,
    compute: bool = False,
    **changes,
) -> Any:
    """Return the model card of the experts that a lab has trained on a language.

    All numbers are those of the run. Nothing is trained for the card, and nothing is transcribed
    unless `compute` is set: a method or test without stored predictions is not in the table. Where
    the experts are not better than plain Whisper, fine-tuning and LoRA, the first sentence says so.

    Args:
        lab: That has trained them.
        method: Name of a method with experts.
        language: Code; None: the preset's first.
        licence: Of the experts, which their author decides: the hub's id of one, such as
            "cc-by-4.0"; or "corpus", that of the training corpus. None: the card says "not stated".
        compute: Transcribe the language's tests where predictions of these experts, the student,
            the teacher or a trained method are missing.
        changes: As for `Lab.train`, where the run is another one than the preset's. The methods
            beside it are the preset's, at the same seed.

    Returns:
        A `huggingface_hub.ModelCard`, for `push_experts`.

    Raises:
        ValueError: For an unknown method, one without experts, or `licence="corpus"` where the
            corpus's card states none.
        FileNotFoundError: Where the lab has not trained the method with these settings.
    """
    language = lab.preset.language if language is None else language_code(language)
    run = _find_run(lab, method, language, changes)
    corpus = _describe_corpus(lab, language)
    if licence == OF_THE_CORPUS:
        licence = _licence_of(corpus)

    labels = _labels(lab, method)
    systems = _Systems(lab, method, language, changes)
    tests = _tests(lab, language)
    scores = systems.scores(tests, compute)
    differences = systems.differences(scores)
    missing = _not_compared(lab.preset, scores)

    verdict = first_sentence(differences, bool(len(scores)))
    description = run.description
    parts = [
        f"# Experts for {title_end(description)}",
        f"{verdict}\n\n{what_they_are(description)}",
        loading_section(description),
        _scores_section(scores, labels, lab),
        _data_section(corpus, run, lab),
        _training_section(run, lab),
        base_section(description),
        _licence_section(licence, corpus),
        _limits_section(run, lab, missing),
        library_section(commit()),
    ]
    metadata = card_data(description, licence)
    if corpus.name in ON_THE_HUB:
        metadata["datasets"] = [ON_THE_HUB[corpus.name]]
    results = _eval_results(scores[scores["system"] == method], lab)
    if results:
        metadata["eval_results"] = results
        metadata["metrics"] = ["wer"]
        whisper = base_name(description).split("/")[-1].split(", ")[-1]
        metadata["model_name"] = f"{whisper}-{method}-{language}"
    return write_card(metadata, parts)


# ---- the run


@dataclass(frozen=True)
class _Run:
    """What was trained.

    Attributes:
        config: Of the training.
        facts: Content of run.json.
        description: Content of experts.json.
    """

    config: RunConfig
    facts: dict[str, Any]
    description: dict[str, Any]


def _find_run(lab: Lab, method: str, language: str, changes: dict[str, Any]) -> _Run:
    """Return a finished run of a method with experts; raises as `model_card` does."""
    if not get_method(method).has_experts:
        known = [name for name, other in METHODS.items() if other.has_experts]
        raise ValueError(f"{method} has no experts to share: methods with some are {known}")

    config = lab.run_config(method, language, **changes)
    folder = _run_folder(lab, config)
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(
            f"{method} is not trained on {language!r} with these settings at preset "
            f"{lab.preset.name} ({folder} is missing): call lab.train({method!r}, {language!r}) "
            "first, with the same changes"
        )
    return _Run(config, read_json(folder / "run.json"), read_description(folder / "model"))


def _run_folder(lab: Lab, config: RunConfig) -> Path:
    return lab.folder / "runs" / config.name


# ---- scores


@dataclass(frozen=True)
class Difference:
    """The experts against another method on one test.

    Attributes:
        test: Name of the test.
        other: Label of the other method.
        wer: Of the experts, in per cent.
        other_wer: Of the other method.
        low: The lower end of the difference's paired 95 % interval (experts less other).
        high: Its upper end.
    """

    test: str
    other: str
    wer: float
    other_wer: float
    low: float
    high: float

    def __str__(self) -> str:
        wers = f"{self.other_wer:.1f} %; these experts {self.wer:.1f} %"
        return f"{self.other} on {self.test} ({wers})"


def first_sentence(differences: list[Difference], is_scored: bool = True) -> str:
    """Return the card's first sentence: whether the experts are better than the alternatives.

    An alternative is better or worse where the 95 % interval of the paired difference leaves out 0.

    Args:
        differences: Against plain Whisper and the methods without experts, the teacher left out.
        is_scored: Whether the experts have a WER at all.
    """
    if not is_scored:
        return "No word error rate (WER) was measured for these experts."
    if not differences:
        return (
            "These experts were compared with no other method on the same clips: nothing here says "
            "that they are better than plain Whisper, fine-tuning or LoRA."
        )

    better = [str(one) for one in differences if one.low > 0]
    unclear = [str(one) for one in differences if one.low <= 0 <= one.high]
    if better:
        sentence = "These experts do not have the lowest word error rate (WER): lower is that of "
        sentence += _and(better)
        if unclear:
            sentence += f"; there is no clear difference to {_and(unclear)}"
        return f"{sentence}."
    if unclear:
        return (
            "These experts are not clearly better than the alternatives: there is no clear "
            f"difference of the word error rate (WER) to {_and(unclear)}."
        )
    others = _and(list(dict.fromkeys(one.other for one in differences)))
    tests = _and(list(dict.fromkeys(one.test for one in differences)))
    return f"These experts have a lower word error rate (WER) than {others} ({tests})."


def _and(words: list[str]) -> str:
    """Return words as a list in a sentence."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


@dataclass(frozen=True)
class _Systems:
    """The experts, and what they stand beside.

    Attributes:
        lab: Where predictions are kept.
        method: Name of the method with the experts.
        language: Code.
        changes: Of their run, as for `Lab.train`.
    """

    lab: Lab
    method: str
    language: str
    changes: dict[str, Any]

    def changes_of(self, name: str) -> dict[str, Any]:
        """Return the settings of a method's run that are not the preset's."""
        if get_method(name).weights is not Weights.RUN:
            return {}
        if name == self.method:
            own = self.changes
        else:
            own = {key: value for key, value in self.changes.items() if key == "seed"}
        if self.language == self.lab.preset.language:
            return own
        return {"language": self.language, **own}

    def scores(self, tests: dict[str, TestSet], compute: bool) -> pd.DataFrame:
        """Return rows of `score` with the test's key, for what is stored, or can be transcribed."""
        rows = []
        for name in dict.fromkeys([*compared_methods(self.lab.preset), self.method]):
            if not self._has_weights(name):
                continue
            for key in tests:
                if compute or self.lab.is_transcribed(name, key, **self.changes_of(name)):
                    row = score(self.lab, name, key, **self.changes_of(name))
                    rows.append({"key": key, **row})
        return pd.DataFrame(rows, columns=None if rows else ["key", "system"])

    def _has_weights(self, name: str) -> bool:
        """Return whether a method can be scored without training anything."""
        try:
            return self.lab.is_ready(name, **self.changes_of(name))
        except ValueError:  # the preset has no learning rate for it
            return False

    def differences(self, scores: pd.DataFrame) -> list[Difference]:
        """Return the experts against each alternative, on the decisive tests."""
        wer = {(row.system, row.key): row.wer for row in scores.itertuples()}
        labels = _labels(self.lab, self.method)
        others = alternatives(self.lab.preset)
        found = []
        for name, key in wer:
            decisive = self.lab.test_set(key).name in DECISIVE
            if name not in others or not decisive or (self.method, key) not in wer:
                continue
            own = counts(self.lab, self.method, key, **self.changes_of(self.method))
            other = counts(self.lab, name, key, **self.changes_of(name))
            pair = paired_difference(own, other)
            found.append(
                Difference(
                    test=self.lab.test_set(key).name,
                    other=labels[name],
                    wer=wer[self.method, key],
                    other_wer=wer[name, key],
                    low=pair["low"],
                    high=pair["high"],
                )
            )
        return found


def alternatives(preset: Preset) -> list[str]:
    """Return what one could use instead of experts: the student, and methods without experts.

    Args:
        preset: Whose comparison is meant: some have further systems.
    """
    return [
        name
        for name, method in compared_methods(preset).items()
        if method.weights is not Weights.TEACHER and not method.has_experts
    ]


def _not_compared(preset: Preset, scores: pd.DataFrame) -> list[str]:
    """Return the labels of trained alternatives without a score."""
    scored = set(scores["system"])
    return [
        METHODS[name].label
        for name in alternatives(preset)
        if name not in scored and METHODS[name].is_trained
    ]


def _tests(lab: Lab, language: str) -> dict[str, TestSet]:
    """Return the transcriptions of a language that the table shows, by key.

    Neither validation, which settings were chosen by, nor tests that are without experts.
    """
    return {
        key: test
        for key, test in lab.test_sets.items()
        if (test.language, test.task) == (language, "transcribe")
        and test.name != "validation"
        and not is_retention(test.name)
    }


def _labels(lab: Lab, method: str) -> dict[str, str]:
    """Return how the card calls each method."""
    labels = {name: other.label for name, other in METHODS.items()}
    labels["student"] = "plain Whisper"
    labels["teacher"] = "stand-in teacher" if lab.preset.teacher is None else "teacher"
    return labels | {method: f"{METHODS[method].label}: **these experts**"}


def _scores_section(scores: pd.DataFrame, labels: dict[str, str], lab: Lab) -> str:
    """Return the table of WERs: a line per method, a column per test."""
    heading = "## Word error rate (WER)"
    if not len(scores):
        return f"{heading}\n\nNot measured."

    keys = list(dict.fromkeys(scores["key"]))
    cells = {(row.system, row.key): _cell(row) for row in scores.itertuples()}
    columns = []
    for key in keys:
        clips = scores.loc[scores["key"] == key, "n"].iloc[0]
        columns.append(f"{lab.test_set(key).name} ({clips} clips)")
    lines = [
        " | ".join(["| method", *columns]) + " |",
        "| --- |" + " ---: |" * len(keys),
    ]
    for name in dict.fromkeys(scores["system"]):
        values = [cells.get((name, key), "–") for key in keys]
        lines.append(" | ".join([f"| {labels[name]}", *values]) + " |")

    tests = [_test_line(lab.test_set(key), scores[scores["key"] == key]) for key in keys]
    return "\n".join(
        [
            f"{heading}\n",
            "In per cent, with the 95 % bootstrap interval over clips; lower is better. Texts are "
            f"compared after the normaliser `{lab.preset.normaliser}`; decoding is greedy.\n",
            *lines,
            "",
            *tests,
        ]
    )


def _cell(row: Any) -> str:
    return f"{row.wer:.1f} [{row.wer_low:.1f}, {row.wer_high:.1f}]"


def _test_line(test: TestSet, scores: pd.DataFrame) -> str:
    """Return what a test consists of."""
    title, _ = _corpus_card(test.corpus)
    release = _release(scores)
    sound = f", sound changed: {test.change}" if test.change else ""
    return f"- **{test.name}**: {title}{release}, split `{test.split}`{sound}."


def _release(scores: pd.DataFrame) -> str:
    """Return the corpus's release as rows of `score` name it."""
    if "release" not in scores or scores["release"].isna().all():
        return ""
    return f" ({scores['release'].iloc[0]})"


def _eval_results(scores: pd.DataFrame, lab: Lab) -> list[Any]:
    """Return the experts' scores as `huggingface_hub.EvalResult`, one for each test."""
    from huggingface_hub import EvalResult

    results = []
    for row in scores.itertuples():
        test = lab.test_set(row.key)
        title, _ = _corpus_card(test.corpus)
        details = {
            "low": round(float(row.wer_low), 2),
            "high": round(float(row.wer_high), 2),
            "clips": int(row.n),
            "normaliser": lab.preset.normaliser,
        }
        release = getattr(row, "release", None)
        results.append(
            EvalResult(
                task_type="automatic-speech-recognition",
                task_name="Speech recognition",
                dataset_type=ON_THE_HUB.get(test.corpus, test.corpus),
                dataset_name=f"{title} ({language_names([test.language])}), {test.name}",
                dataset_config=test.language,
                # The hub takes results with the same split together.
                dataset_split=f"{test.split} ({test.name})",
                dataset_revision=release if isinstance(release, str) else None,
                metric_type="wer",
                metric_name="WER in per cent",
                metric_value=round(float(row.wer), 2),
                metric_args=details,
            )
        )
    return results


# ---- data and licence


@dataclass(frozen=True)
class _Corpus:
    """The training corpus.

    Attributes:
        name: In CORPORA.
        title: In words.
        licence: The hub's id of it; None where the corpus's card states none.
        report: As `corpus_report` gives it.
    """

    name: str
    title: str
    licence: str | None
    report: dict[str, Any]


def _describe_corpus(lab: Lab, language: str) -> _Corpus:
    """Return the corpus of a language's training clips."""
    name = corpus_of(lab.preset, language)
    title, licence = _corpus_card(name)
    return _Corpus(name, title, licence, corpus_report(name, language))


def _corpus_card(corpus: str) -> tuple[str, str | None]:
    """Return title and licence that the corpus's card in `data/` states; else its name and None."""
    from huggingface_hub import DatasetCard

    folder = "common-voice" if corpus in SIZES else corpus
    path = REPOSITORY / "data" / folder / "README.md"
    if not path.is_file():
        return corpus, None
    data = DatasetCard(path.read_text(encoding="utf-8")).data.to_dict()
    return data.get("pretty_name", corpus), data.get("license")


def _licence_of(corpus: _Corpus) -> str:
    """Return the licence of a corpus; raises ValueError where its card states none."""
    if corpus.licence is None:
        raise ValueError(
            f"the card of the corpus {corpus.name} states no licence: give one, such as "
            'licence="cc-by-4.0", or leave it out'
        )
    return corpus.licence


def _licence_section(licence: str | None, corpus: _Corpus) -> str:
    """Return the experts' licence, and the corpus's beside it."""
    return (
        f"## Licence\n\nThe experts: {licence or NOT_STATED}. "
        f"The training data: {corpus.licence or NOT_STATED}."
    )


def _data_section(corpus: _Corpus, run: _Run, lab: Lab) -> str:
    """Return which clips were trained on."""
    language = run.config.data.language
    clips = lab.clips("train", language, lab.preset.train_clips)
    minutes = sum(clips.durations) / 60
    release = corpus.report.get("release")
    lines = [
        f"- Corpus: {corpus.title} (`{corpus.name}`)" + (f", release {release}" if release else ""),
        f"- Language: {language_names([language])} (`{language}`)",
        f"- Training clips: {run.config.data.clips:,} ({minutes:.1f} minutes)",
        f"- Fingerprint of the prepared corpus: `{corpus.report['fingerprint']}`",
    ]
    return "## Training data\n\n" + "\n".join(lines)


# ---- method and limits


def _training_section(run: _Run, lab: Lab) -> str:
    """Return method, teacher and settings."""
    config = run.config
    settings = {
        "experts and gates": asdict(config.experts) if config.experts else {},
        "loss": asdict(config.objective),
        "training": asdict(config.optimisation),
        "run": {
            "seed": config.seed,
            "mixed precision": config.precision,
            "epoch kept": "best on validation" if config.choose_epoch else "last",
            "fidelity": lab.preset.fidelity,
            "steps": run.facts["steps"],
            "seconds": run.facts["seconds"],
        },
    }
    return "\n\n".join(
        [
            "## Training",
            f"Method: {METHODS[config.method].label} (`{config.method}`). Student: "
            f"{base_name(run.description)}, frozen. Teacher: {_teacher(run, lab)}.",
            settings_table(settings),
        ]
    )


def _teacher(run: _Run, lab: Lab) -> str:
    """Return who taught the experts."""
    if not run.config.objective.distils:
        return "none"
    if lab.preset.teacher:
        name = lab.preset.teacher
        return f"a local folder, {Path(name).name}" if Path(name).expanduser().is_dir() else name
    facts = read_json(_run_folder(lab, lab.run_config("teacher")) / "run.json")
    clips = f" on {facts['clips']:,} other clips" if facts else ""
    return f"a stand-in, {base_name(run.description)} fine-tuned{clips}"


def _limits_section(run: _Run, lab: Lab, missing: list[str]) -> str:
    """Return what the numbers do not say."""
    language = language_names([run.config.data.language])
    lines = [
        f"- For {language} alone, and for this Whisper alone.",
        f"- One run with seed {run.config.seed}: how far other seeds lie apart is not in the "
        "intervals.",
        "- Trained and tested without timestamps.",
    ]
    if run.config.objective.distils and lab.preset.teacher is None:
        lines.append(
            "- The teacher is a stand-in fine-tuned from the student, where the paper has "
            "whisper-large-v2: it teaches less."
        )
    if missing:
        lines.append(f"- Not compared with {_and(missing)}: no scores on the same tests.")
    return "## Limits\n\n" + "\n".join(lines)
