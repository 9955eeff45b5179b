"""Wrong values at the doors of public functions: one clear error each, before anything is done."""

import numpy as np
import pytest

from distilwhisper_lib import (
    Clips,
    Lab,
    TeacherDistributions,
    add_noise,
    add_reverberation,
    attach_experts,
    count_errors,
    get_method,
    identify,
    length_batches,
    load_corpus,
    load_experts,
    load_processor,
    load_whisper,
    make_jobs,
    normalise,
    register,
    save_experts,
    summarise,
    tiny_whisper,
    use_window,
)
from distilwhisper_lib.evaluation.scoring import translation_scores
from distilwhisper_lib.lab.card import model_card
from distilwhisper_lib.method.blocks import clsr_blocks

AUDIO = np.sin(np.arange(8000)).astype(np.float32)
NO_WORDS: list[str] = []


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Return a folder with experts of the tiny Whisper."""
    folder = tmp_path_factory.mktemp("experts")
    return save_experts(attach_experts(tiny_whisper(), "cs"), folder)


@pytest.mark.parametrize("wrong", [3, None, True, [], 2.5, {"cs": 1}])
def test_languages_are_names_or_a_list_of_at_least_one(wrong):
    with pytest.raises(ValueError, match="languages is "):
        attach_experts(tiny_whisper(), wrong)


@pytest.mark.parametrize("wrong", ["", [], ["cs", ""], 3, True])
def test_no_languages_are_not_all_languages(wrong, experts):
    model = tiny_whisper()
    with pytest.raises(ValueError, match="language"):
        load_experts(model, experts, wrong)
    assert not hasattr(model, "_expert_routing")


@pytest.mark.parametrize("wrong", [3, None, True, ["tiny"], "", "  ", "a\0b"])
def test_folders_and_models_are_named_by_texts_or_paths(wrong):
    calls = {
        "folder": [
            lambda: load_experts(tiny_whisper(), wrong),
            lambda: save_experts(attach_experts(tiny_whisper(), "cs"), wrong),
            lambda: TeacherDistributions(wrong),
        ],
        "the model's name": [
            lambda: load_whisper(wrong),
            lambda: load_processor(wrong),
            lambda: identify(wrong),
        ],
    }
    for name, of_name in calls.items():
        for call in of_name:
            with pytest.raises(ValueError, match=f"^{name} is .*: a name or a path is needed"):
                call()


@pytest.mark.parametrize("wrong", [["a"], 3, None, "nothing", {}])
def test_methods_corpora_and_normalisers_are_known_names(wrong):
    with pytest.raises(ValueError, match="unknown method .*: one of student"):
        get_method(wrong)
    with pytest.raises(ValueError, match="unknown method .*: one of student"):
        Lab("smoke").train(wrong)
    with pytest.raises(ValueError, match="unknown corpus .*: one of fillets"):
        load_corpus(wrong, "cs")
    with pytest.raises(ValueError, match="unknown normaliser .*: one of none"):
        normalise("x", wrong)
    with pytest.raises(ValueError, match="unknown normaliser .*: one of none"):
        count_errors(["a"], ["a"], wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normaliser": "unknown"}, "normaliser is 'unknown': known are none"),
        ({"corpus": "unknown"}, "a corpus of preset smoke is 'unknown'"),
        ({"second_corpus": "fleur"}, "a corpus of preset smoke is 'fleur'.*mean fleurs"),
        ({"other_corpus": "unknown"}, "a corpus of preset smoke is 'unknown'"),
        ({"retention": (("unknown", "cs"),)}, "a corpus of preset smoke is 'unknown'"),
        ({"retention": (("toy", "xx"),)}, "retention: Whisper does not know the language 'xx'"),
        ({"retention": (("toy", "ja"),)}, "a language of retention in toy is 'ja': known are be"),
    ],
)
def test_a_lab_knows_all_names_of_its_preset_from_the_start(changes, message):
    with pytest.raises(ValueError, match=message):
        Lab("smoke", **changes)


@pytest.mark.parametrize("wrong", [["cs", "ca"], 3, True, {}])
def test_a_training_has_one_language(wrong):
    with pytest.raises(ValueError, match="a language is needed, a code such as 'cs', not"):
        Lab("smoke").train("lora", wrong)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), "1", True, None])
def test_distortions_take_finite_numbers(wrong):
    with pytest.raises(ValueError, match="snr_db is .*: a number from -100 to 200"):
        add_noise(AUDIO, wrong, 1)
    with pytest.raises(ValueError, match="rt60 is .*: a number above 0"):
        add_reverberation(AUDIO, wrong, 1)


def test_a_clip_without_samples_is_refused():
    for call in (lambda: add_noise(AUDIO[:0], 5, 1), lambda: add_reverberation(AUDIO[:0], 0.1, 1)):
        with pytest.raises(ValueError, match="the clip is empty"):
            call()


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "3", None, True])
def test_a_batch_has_at_least_one_clip(wrong):
    with pytest.raises(ValueError, match="batch_size is .*: a whole number from 1 on"):
        length_batches([1.0, 2.0], wrong)


@pytest.mark.parametrize("wrong", ["3", None, [4], True, 2.0, 3, 3002])
def test_a_window_is_an_even_number_of_frames(wrong):
    message = "a window of .* frames does not fit: an even number"
    with pytest.raises(ValueError, match=message), use_window(tiny_whisper(), wrong):
        pass


def test_nothing_cannot_be_scored():
    with pytest.raises(ValueError, match="nothing to score: no utterances"):
        summarise(count_errors(NO_WORDS, NO_WORDS))
    with pytest.raises(ValueError, match="nothing to score: there are no utterances"):
        translation_scores(NO_WORDS, NO_WORDS)


def test_each_utterance_needs_a_reference_and_a_prediction():
    for call in (count_errors, translation_scores):
        with pytest.raises(ValueError, match="there are 2 references and 1 predictions"):
            call(["a", "b"], ["a"])
        with pytest.raises(ValueError, match="predictions is 'ab': a list is needed"):
            call(["a", "b"], "ab")


@pytest.mark.parametrize("wrong", ["x", None, object])
def test_only_methods_are_registered(wrong):
    with pytest.raises(ValueError, match="is no method: give an object of a subclass of Method"):
        register(wrong)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": [3]}, "a row is 3: a text"),
        ({"rows": "lora"}, "rows is 'lora': a list is needed"),
        ({"seeds": 77}, "seeds is 77: a list is needed"),
        ({"seeds": [True]}, "a seed is True: a whole number"),
        ({"sizes": "3k"}, "sizes is '3k': a list is needed"),
        ({"languages": "cs"}, "languages is 'cs': a list is needed"),
        ({"languages": []}, "languages is an empty list"),
    ],
)
def test_jobs_are_made_from_lists(given, message):
    with pytest.raises(ValueError, match=message):
        make_jobs("smoke", **given)


def test_teacher_distributions_of_a_missing_folder_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="none is not there: compute teacher distributions"):
        TeacherDistributions(tmp_path / "none")


@pytest.mark.parametrize("source", ["", 0, False, [], " "])
def test_a_source_that_is_none_is_not_the_usual_one(source):
    with pytest.raises(ValueError, match="source is .*: a name or a path is needed"):
        load_corpus("recordings", "cs", source)


@pytest.mark.parametrize("wrong", ["", 0, False, {}, {"rank": 2}])
def test_what_is_false_is_not_taken_for_nothing_given(wrong, model):
    lab = Lab("smoke")
    with pytest.raises(ValueError, match="settings is .*: ExpertSettings"):
        attach_experts(model, ["cs"], wrong)
    assert not clsr_blocks(model)
    with pytest.raises(ValueError, match="fidelity is .*: Fidelity"):
        Clips(lab.rows("train"), lab.processor, "cs", fidelity=wrong)
    with pytest.raises(ValueError, match="language"):
        model_card(lab, "distilwhisper", wrong)
