"""Word and character error rates with bootstrap intervals, looping outputs, BLEU and chrF."""

import zlib

import jiwer
import numpy as np
import pandas as pd
from sacrebleu.metrics import BLEU, CHRF

from ..data.normalisers import normalise

LOOP_RATIO = (
    2.4  # a text that compresses better than this repeats itself (openai/whisper's own threshold)
)

RESAMPLES = 2000

TRANSLATION_RESAMPLES = 200  # sacrebleu takes its time, and its own bootstrap fails on short texts

ERRORS = ["insertions", "deletions", "substitutions"]  # of words


def is_loop(text: str) -> bool:
    """Return whether `text` repeats itself: its length over its compressed length exceeds LOOP_RATIO."""
    data = text.encode()
    return len(data) > LOOP_RATIO * len(zlib.compress(data))


def count_errors(
    references: list[str], predictions: list[str], normaliser: str = "whisper-basic"
) -> pd.DataFrame:
    """Return one row per utterance: words, insertions, deletions, substitutions, characters, character_errors, loop.

    Rows whose reference is empty after normalisation cannot be scored and hold NaN in every count.
    """
    return pd.DataFrame(
        [
            _count(normalise(reference, normaliser), normalise(prediction, normaliser))
            | {"loop": is_loop(prediction)}
            for reference, prediction in zip(references, predictions, strict=True)
        ]
    )


def _count(reference: str, prediction: str) -> dict:
    if not reference:
        return {"words": np.nan}
    words = jiwer.process_words(reference=reference, hypothesis=prediction)
    characters = jiwer.process_characters(reference=reference, hypothesis=prediction)
    kinds = {kind: getattr(words, kind) for kind in ERRORS}
    wrong = sum(getattr(characters, kind) for kind in ERRORS)
    return {
        "words": len(reference.split()),
        **kinds,
        "characters": len(reference),
        "character_errors": wrong,
    }


def word_errors(counts: pd.DataFrame) -> pd.Series:
    """Return insertions + deletions + substitutions of each utterance."""
    return counts[ERRORS].sum(axis=1)


def summarise(counts: pd.DataFrame, seed: int = 0) -> dict:
    """Return corpus-level figures in per cent: wer and cer with 95 % intervals, the three kinds, loops; and n."""
    scored = counts.dropna(subset=["words"])
    if scored.empty:
        raise ValueError("nothing to score: every reference is empty after normalisation")
    found, draws = {"n": len(scored)}, _draws(len(scored), seed)
    for name, errors, of in (
        ("wer", word_errors(scored), "words"),
        ("cer", scored["character_errors"], "characters"),
    ):
        found[name] = 100 * errors.sum() / scored[of].sum()
        found[f"{name}_low"], found[f"{name}_high"] = np.percentile(
            _rates(errors, scored[of], draws), [2.5, 97.5]
        )
    found |= {kind: 100 * scored[kind].sum() / scored["words"].sum() for kind in ERRORS}
    return found | {"loops": 100 * scored["loop"].mean()}


def _draws(n: int, seed: int) -> np.ndarray:
    """Return RESAMPLES rows of n utterance numbers, drawn with replacement: (RESAMPLES, n)."""
    return np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))


def _rates(errors: pd.Series, of: pd.Series, draws: np.ndarray) -> np.ndarray:
    """Return 100 errors / of, over each row of draws: (R,)."""
    return 100 * errors.to_numpy(float)[draws].sum(1) / of.to_numpy(float)[draws].sum(1)


def paired_difference(first: pd.DataFrame, second: pd.DataFrame, seed: int = 0) -> dict:
    """Compare two systems on the same utterances: WER of first - second, in points, with its 95 % interval.

    Both systems are resampled together, so what makes an utterance hard cancels out. Returns difference, low,
    high, and share: of the resamples, how many have the first system at or above the second.
    Raises ValueError where the two are not over the same utterances.
    """
    if len(first) != len(second) or not np.array_equal(
        first["words"], second["words"], equal_nan=True
    ):
        raise ValueError("the two systems were not scored on the same utterances")
    keep = first["words"].notna().to_numpy()
    first, second = first[keep], second[keep]
    draws = np.vstack(
        [np.arange(len(first)), _draws(len(first), seed)]
    )  # all as they are, then the resamples
    rates = [_rates(word_errors(counts), counts["words"], draws) for counts in (first, second)]
    difference, *resampled = rates[0] - rates[1]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "share": np.mean(np.array(resampled) >= 0),
    }


def translation_scores(references: list[str], predictions: list[str], normaliser: str = "") -> dict:
    """Return BLEU and chrF by sacrebleu, each with its 95 % bootstrap interval, and sacrebleu's signature.

    normaliser: of both sides, then in the result too ("": texts as they are). References without case and punctuation,
    like FLEURS's, need one, or Whisper is punished for its own (source: the release, load_st_dataset).
    """
    found, sides = {}, (references, predictions)
    if normaliser:
        found, sides = (
            {"normaliser": normaliser},
            ([normalise(text, normaliser) for text in side] for side in sides),
        )
    pairs = np.array(list(zip(*sides, strict=True)), dtype=object)  # (n, 2)
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):

        def corpus(pairs, metric=metric):
            return metric.corpus_score(list(pairs[:, 1]), [list(pairs[:, 0])]).score

        low, high = np.percentile(
            [corpus(pairs[draw]) for draw in _draws(len(pairs), 0)[:TRANSLATION_RESAMPLES]],
            [2.5, 97.5],
        )
        found |= {name: corpus(pairs), f"{name}_low": low, f"{name}_high": high}
        found[f"{name}_signature"] = str(metric.get_signature())
    return found
