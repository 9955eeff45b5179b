"""Test sets: in-domain, out-of-domain, distorted audio, other languages and translation."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset

from ..checks import check_choice
from ..data.audio import add_noise, add_reverberation
from ..data.corpora.loading import has_common_voice, load_corpus
from ..data.corpora.registry import CORPORA
from ..presets import Preset
from ..whisper.tokens import language_code

# Distortions of the audio of a test set: (audio, seed) -> audio.
CHANGES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "noise": lambda audio, seed: add_noise(audio, snr_db=5, seed=seed),
    "reverberation": lambda audio, seed: add_reverberation(audio, rt60=0.6, seed=seed),
}

DOMAINS = ("in-domain", "out-of-domain")

# The test of a language that is never trained on; see `is_retention`.
RETENTION = "retention"

# Corpora with a split "test-other" of other voices, and its languages.
WITH_OTHER_VOICES = {"fillets": ("cs",), "toy": CORPORA["toy"], "world": CORPORA["world"]}

# Corpora whose lines come with an English line that says the same.
WITH_ENGLISH = ("fillets", "stamps", "toy", "world", "fleurs")


@dataclass(frozen=True)
class TestSet:
    """A named test set.

    Attributes:
        name: The test, such as "in-domain"; unique within a language.
        language: The language of the speech.
        corpus: The corpus, a name in CORPORA.
        split: The split of the corpus.
        task: "transcribe" or "translate".
        change: A name in CHANGES, the distortion of the audio; None leaves it as it is.
        limit: At most how many clips; None takes all.
        voice: The speaker whose lines are taken; None takes those of all.
        other_voices: Take the lines of all speakers but `voice` instead.
    """

    __test__ = False  # not a test class for pytest

    name: str
    language: str
    corpus: str
    split: str = "test"
    task: str = "transcribe"
    change: str | None = None
    limit: int | None = None
    voice: str | None = None
    other_voices: bool = False

    @property
    def key(self) -> str:
        """Return "language/name"."""
        return f"{self.language}/{self.name}"

    @property
    def text_column(self) -> str:
        """Return the column with the reference: the text, or the English text for translation."""
        return "text" if self.task == "transcribe" else "translation_en"


def is_retention(name: str) -> bool:
    """Return whether a name is that of a test in a language that is never trained on.

    It is "retention", or "retention-<corpus>" where another corpus has the language's first one.
    """
    return name == RETENTION or name.startswith(f"{RETENTION}-")


def load_for(preset: Preset, corpus: str, language: str) -> Dataset:
    """Return a corpus, recordings of the preset's first language from the folder that it names.

    Args:
        preset: Of the laboratory.
        corpus: Name of a corpus.
        language: Code.

    Raises:
        ValueError: As `load_corpus` does.
        OSError: As `load_corpus` does.
    """
    is_own = (corpus, language) == ("recordings", preset.language)
    return load_corpus(corpus, language, preset.recordings if is_own else None)


def corpus_of(preset: Preset, language: str) -> str:
    """Return the corpus from which a preset takes a language, by code or name.

    Raises:
        ValueError: For an unknown corpus or language, or where neither of the preset's two corpora
            has the language. The message lists the languages that they have.
    """
    code = language_code(language)
    for name in (preset.corpus, preset.second_corpus):
        check_choice(f"a corpus of preset {preset.name}", name, CORPORA)
        if code in CORPORA[name]:
            return name
    known = sorted({*CORPORA[preset.corpus], *CORPORA[preset.second_corpus]})
    raise ValueError(
        f"no speech in {language!r} at preset {preset.name}: "
        f"languages with speech are {', '.join(known)}"
    )


def test_sets(preset: Preset) -> dict[str, TestSet]:
    """Return the test sets of a preset by key, such as "cs/in-domain".

    The out-of-domain test needs a corpus with other voices, the translation test one with English
    lines: the corpus of the first language, or else the preset's `other_corpus`. Where there is
    none, the test is left out.

    With a `voice` the in-domain test, its distortions and its translation have this speaker alone,
    and the out-of-domain test has the other speakers of the same split. Other voices of the split
    "test-other" are then the test "other-characters", which is no domain.

    Raises:
        ValueError: As `corpus_of` does.
    """
    named = [preset.corpus, preset.second_corpus]
    named += [preset.other_corpus] if preset.other_corpus else []
    named += [corpus for corpus, _ in preset.retention]
    for name in named:
        check_choice(f"a corpus of preset {preset.name}", name, CORPORA)
    for corpus, language in preset.retention:
        check_choice(f"a language of retention in {corpus}", language, CORPORA[corpus])
    sets = [
        *_domain_tests(preset),
        *_distorted_tests(preset),
        *_translation_tests(preset),
        *_retention_tests(preset),
        *_other_tests(preset),
    ]
    return {test.key: test for test in sets}


test_sets.__test__ = False  # type: ignore[attr-defined]  # not a test function for pytest


def _domain_tests(preset: Preset) -> list[TestSet]:
    """Return the tests of DOMAINS that the preset's corpora allow."""
    if preset.voice:
        return _tests_of_voices(preset)
    language = preset.language
    corpus = corpus_of(preset, language)
    other = preset.other_corpus
    limit = preset.test_clips

    sets = [TestSet("in-domain", language, corpus, limit=limit)]
    if language in WITH_OTHER_VOICES.get(corpus, ()):
        sets.append(TestSet("out-of-domain", language, corpus, "test-other", limit=limit))
    elif other and language in CORPORA[other]:
        sets.append(TestSet("out-of-domain", language, other, limit=limit))
    return sets


def _tests_of_voices(preset: Preset) -> list[TestSet]:
    """Return the tests of the preset's voice, of the other speakers, and of other characters."""
    language = preset.language
    corpus = corpus_of(preset, language)
    limit = preset.test_clips

    own = TestSet("in-domain", language, corpus, limit=limit, voice=preset.voice)
    sets = [own, replace(own, name="out-of-domain", other_voices=True)]
    if language in WITH_OTHER_VOICES.get(corpus, ()):
        sets.append(TestSet("other-characters", language, corpus, "test-other", limit=limit))
    return sets


def _distorted_tests(preset: Preset) -> list[TestSet]:
    """Return the in-domain test under each distortion of CHANGES."""
    language = preset.language
    corpus = corpus_of(preset, language)
    own = TestSet("in-domain", language, corpus, limit=preset.retention_clips, voice=preset.voice)
    return [replace(own, name=change, change=change) for change in CHANGES]


def _translation_tests(preset: Preset) -> list[TestSet]:
    """Return the translation test on the first corpus that has English lines, if there is one."""
    language = preset.language
    first = corpus_of(preset, language)
    for corpus in (first, preset.other_corpus):
        if corpus in WITH_ENGLISH and language in CORPORA[corpus]:
            test = TestSet(
                "translation", language, corpus, task="translate", limit=preset.retention_clips
            )
            return [replace(test, voice=preset.voice) if corpus == first else test]
    return []


def _retention_tests(preset: Preset) -> list[TestSet]:
    """Return the tests of languages that are never trained on.

    Of several corpora with the same language the first one's is "retention", and the others have
    their corpus in their name.
    """
    trained = (preset.language, preset.second_language)
    sets: list[TestSet] = []
    for corpus, language in dict.fromkeys(preset.retention):
        if language in trained:
            continue
        is_further = any(test.language == language for test in sets)
        name = f"{RETENTION}-{corpus}" if is_further else RETENTION
        sets.append(TestSet(name, language, corpus, limit=preset.retention_clips))
    return sets


def _other_tests(preset: Preset) -> list[TestSet]:
    """Return the validation clips of the first language, and the test of the second language."""
    first = preset.language
    second = preset.second_language
    return [
        TestSet(
            "validation",
            first,
            corpus_of(preset, first),
            "validation",
            limit=preset.validation_clips,
            voice=preset.voice,
        ),
        TestSet(
            "second-language",
            second,
            corpus_of(preset, second),
            limit=preset.test_clips,
            voice=preset.voice if second == first else None,
        ),
    ]


def with_paper_data(preset: Preset) -> Preset:
    """Return the preset `colab` on data of the paper's kind; any other preset as it is.

    Where a release of Common Voice is in the data folder, training is on 3,000 of its clips, and
    tests are on FLEURS as well. Otherwise training is on FLEURS, and tests are on Fillets as well,
    where it has the language. The preset gets a name of its own, `colab-<corpus>`.
    """
    if preset.name != "colab":
        return preset
    if has_common_voice("common-voice-3k", preset.language):
        corpus = "common-voice-3k"
        other_corpus = "fleurs"
    else:
        corpus = "fleurs"
        other_corpus = "fillets"
    return replace(
        preset,
        name=f"{preset.name}-{corpus}",
        corpus=corpus,
        second_corpus=corpus,
        other_corpus=other_corpus,
        retention=tuple(dict.fromkeys(("fleurs", language) for _, language in preset.retention)),
    )
