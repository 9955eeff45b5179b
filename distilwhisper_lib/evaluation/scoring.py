"""Word and character error rates with bootstrap intervals, loops, BLEU and chrF."""

import zlib

import jiwer
import numpy as np
import pandas as pd
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from ..checks import check_list
from ..data.normalisers import normalise, visible

LOOP_RATIO = 2.4  # compression ratio above which a text repeats itself (source: openai/whisper)
RESAMPLES = 2000  # of the bootstrap
TRANSLATION_RESAMPLES = 200  # fewer: each one is a whole run of sacrebleu
PERCENTILES = [2.5, 97.5]  # the ends of a 95 % interval

ERRORS = ["insertions", "deletions", "substitutions"]  # of words
CAPPED = "word_errors"  # the column that `statistics.capped` writes; it stands for the three
COUNTS = ["words", *ERRORS, "characters", "character_errors"]  # the counts of an utterance

# Languages written without spaces between words, for which a word error rate says nothing.
UNSPACED = ("bo", "ja", "km", "lo", "my", "th", "yue", "zh")

# Keeps the vowel signs and tone marks of these scripts, which Whisper's own normaliser removes.
FOR_UNSPACED = "keep-marks"


# ---- counting errors


def is_loop(text: str) -> bool:
    """Return whether a text repeats itself.

    It does where its length over its compressed length, both in bytes, exceeds LOOP_RATIO.

    Source:
        openai/whisper, `compression_ratio_threshold` of `transcribe`.
    """
    data = text.encode(errors="surrogatepass")
    return len(data) > LOOP_RATIO * len(zlib.compress(data))


def count_errors(
    references: list[str], predictions: list[str], normaliser: str = "whisper-basic"
) -> pd.DataFrame:
    """Count the word and character errors of each utterance.

    Args:
        references: The reference of each utterance.
        predictions: The prediction for each utterance, in the same order.
        normaliser: What is applied to both before they are compared (a name in NORMALISERS). Loops
            are looked for in the prediction as it is.

    Returns:
        One row per utterance, with the columns words and characters (of the reference), insertions,
        deletions and substitutions (of words), character_errors, and loop. An utterance whose
        reference is empty after normalisation cannot be scored: it has NaN in every count.

    Raises:
        ValueError: Where the two lists differ in length, or for an unknown normaliser.
    """
    _check_lengths(references, predictions)
    rows = []
    for reference, prediction in zip(references, predictions, strict=True):
        row = _count(normalise(reference, normaliser), normalise(prediction, normaliser))
        row["loop"] = is_loop(prediction)
        rows.append(row)
    return pd.DataFrame(rows, columns=[*COUNTS, "loop"])


def _check_lengths(references: list[str], predictions: list[str]) -> None:
    """Raise ValueError unless there is a prediction for each reference, both in lists."""
    for name, texts in (("references", references), ("predictions", predictions)):
        check_list(name, texts)
    if len(references) != len(predictions):
        raise ValueError(
            f"there are {len(references)} references and {len(predictions)} predictions: each "
            "utterance needs one of both"
        )


def _count(reference: str, prediction: str) -> dict[str, float]:
    """Return the COUNTS of one utterance, from normalised texts."""
    if not reference:
        return dict.fromkeys(COUNTS, np.nan)
    words = jiwer.process_words(reference=reference, hypothesis=prediction)
    characters = jiwer.process_characters(reference=reference, hypothesis=prediction)
    return {
        "words": len(reference.split()),
        "insertions": words.insertions,
        "deletions": words.deletions,
        "substitutions": words.substitutions,
        "characters": len(reference),
        "character_errors": characters.insertions + characters.deletions + characters.substitutions,
    }


def word_errors(counts: pd.DataFrame) -> pd.Series:
    """Return the word errors of each utterance: insertions + deletions + substitutions."""
    return counts[ERRORS].sum(axis=1)


# ---- words or characters


def has_no_spaces(code: str) -> bool:
    """Return whether a language, by its code, is written without spaces between words."""
    return code in UNSPACED


def main_rate(code: str) -> str:
    """Return the rate by which systems are compared in a language: "wer" or "cer"."""
    return "cer" if has_no_spaces(code) else "wer"


def _refuse_capped(table: pd.DataFrame) -> None:
    """Raise ValueError for counts that are capped: their errors are of words, and not of kinds."""
    if CAPPED in table:
        raise ValueError(
            "these counts are capped: only `rate` and `difference` of evaluation.statistics take "
            "them; for characters call `in_characters` first, then `capped`"
        )


def in_characters(table: pd.DataFrame) -> pd.DataFrame:
    """Return counts in which characters take the place of words, so that a WER of it is a CER.

    Args:
        table: As `count_errors` gives it.

    Raises:
        ValueError: For counts that are capped.
    """
    _refuse_capped(table)
    none = dict.fromkeys(ERRORS, 0)
    replaced = table.assign(words=table["characters"], **none)
    return replaced.assign(substitutions=table["character_errors"])


# ---- error rates of a corpus


def summarise(counts: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Return the error rates of a corpus, in per cent.

    The rates are over the whole corpus: all errors over all words, or characters, of the
    references. The intervals are 95 % bootstrap intervals over units; of a single unit there is
    none (NaN).

    Args:
        counts: As `count_errors` returns them. Utterances that cannot be scored are left out. Where
            there is a column `unit`, such as the room of a game, utterances of one unit are drawn
            together, as `statistics` explains; else each is a unit.
        seed: Of the bootstrap.

    Returns:
        n (scored utterances); wer, wer_low, wer_high; cer, cer_low, cer_high; insertions, deletions
        and substitutions, which sum to the WER; and loops, the share of utterances that loop.

    Raises:
        ValueError: Where no utterance can be scored, or one has no unit though there is the column,
            and for counts that are capped.
    """
    _refuse_capped(counts)
    scored = counts.dropna(subset=["words"])
    if scored.empty:
        reason = "every reference is empty after normalisation" if len(counts) else "no utterances"
        raise ValueError(f"nothing to score: {reason}")

    summary: dict[str, float] = {"n": len(scored)}
    drawn = _totals_of_units(scored)
    draws = _draws(len(drawn), seed)
    rates = {
        "wer": (word_errors(drawn), drawn["words"]),
        "cer": (drawn["character_errors"], drawn["characters"]),
    }
    for name, (errors, total) in rates.items():
        low, high = np.nan, np.nan
        if len(drawn) > 1:
            low, high = np.percentile(_resampled_rates(errors, total, draws), PERCENTILES)
        summary[name] = 100 * errors.sum() / total.sum()
        summary[f"{name}_low"] = low
        summary[f"{name}_high"] = high

    for kind in ERRORS:
        summary[kind] = 100 * scored[kind].sum() / scored["words"].sum()
    summary["loops"] = 100 * scored["loop"].mean()
    return summary


def _totals_of_units(scored: pd.DataFrame) -> pd.DataFrame:
    """Return the counts that are drawn together: summed by `unit`, or else the rows themselves."""
    if "unit" not in scored:
        return scored
    if scored["unit"].isna().any():
        row = np.flatnonzero(scored["unit"].isna())[0]
        raise ValueError(f"the column 'unit' has no value in scored row {row}")
    counted = [name for name in COUNTS if name in scored]
    return scored.groupby("unit", sort=False)[counted].sum()


def _draws(n: int, seed: int) -> np.ndarray:
    """Return the bootstrap's indices of units, drawn with replacement: (RESAMPLES, n)."""
    return np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))


def _resampled_rates(errors: pd.Series, total: pd.Series, draws: np.ndarray) -> np.ndarray:
    """Return the error rate of each resample, in per cent.

    Args:
        errors: The errors of each unit, (n,).
        total: The words or characters of each unit, (n,).
        draws: Indices of units, (R, m).

    Returns:
        The rates, (R,).
    """
    resampled_errors = errors.to_numpy(float)[draws].sum(1)
    resampled_total = total.to_numpy(float)[draws].sum(1)
    return 100 * resampled_errors / resampled_total


def paired_difference(first: pd.DataFrame, second: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Compare the WER of two systems on the same utterances.

    Both systems are resampled together, so what makes an utterance hard for both cancels out.

    Args:
        first: The counts of the first system, as `count_errors` returns them; with a column `unit`
            as for `summarise`.
        second: The counts of the second system.
        seed: Of the bootstrap.

    Returns:
        difference (WER of the first less that of the second, in points), low and high (its 95 %
        bootstrap interval), and share (of the resamples in which the first system's WER is at or
        above the second's); NaN where no utterance can be scored, and low, high and share of a
        single unit.

    Raises:
        ValueError: Where the two systems were not scored on the same utterances and units, and for
            counts that are capped.
    """
    for table in (first, second):
        _refuse_capped(table)
    if not _same_utterances(first, second):
        raise ValueError("the two systems were not scored on the same utterances")

    scorable = first["words"].notna().to_numpy()
    if not scorable.any():
        return dict.fromkeys(("difference", "low", "high", "share"), np.nan)
    drawn = [_totals_of_units(counts[scorable]) for counts in (first, second)]
    n = len(drawn[0])
    # Row 0 of the draws is the corpus itself; the resamples follow.
    draws = np.vstack([np.arange(n), _draws(n, seed)])

    rates = []
    for counts in drawn:
        rates.append(_resampled_rates(word_errors(counts), counts["words"], draws))
    differences = rates[0] - rates[1]
    difference = differences[0]
    if n == 1:  # a single unit has no interval
        return {"difference": difference, "low": np.nan, "high": np.nan, "share": np.nan}
    resampled = differences[1:]
    low, high = np.percentile(resampled, PERCENTILES)
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "share": np.mean(resampled >= 0),
    }


def _same_utterances(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Return whether two tables of counts have the same reference words and units, in order."""
    if len(first) != len(second) or ("unit" in first) != ("unit" in second):
        return False
    if "unit" in first and list(first["unit"]) != list(second["unit"]):
        return False
    return np.array_equal(first["words"], second["words"], equal_nan=True)


# ---- translation


def translation_scores(
    references: list[str],
    predictions: list[str],
    normaliser: str = "",
    units: list[str] | None = None,
) -> dict[str, float | str]:
    """Return BLEU and chrF of a corpus, by sacrebleu.

    The intervals are 95 % bootstrap intervals over units. They are computed here, because
    sacrebleu's own bootstrap fails on short texts and knows no units.

    Args:
        references: The reference of each utterance.
        predictions: The prediction for each utterance, in the same order.
        normaliser: What is applied to both (a name in NORMALISERS); "" leaves the texts as they
            are, without invisible characters (`visible`). References without case and punctuation,
            such as those of FLEURS, need one: Whisper's own case and punctuation would count as
            errors.
        units: The unit of each utterance, as for `summarise`; None: each is one.

    Returns:
        normaliser (where one is given), and for each of bleu and chrf: the score, <name>_low,
        <name>_high (of a single unit NaN) and <name>_signature, which is sacrebleu's.

    Raises:
        ValueError: Where the lists differ in length or are empty, or for an unknown normaliser.

    Source:
        The authors' release normalises both sides (load_st_dataset).
    """
    _check_lengths(references, predictions)
    if not len(references):
        raise ValueError("nothing to score: there are no utterances")
    if units is not None and len(units) != len(references):
        raise ValueError(f"{len(references)} utterances have {len(units)} units")
    scores: dict[str, float | str] = {}
    if normaliser:
        scores["normaliser"] = normaliser
        references = [normalise(text, normaliser) for text in references]
        predictions = [normalise(text, normaliser) for text in predictions]
    else:
        references = [visible(text) for text in references]
        predictions = [visible(text) for text in predictions]
    pairs = np.array(list(zip(references, predictions, strict=True)), dtype=object)  # (n, 2)
    rows_of_units = _rows_by_unit(list(range(len(pairs))) if units is None else units)
    draws = _draws(len(rows_of_units), seed=0)[:TRANSLATION_RESAMPLES]
    drawn = [np.concatenate([rows_of_units[unit] for unit in draw]) for draw in draws]

    metrics: dict[str, Metric] = {"bleu": BLEU(), "chrf": CHRF()}
    for name, metric in metrics.items():
        low, high = np.nan, np.nan
        if len(rows_of_units) > 1:
            resampled = [_corpus_score(metric, pairs[rows]) for rows in drawn]
            low, high = np.percentile(resampled, PERCENTILES)
        scores[name] = _corpus_score(metric, pairs)
        scores[f"{name}_low"] = low
        scores[f"{name}_high"] = high
        scores[f"{name}_signature"] = str(metric.get_signature())
    return scores


def _rows_by_unit(units: list) -> list[np.ndarray]:
    """Return the numbers of the rows of each unit."""
    codes, names = pd.factorize(np.array(units))
    return [np.flatnonzero(codes == code) for code in range(len(names))]


def chrf_statistics(references: list[str], predictions: list[str]) -> np.ndarray:
    """Return what the chrF of a corpus is made of, for each utterance; sums of rows give `chrf_of`.

    Args:
        references: The reference of each utterance.
        predictions: The prediction for each utterance, in the same order.

    Returns:
        Counts of character n-grams (n, K): predicted, of the reference, and matched.

    Raises:
        ValueError: Where the two lists differ in length or are empty.
    """
    _check_lengths(references, predictions)
    if not len(references):
        raise ValueError("nothing to score: there are no utterances")
    lists = [[visible(text) for text in texts] for texts in (predictions, references)]
    return np.array(CHRF()._extract_corpus_statistics(lists[0], [lists[1]]))


def chrf_of(totals: np.ndarray) -> float:
    """Return the chrF of a corpus, from the sum (K,) of its `chrf_statistics`."""
    return CHRF()._compute_score_from_stats(list(totals)).score


def _corpus_score(metric: Metric, pairs: np.ndarray) -> float:
    """Return the score of (reference, prediction) pairs, (n, 2)."""
    references = list(pairs[:, 0])
    predictions = list(pairs[:, 1])
    return metric.corpus_score(predictions, [references]).score
