"""Intervals of studies: against another program, by hand, and on data whose truth is known."""

from statistics import NormalDist
from time import process_time

import kaldialign
import numpy as np
import pandas as pd
import pytest
from random_data import random_counts

from distilwhisper_lib.evaluation import statistics
from distilwhisper_lib.evaluation.scoring import (
    PERCENTILES,
    RESAMPLES,
    count_errors,
    paired_difference,
    summarise,
)
from distilwhisper_lib.evaluation.statistics import (
    capped,
    detectable,
    difference,
    difference_or_nan,
    holm,
    rate,
)


def study(draw, seeds=3, rooms=4, clips=2, nested=False, room_sd=0.0, seed_sd=0.0):
    """Return the table of one fold: 40 % of words wrong, more or less by room and by seed.

    Nested, each seed has rooms and clips of its own.
    """
    parts = []
    for seed in range(seeds):
        if nested or seed == 0:
            words = draw.integers(3, 10, (rooms, clips))
            of_rooms = draw.normal(0, room_sd, (rooms, 1))
        rates = np.clip(0.4 + of_rooms + draw.normal(0, seed_sd), 0, 1)
        errors = draw.binomial(words, np.broadcast_to(rates, words.shape))
        prefix = f"{seed}/" if nested else ""
        units = [f"{prefix}room{room}" for room in range(rooms) for _ in range(clips)]
        part = pd.DataFrame(
            {
                "seed": seed,
                "unit": units,
                "id": [f"{unit}/{number}" for number, unit in enumerate(units)],
                "words": words.ravel(),
                "insertions": 0,
                "deletions": 0,
                "substitutions": errors.ravel(),
            }
        )
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def small_study(**changes):
    return study(np.random.default_rng(0), **changes)


def another_system(table, seed=1):
    """Return a table of the same utterances with other errors."""
    draw = np.random.default_rng(seed)
    return table.assign(substitutions=draw.binomial(table["words"], 0.9))


# ---- utterances


def test_with_one_seed_and_no_units_the_utterances_are_resampled_as_before():
    first, second = random_counts(60, 0.4, 1), random_counts(60, 0.4, 1)
    second["substitutions"] = random_counts(60, 0.4, 2)["substitutions"]
    before = summarise(first)
    found = rate(first)
    for name in ("wer", "wer_low", "wer_high"):
        assert found[name] == pytest.approx(before[name])
    assert (found["n_units"], found["n_seeds"], found["n_folds"]) == (60, 1, 1)
    before = paired_difference(first, second)
    found = difference(first, second)
    for name in ("difference", "low", "high"):
        assert found[name] == pytest.approx(before[name])
    assert found["better"] == pytest.approx(1 - before["share"])


def garbled(draw, texts, share):
    """Return texts in which that share of the words is wrong, some of them twice."""
    changed = []
    for text in texts:
        words = []
        for word in text.split():
            words.append(word if draw.random() > share else draw.choice(["x", "x x"]))
        changed.append(" ".join(words))
    return changed


def test_utterances_give_what_kaldialign_gives():
    """Its intervals are mean and 1.96 standard deviations of the resamples, ours percentiles."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(3, 12, 300)
    references = [" ".join(f"w{word}" for word in draw.integers(0, 50, size)) for size in sizes]
    first = garbled(draw, references, 0.30)
    second = garbled(draw, references, 0.31)

    texts = [[text.split() for text in part] for part in (references, second, first)]
    theirs = kaldialign.bootstrap_wer_ci(*texts, replications=10000)
    counts = [count_errors(references, predictions) for predictions in (second, first)]
    for name, table in zip(("system1", "system2"), counts, strict=True):
        ours = rate(table)
        assert ours["wer_low"] == pytest.approx(100 * theirs[name]["ci95min"], abs=0.4)
        assert ours["wer_high"] == pytest.approx(100 * theirs[name]["ci95max"], abs=0.4)
    theirs_better = theirs["p_s2_improv_over_s1"]
    assert 0.1 < theirs_better < 0.9
    one_error = np.sqrt(theirs_better * (1 - theirs_better) / RESAMPLES)
    ours_better = difference(counts[1], counts[0])["better"]
    assert ours_better == pytest.approx(theirs_better, abs=4 * one_error)


# ---- units, seeds and folds, by hand


def cells_of(table):
    """Return {(seed, unit): (errors, words)}."""
    sums = table.groupby(["seed", "unit"])[["substitutions", "words"]].sum()
    return {key: tuple(row) for key, row in zip(sums.index, sums.to_numpy(), strict=True)}


def names(table, column):
    return list(dict.fromkeys(table[column]))


def choices(generator, things):
    """Return as many of the things as there are, drawn with replacement."""
    return [things[place] for place in generator.integers(0, len(things), len(things))]


def rates_of(samples, cells):
    """Return the 95 % interval of the WER of samples, lists of drawn (seed, unit) in each."""
    rates = []
    for sample in samples:
        errors, words = np.sum([cells[key] for key in sample], axis=0)
        rates.append(100 * errors / words)
    return np.percentile(rates, PERCENTILES)


def test_crossed_seeds_and_units_are_drawn_independently():
    table = small_study()
    generator = np.random.default_rng(5)
    units, seeds = names(table, "unit"), names(table, "seed")
    drawn_units = [choices(generator, units) for _ in range(RESAMPLES)]
    drawn_seeds = [choices(generator, seeds) for _ in range(RESAMPLES)]
    samples = [
        [(seed, unit) for seed in drawn_seeds[i] for unit in drawn_units[i]]
        for i in range(RESAMPLES)
    ]
    low, high = rates_of(samples, cells_of(table))
    found = rate(table, seed=5)
    assert [found["wer_low"], found["wer_high"]] == pytest.approx([low, high])
    assert found["wer"] == pytest.approx(100 * table["substitutions"].sum() / table["words"].sum())
    assert (found["n_units"], found["n_seeds"], found["n_folds"]) == (4, 3, 1)


def test_nested_units_are_drawn_within_each_drawn_seed():
    table = small_study(nested=True)
    generator = np.random.default_rng(5)
    seeds = names(table, "seed")
    drawn_seeds = [choices(generator, seeds) for _ in range(RESAMPLES)]
    samples = [[] for _ in range(RESAMPLES)]
    for seed in seeds:
        units = names(table[table["seed"] == seed], "unit")
        for sample, drawn in zip(samples, drawn_seeds, strict=True):
            for _ in range(drawn.count(seed)):
                sample += [(seed, unit) for unit in choices(generator, units)]
    low, high = rates_of(samples, cells_of(table))
    found = rate(table, seed=5)
    assert [found["wer_low"], found["wer_high"]] == pytest.approx([low, high])
    assert (found["n_units"], found["n_seeds"]) == (12, 3)


@pytest.mark.parametrize("shared", [False, True], ids=["rooms of each fold", "the same rooms"])
def test_folds_are_pooled_and_a_room_of_both_is_drawn_for_both(shared):
    folds = []
    for number, changes in enumerate(({"clips": 2}, {"clips": 3, "seeds": 2})):
        fold = study(np.random.default_rng(number), **changes).assign(fold=number)
        if not shared:
            fold["unit"] = f"fold{number}/" + fold["unit"]
        folds.append(fold)
    generator = np.random.default_rng(5)

    totals = np.zeros((RESAMPLES, 2))
    for fold in folds:
        units, seeds = names(fold, "unit"), names(fold, "seed")
        if fold is folds[0] or not shared:
            drawn_units = [choices(generator, units) for _ in range(RESAMPLES)]
        drawn_seeds = [choices(generator, seeds) for _ in range(RESAMPLES)]
        cells = cells_of(fold)
        for i in range(RESAMPLES):
            for seed in drawn_seeds[i]:
                totals[i] += np.sum([cells[seed, unit] for unit in drawn_units[i]], axis=0)
    low, high = np.percentile(100 * totals[:, 0] / totals[:, 1], PERCENTILES)

    found = rate(pd.concat(folds), seed=5)
    assert [found["wer_low"], found["wer_high"]] == pytest.approx([low, high])
    assert (found["n_units"], found["n_seeds"], found["n_folds"]) == (4 if shared else 8, 2, 2)


# ---- what intervals promise


@pytest.fixture
def fewer_resamples(monkeypatch):
    """Simulations need many intervals, none of them exact."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200)


def covers_the_truth(counts):
    found = rate(counts)
    return found["wer_low"] <= 40 <= found["wer_high"]


def test_two_levels_cover_the_truth_and_utterances_alone_do_not(fewer_resamples):
    """Rooms vary by 8 points, seeds by 3; the true WER is 40."""
    two_levels = []
    utterances = []
    for number in range(50):
        draw = np.random.default_rng([7, number])
        table = study(draw, seeds=6, rooms=20, clips=4, room_sd=0.08, seed_sd=0.03)
        two_levels.append(covers_the_truth(table))
        utterances.append(covers_the_truth(table.drop(columns=["seed", "unit", "id"])))
    assert np.mean(two_levels) >= 0.88
    assert np.mean(utterances) < 0.7


def test_nested_seeds_cover_the_truth(fewer_resamples):
    covered = []
    for number in range(30):
        draw = np.random.default_rng([8, number])
        table = study(draw, seeds=8, rooms=10, nested=True, room_sd=0.08, seed_sd=0.05)
        covered.append(covers_the_truth(table))
    assert np.mean(covered) >= 0.83


# ---- differences


def test_difference_is_first_less_second_and_turns_round():
    first = small_study(rooms=12)
    second = another_system(first)
    there, back = difference(first, second), difference(second, first)
    assert there["difference"] == pytest.approx(rate(first)["wer"] - rate(second)["wer"])
    assert there["low"] < there["difference"] < there["high"] < 0
    assert [back["low"], back["high"]] == pytest.approx([-there["high"], -there["low"]])
    assert (there["better"], back["better"]) == (1, 0)
    assert there["p"] == back["p"] == 2 / (RESAMPLES + 1)
    width = there["high"] - there["low"]
    assert 3 < width / there["standard_error"] < 5


def test_p_is_below_the_level_where_the_interval_excludes_zero():
    first = small_study(rooms=12)
    for extra in (0.05, 0.1, 0.3):
        draw = np.random.default_rng(3)
        errors = first["substitutions"] + draw.binomial(first["words"], extra)
        found = difference(first, first.assign(substitutions=errors))
        assert (found["p"] < 0.05) == (found["high"] < 0)
    even = difference(first, another_system(first).assign(substitutions=first["substitutions"]))
    assert (even["difference"], even["p"], even["better"]) == (0, 1, 0)


def test_rows_of_the_second_table_may_be_in_another_order():
    first = small_study()
    second = another_system(first)
    assert difference(first, second.sample(frac=1, random_state=0)) == difference(first, second)


def test_empty_references_are_left_out_for_both():
    first = small_study()
    second = another_system(first)
    lacking = first["id"] == "room1/3"
    empty = [table.assign(words=table["words"].mask(lacking)) for table in (first, second)]
    assert difference(*empty) == difference(first[~lacking], second[~lacking])
    assert rate(empty[0]) == rate(first[~lacking])


def test_ten_seeds_of_two_thousand_utterances_take_a_moment():
    """Nested, 40 million utterances are drawn: a loop over them would take minutes."""
    table = study(np.random.default_rng(0), seeds=10, rooms=2000, clips=1, nested=True)
    start = process_time()
    rate(table)
    assert process_time() - start < 10  # half a second where nothing else runs


# ---- capped errors


def test_capped_errors_are_no_more_than_the_words():
    counts = count_errors(["one two", "three four", "..."], ["no " * 9, "three", "x"])
    limited = capped(counts)
    assert limited["word_errors"].tolist()[:2] == [2, 1]
    assert np.isnan(limited["word_errors"][2])
    assert rate(counts)["wer"] == pytest.approx(100 * 10 / 4)
    assert rate(limited)["wer"] == pytest.approx(100 * 3 / 4)
    assert difference(limited, limited)["difference"] == 0
    pd.testing.assert_frame_equal(capped(limited), limited)


def test_capped_and_plain_errors_are_not_mixed():
    counts = random_counts(10, 0.4, 0)
    with pytest.raises(ValueError, match="only the first table has the column 'word_errors'"):
        difference(capped(counts), counts)
    with pytest.raises(ValueError, match="these counts are capped"):
        summarise(capped(counts))


# ---- several tests, and what a test can show


def test_holm_by_hand():
    """4 * 0.01 = 0.04; 3 * 0.02 = 0.06; 2 * 0.025 = 0.05, raised to 0.06; 1 * 0.9."""
    values = {"b": 0.9, "a": 0.01, "d": 0.025, "c": 0.02}
    found = holm(values)
    assert list(found) == list(values)
    assert found == pytest.approx({"b": 0.9, "a": 0.04, "d": 0.06, "c": 0.06})
    assert holm({"a": 0.4, "b": 0.7}) == pytest.approx({"a": 0.8, "b": 0.8})
    assert holm({"a": 0.8, "b": 0.7}) == {"a": 1, "b": 1}
    assert holm({"a": 0.03}) == {"a": 0.03}
    assert holm({}) == {}


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5"])
def test_holm_needs_probabilities(value):
    with pytest.raises(ValueError, match="the p value of a is .*: a number from 0 to 1 is needed"):
        holm({"a": value})


def test_detectable_difference_is_found_as_often_as_said():
    assert detectable(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert detectable(0.5) == pytest.approx(detectable(1.0) / 2)
    for power, level in ((0.8, 0.05), (0.9, 0.05), (0.8, 0.005)):
        limit = NormalDist().inv_cdf(1 - level / 2)
        true = NormalDist(detectable(2.0, power, level), 2.0)
        assert 1 - true.cdf(2.0 * limit) == pytest.approx(power)


def test_power_and_level_are_checked():
    for wrong in ({"power": 1.0}, {"power": 0.04}, {"level": 0.0}, {"level": 1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*: a number above"):
            detectable(1.0, **wrong)
    with pytest.raises(ValueError, match="standard_error is -1: a number from 0 on is needed"):
        detectable(-1)


# ---- tables that are refused


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="every reference is empty after normalisation"):
        rate(count_errors(["...", " "], ["a", "b"]))
    with pytest.raises(ValueError, match="nothing to score: no utterances"):
        rate(count_errors([], []))


def test_one_unit_cannot_be_resampled():
    with pytest.raises(ValueError, match="all rows are of one unit, room0: at least two"):
        rate(small_study(rooms=1))


def test_the_difference_on_one_unit_has_no_interval():
    first, second = small_study(rooms=1), small_study(rooms=1)
    second["substitutions"] += 1
    found = difference_or_nan(first, second)
    assert found["difference"] == pytest.approx(-100 * len(first) / first["words"].sum())
    assert all(np.isnan(found[name]) for name in ("low", "high", "p", "standard_error"))
    several = small_study(rooms=3)
    assert difference_or_nan(several, several) == difference(several, several)


def test_seeds_share_all_units_or_none():
    table = small_study()
    lacking = table[~((table["seed"] == 1) & (table["unit"] == "room2"))]
    with pytest.raises(ValueError, match="fold 0: unit room2 is there for 2 of 3 seeds"):
        rate(lacking)
    own_clips = table.assign(words=table["words"] + (table["seed"] == 1) * (table.index == 9))
    with pytest.raises(ValueError, match="unit room0 has .* words at one seed and .* at another"):
        rate(own_clips)


def test_units_of_nested_seeds_are_not_those_of_another_fold():
    fold = small_study(nested=True)
    with pytest.raises(ValueError, match="give the units of each fold names of their own"):
        rate(pd.concat([fold.assign(fold=0), fold.assign(fold=1)]))


def test_seeds_need_names_for_their_utterances():
    with pytest.raises(ValueError, match="with several seeds a column `unit` or `id` is needed"):
        rate(small_study().drop(columns=["unit", "id"]))


def test_two_systems_in_one_table_are_noticed():
    table = small_study()
    with pytest.raises(ValueError, match="seed 0, id room0/0 is there twice: give the rows of one"):
        rate(pd.concat([table, another_system(table)]))


def test_impossible_values_are_refused():
    table = small_study()
    with pytest.raises(ValueError, match="the column 'unit' has no value in row 3"):
        rate(table.assign(unit=table["unit"].mask(table.index == 3)))
    with pytest.raises(ValueError, match="has nan errors and 1 words"):
        rate(capped(table).assign(word_errors=np.nan, words=1))
    with pytest.raises(ValueError, match="has 0 errors and 0 words"):
        rate(table.assign(words=0, substitutions=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[1:], "seed 0, id room0/0 is in the first table and not in the second"),
        (lambda table: table.assign(seed=table["seed"] + 1), "is in the first table and not in"),
        (lambda table: table.drop(columns="unit"), "only the first table has the column 'unit'"),
        (lambda table: table.assign(fold=0), "only the second table has the column 'fold'"),
        (lambda table: table.assign(unit=table["id"]), "id room0/0: unit is room0 in the first"),
        (lambda table: table.assign(words=table["words"] + 1), "seed 0, id room0/0: words is"),
    ],
    ids=["row", "seed", "no unit", "fold", "unit", "words"],
)
def test_a_difference_says_where_its_tables_differ(change, message):
    table = small_study()
    with pytest.raises(ValueError, match=message):
        difference(table, change(table))


def test_without_ids_rows_are_compared_in_order():
    first = random_counts(10, 0.5, 0)
    with pytest.raises(ValueError, match="first table has 10 rows, the second 9"):
        difference(first, first[:9])
    with pytest.raises(ValueError, match="row 1: words is .* in the first table"):
        difference(first, random_counts(10, 0.5, 3))
