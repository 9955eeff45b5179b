"""The tests of the comparison: in-domain, out-of-domain, harder sound, other languages, translation."""

from dataclasses import dataclass, replace

from ..data.audio import add_noise, add_reverberation
from ..data.corpora.loading import CORPORA, has_common_voice
from ..presets import Preset

CHANGES = {  # what is done to the sound of a test set
    "noise": lambda audio, seed: add_noise(audio, snr_db=5, seed=seed),
    "reverberation": lambda audio, seed: add_reverberation(audio, rt60=0.6, seed=seed),
}

DOMAINS = ("in-domain", "out-of-domain", "held-out-lead")

WITH_OTHER_VOICES = {
    "fillets": ("cs",),
    "toy": CORPORA["toy"],
}  # corpus -> languages with a split "test-other"

WITH_ENGLISH = (
    "fillets",
    "stamps",
    "toy",
    "fleurs",
)  # corpora whose lines come with an English one


@dataclass(frozen=True)
class TestSet:
    """A named test: language, split of a corpus, task, what is done to the sound, and at most how many clips."""

    __test__ = False  # not a test for pytest

    name: str
    language: str
    corpus: str
    split: str = "test"
    task: str = "transcribe"
    change: str | None = None
    limit: int | None = None
    held_out_lead: bool = False  # only the lines of the lead that training has left out

    @property
    def key(self) -> str:
        """Return "language/name"."""
        return f"{self.language}/{self.name}"

    @property
    def text_column(self) -> str:
        """Return the column that holds the reference: the text, or its English for translation."""
        return "text" if self.task == "transcribe" else "translation_en"


def corpus_of(preset: Preset, language: str) -> str:
    """Return the corpus that a preset takes a language from; raises ValueError where it has none with it."""
    for name in (preset.corpus, preset.second_corpus):
        if language in CORPORA[name]:
            return name
    known = sorted({*CORPORA[preset.corpus], *CORPORA[preset.second_corpus]})
    raise ValueError(
        f"no speech in {language!r} at preset {preset.name}: languages with speech are {', '.join(known)}"
    )


def test_sets(preset: Preset) -> dict[str, TestSet]:
    """Return the tests of a preset by key, such as "cs/in-domain".

    Out-of-domain needs a corpus with other voices, translation one with English lines that say the same: the
    first corpus, or else the preset's other_corpus.
    """
    main, second, few = preset.language, preset.second_language, preset.retention_clips
    corpus, other = corpus_of(preset, main), preset.other_corpus
    sets = [TestSet("in-domain", main, corpus, limit=preset.test_clips)]
    if main in WITH_OTHER_VOICES.get(corpus, ()):
        sets.append(TestSet("out-of-domain", main, corpus, "test-other", limit=preset.test_clips))
    elif other and main in CORPORA[other]:
        sets.append(TestSet("out-of-domain", main, other, limit=preset.test_clips))
    if preset.held_out_lead:
        sets.append(
            TestSet("held-out-lead", main, corpus, limit=preset.test_clips, held_out_lead=True)
        )
    sets += [TestSet(change, main, corpus, change=change, limit=few) for change in CHANGES]
    english = [name for name in (corpus, other) if name in WITH_ENGLISH and main in CORPORA[name]]
    sets += [
        TestSet("translation", main, name, task="translate", limit=few) for name in english[:1]
    ]
    sets += [
        TestSet("retention", code, name, limit=few)
        for name, code in preset.retention
        if code not in (main, second)
    ]
    sets.append(TestSet("validation", main, corpus, "validation", limit=preset.validation_clips))
    sets.append(
        TestSet("second-language", second, corpus_of(preset, second), limit=preset.test_clips)
    )
    return {test.key: test for test in sets}


test_sets.__test__ = False  # not a test for pytest either


def with_paper_data(preset: Preset) -> Preset:
    """Return `colab` on the paper's kind of data, under a name of its own; any other preset as it is.

    Training on 3,000 clips of Common Voice and tests on FLEURS too, where a release is in the data folder; else
    training on FLEURS, and tests on Fillets too where it has the language.
    """
    if preset.name != "colab":
        return preset
    corpus, other = "common-voice-3k", "fleurs"
    if not has_common_voice(corpus, preset.language):
        corpus, other = "fleurs", "fillets"
    kept = tuple(("fleurs", code) for _, code in preset.retention)
    return replace(
        preset,
        name=f"{preset.name}-{corpus}",
        corpus=corpus,
        second_corpus=corpus,
        other_corpus=other,
        retention=kept,
    )
