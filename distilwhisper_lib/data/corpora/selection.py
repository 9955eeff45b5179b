"""Rows of a corpus: those of a split, or of a speaker."""

from datasets import Dataset, DatasetInfo

from ...checks import check_choice
from .items import SPLITS, stable_hash


def select(dataset: Dataset, split: str, limit: int | None = None, seed: int = 0) -> Dataset:
    """Return the rows of a split, in an order that depends on their ids and the seed alone.

    Args:
        dataset: A corpus.
        split: One of `items.SPLITS`.
        limit: How many rows, the first ones in that order: a smaller limit gives a part of a
            larger one. None: all.
        seed: Of the order.

    Raises:
        ValueError: For an unknown split, a limit below 1, or an empty split (the message names the
            corpus, the language and the split).
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: one of {', '.join(sorted(SPLITS))}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or None, not {limit}")

    ids = dataset["id"][:]
    splits = dataset["split"][:]
    chosen = [index for index, other in enumerate(splits) if other == split]
    if not chosen:
        info = dataset.info
        with_clips = [name for name in SPLITS if name in set(splits)]
        advice = _split_advice(info, split)
        raise ValueError(
            f"the split {split!r} of {info.dataset_name or 'the corpus'} in {info.config_name!r} "
            f"is empty: splits with clips: {', '.join(with_clips) or 'none'}{advice}"
        )
    chosen.sort(key=lambda index: stable_hash(f"{seed}:{ids[index]}"))
    return dataset.select(chosen[:limit])


def _split_advice(info: DatasetInfo, split: str) -> str:
    """Return what to do about an empty split of recordings; "" for other corpora.

    They have no split "teacher".
    """
    if info.dataset_name != "recordings" or split not in ("train", "validation", "test"):
        return ""
    return (
        ". The split is drawn by speaker: with few of them give recordings.csv a column split "
        "(train, validation or test in each row)"
    )


def of_speaker(dataset: Dataset, speaker: str, others: bool = False) -> Dataset:
    """Return the rows of one speaker, in all splits, or those of all other speakers.

    Args:
        dataset: A corpus.
        speaker: Its name; it has lines in the splits "train" and "test".
        others: Take the rows of all others instead.

    Raises:
        ValueError: For a speaker without lines in "train" or "test": the message names those who
            have some in both. For others where the test has none.
    """
    speakers = dataset["speaker"][:]
    lines = set(zip(speakers, dataset["split"][:], strict=True))
    known = sorted(name for name, split in lines if split == "train" and (name, "test") in lines)
    corpus = f"{dataset.info.dataset_name or 'the corpus'} in {dataset.info.config_name!r}"
    check_choice(f"the voice, a speaker with lines in train and test of {corpus},", speaker, known)
    if others and {name for name, split in lines if split == "test"} == {speaker}:
        raise ValueError(
            f"{speaker!r} is the only speaker in the test of {corpus}: a voice needs others to be "
            "tested on, so leave it out"
        )

    kept = [index for index, name in enumerate(speakers) if (name == speaker) != others]
    return dataset.select(kept)
