"""Error rates counted by hand, loops, bootstrap intervals and translation."""

import re

import numpy as np
import pytest
from random_data import random_counts

from distilwhisper_lib.evaluation.scoring import (
    ERRORS,
    count_errors,
    in_characters,
    is_loop,
    paired_difference,
    summarise,
    translation_scores,
    word_errors,
)
from distilwhisper_lib.evaluation.statistics import capped, difference, rate

REFERENCES = ["Tady je ryba.", "Kde je loď?", "...", "Ano!"]
PREDICTIONS = ["tady ryba", "Kde je ta loď", "cokoli", ""]


def test_errors_by_hand():
    counts = count_errors(REFERENCES, PREDICTIONS)
    assert counts["words"].tolist()[:2] == [3, 3]
    assert counts["words"].isna().tolist() == [False, False, True, False]
    assert counts.loc[0, ERRORS].tolist() == [0, 1, 0]
    assert counts.loc[1, ERRORS].tolist() == [1, 0, 0]
    assert counts.loc[3, ERRORS].tolist() == [0, 1, 0]
    assert counts["characters"].tolist()[:2] == [len("tady je ryba"), len("kde je loď")]
    assert counts["character_errors"].dropna().tolist() == [3, 3, 3]
    assert word_errors(counts.dropna()).tolist() == [1, 1, 1]


def test_summary_is_over_the_corpus_and_leaves_unscorable_rows_out():
    found = summarise(count_errors(REFERENCES, PREDICTIONS))
    assert found["n"] == 3
    assert found["wer"] == pytest.approx(100 * 3 / 7)
    assert found["cer"] == pytest.approx(100 * 9 / (12 + 10 + 3))
    assert found["insertions"] == pytest.approx(100 / 7)
    assert found["deletions"] == pytest.approx(200 / 7)
    assert found["substitutions"] == 0
    assert found["loops"] == 0


def test_error_rates_can_exceed_a_hundred():
    assert summarise(count_errors(["ano"], ["ne ne ne"]))["wer"] == pytest.approx(300)


def test_normaliser_is_applied_to_both_sides():
    assert summarise(count_errors(["Ahoj, Světe!"], ["ahoj světe"]))["wer"] == 0
    assert summarise(count_errors(["Ahoj, Světe!"], ["ahoj světe"], "none"))["wer"] == 100


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="every reference is empty"):
        summarise(count_errors(["...", " "], ["a", "b"]))
    with pytest.raises(ValueError, match="there are 2 references and 1 predictions"):
        count_errors(["a", "b"], ["a"])


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("na na na na na na na na na na na na na na na na na", True),
        ("a" * 60, True),
        ("Vidím, že se ti tu líbí, ale my musíme jít dál, než nás tady někdo najde.", False),
        ("", False),
        ("ano", False),
        ("ano ano", False),
    ],
)
def test_loops_are_recognised(text, loops):
    assert is_loop(text) == loops
    assert summarise(count_errors(["x", "y"], [text, "y"]))["loops"] == 50 * loops


# ---- intervals


def test_interval_holds_the_figure_and_narrows_with_more_data():
    few = summarise(random_counts(30, 0.4, 1))
    many = summarise(random_counts(3000, 0.4, 1))
    for found in (few, many):
        assert found["wer_low"] < found["wer"] < found["wer_high"]
    assert (many["wer_high"] - many["wer_low"]) < 0.2 * (few["wer_high"] - few["wer_low"])


def test_interval_is_the_binomial_one_where_that_is_known():
    counts = random_counts(2000, 0.3, 5)
    counts["words"] = 1
    counts["substitutions"] = (np.arange(2000) % 10 < 3).astype(int)  # 30 % of single words
    found = summarise(counts)
    half = 100 * 1.96 * np.sqrt(0.3 * 0.7 / 2000)
    assert found["wer"] == pytest.approx(30)
    assert [found["wer_low"], found["wer_high"]] == pytest.approx([30 - half, 30 + half], abs=0.15)


def test_intervals_are_the_same_each_time():
    counts = random_counts(50, 0.4, 1)
    assert summarise(counts) == summarise(counts)
    assert summarise(counts)["wer_low"] != summarise(counts, seed=1)["wer_low"]


def test_interval_of_perfect_output_is_zero():
    found = summarise(count_errors(["a b", "c"], ["a b", "c"]))
    assert (found["wer"], found["wer_low"], found["wer_high"]) == (0, 0, 0)


def test_paired_difference_is_first_less_second_and_narrower_than_the_two_intervals():
    second = random_counts(300, 0.5, 2)
    first = second.copy()
    better = np.random.default_rng(0).random(300) < 0.2
    first["substitutions"] = np.where(
        better, np.maximum(second["substitutions"] - 1, 0), second["substitutions"]
    )
    found = paired_difference(first, second)
    one = summarise(first)
    other = summarise(second)
    assert found["difference"] == pytest.approx(one["wer"] - other["wer"])
    assert found["low"] < found["difference"] < found["high"] < 0
    assert found["share"] == 0
    assert found["high"] - found["low"] < 0.5 * (one["wer_high"] - one["wer_low"])
    back = paired_difference(second, first)
    assert back["low"] == pytest.approx(-found["high"])
    assert back["share"] == 1


def test_system_compared_with_itself_does_not_differ():
    counts = count_errors(REFERENCES, PREDICTIONS)
    assert paired_difference(counts, counts) == {"difference": 0, "low": 0, "high": 0, "share": 1}


def test_a_difference_over_no_utterance_is_no_number():
    counts = count_errors(["", "–"], ["a", "b"])
    assert all(np.isnan(value) for value in paired_difference(counts, counts).values())


def test_half_a_surrogate_pair_in_a_prediction_is_an_error_like_any_other():
    counts = count_errors(["one two"], ["one \ud800"])
    assert counts["substitutions"].tolist() == [1]


def test_invisible_characters_do_not_count_in_translations():
    references = ["we have to find\u200b the cap\u00adtain"] * 2
    found = translation_scores(references, ["\ufeffwe have to find the captain"] * 2)
    assert found["bleu"] == pytest.approx(100)
    assert found["chrf"] == pytest.approx(100)


def test_utterances_of_a_unit_are_drawn_together():
    first, second = random_counts(60, 0.4, 1), random_counts(60, 0.4, 1)
    second["substitutions"] = random_counts(60, 0.4, 2)["substitutions"]
    units = np.repeat(["a", "b", "c", "d", "e", "f"], 10)
    first, second = first.assign(unit=units), second.assign(unit=units)
    found, same = summarise(first), rate(first)
    for name in ("wer", "wer_low", "wer_high"):
        assert found[name] == pytest.approx(same[name])
    found, same = paired_difference(first, second), difference(first, second)
    for name in ("difference", "low", "high"):
        assert found[name] == pytest.approx(same[name])
    by_clip = summarise(first.drop(columns="unit"))
    assert by_clip["wer"] == found_wer(first) and by_clip["wer_low"] != summarise(first)["wer_low"]


def found_wer(counts):
    """Return the WER of counts, in per cent."""
    return pytest.approx(100 * word_errors(counts).sum() / counts["words"].sum())


def test_a_scored_row_without_a_unit_is_refused():
    counts = random_counts(4, 0.5, 0).assign(unit=["a", "a", None, "b"])
    with pytest.raises(ValueError, match="'unit' has no value in scored row 2"):
        summarise(counts)
    with pytest.raises(ValueError, match="'unit' has no value in scored row 2"):
        paired_difference(counts, counts)


def test_systems_with_other_units_are_not_compared():
    counts = random_counts(4, 0.5, 0)
    with_units = counts.assign(unit=["a", "a", "b", "b"])
    for other in (counts, with_units.assign(unit=["a", "b", "b", "b"])):
        with pytest.raises(ValueError, match="same utterances"):
            paired_difference(with_units, other)


def test_translations_of_a_unit_are_drawn_together():
    references = ["this is a fish", "where is the ship", "it is in the sea", "look at that"]
    predictions = ["this is fish", "where is a ship", "it was in the sea", "look here"]
    apart = translation_scores(references, predictions)
    alone = translation_scores(references, predictions, units=["a", "b", "c", "d"])
    assert alone == apart
    together = translation_scores(references, predictions, units=["a", "a", "b", "b"])
    assert together["chrf"] == apart["chrf"]
    pair = [translation_scores(references[:2] * 2, predictions[:2] * 2)["chrf"]]
    pair.append(translation_scores(references[2:] * 2, predictions[2:] * 2)["chrf"])
    # of two units a quarter of the draws is the one twice, a quarter the other twice
    assert (together["chrf_low"], together["chrf_high"]) == pytest.approx((min(pair), max(pair)))


def test_paired_difference_needs_the_same_utterances():
    for other in (random_counts(9, 0.5, 0), random_counts(10, 0.5, 3)):
        with pytest.raises(ValueError, match="not scored on the same utterances"):
            paired_difference(random_counts(10, 0.5, 0), other)


def test_translations_are_scored_by_sacrebleu():
    references = [
        "The ship is under the water.",
        "We have to find the captain.",
        "I see a small red fish here.",
    ] * 4
    found = translation_scores(references, references)
    assert found["bleu"] == pytest.approx(100)
    assert found["chrf"] == pytest.approx(100)
    assert "tok:13a" in found["bleu_signature"]
    assert "nc:6|nw:0" in found["chrf_signature"]
    changed = [text.replace("the", "some") for text in references[:-2]]
    worse = translation_scores(references, [*changed, "no", "no"])
    for name in ("bleu", "chrf"):
        assert worse[f"{name}_low"] < worse[name] + 10 and worse[name] < worse[f"{name}_high"] + 10
        assert 0 < worse[f"{name}_low"] < worse[f"{name}_high"] < 100


def test_translations_are_normalised_on_both_sides_where_that_is_asked_for():
    translations = [  # as Whisper writes
        "The ship, they say, is under the water.",
        "We have to find the captain: he is ill!",
        "On the third day, he did not come back.",
        "I see a small, red fish here, Tom.",
    ]
    references = [re.sub("[.,:!]", "", text.lower()) for text in translations]  # as FLEURS does
    as_they_are = translation_scores(references, translations)
    assert as_they_are["bleu"] < 50
    assert "normaliser" not in as_they_are
    found = translation_scores(references, translations, "released")
    assert found.pop("normaliser") == "released"
    assert found == translation_scores(references, references)
    for name in ("bleu", "bleu_low", "bleu_high", "chrf", "chrf_low"):
        assert found[name] == pytest.approx(100)
    with pytest.raises(ValueError, match="unknown normaliser 'basic': one of none, "):
        translation_scores(references, translations, "basic")


def test_capped_counts_are_refused_where_they_would_count_as_others():
    table = capped(random_counts(20, 0.3, 1))
    for call in (in_characters, summarise, lambda counts: paired_difference(counts, counts)):
        with pytest.raises(ValueError, match="these counts are capped"):
            call(table)


def test_a_single_unit_has_no_interval():
    first, second = (random_counts(6, 0.3, seed).assign(unit="room") for seed in (1, 2))
    second = second.assign(words=first["words"])
    found = paired_difference(first, second)
    errors = first["substitutions"].sum() - second["substitutions"].sum()
    assert found["difference"] == pytest.approx(100 * errors / first["words"].sum())
    assert np.isnan([found["low"], found["high"], found["share"]]).all()
    texts = ["one two three four", "five six seven eight"]
    scores = translation_scores(texts, texts, units=["room", "room"])
    assert scores["bleu"] == pytest.approx(100) and np.isnan(scores["bleu_low"])


def test_translations_have_a_unit_each():
    with pytest.raises(ValueError, match="3 utterances have 2 units"):
        translation_scores(["a"] * 3, ["a"] * 3, units=["x", "y"])
