"""Why something is computed anew: lines for the reader where contents have changed."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ..data.batches import Clips
from ..evaluation.predictions import stored_digests
from ..files import read_json, tell
from ..training.config import RunConfig
from ..training.stored import flat

# Fields of a run's configuration that say what clips and weights are.
CONTENTS = {
    "student.content": "the student's weights, configuration or tokenizer",
    "data.clips": "the number of training clips",
    "data.training": "texts or sounds of the training clips",
    "data.validation": "texts or sounds of the validation clips",
    "teacher": "the teacher, or the clips that it has seen",
}


def tell_why_trained(folder: Path, config: RunConfig) -> None:
    """Say why a run is trained, where one with the same settings exists on other contents.

    Args:
        folder: Of the new run, beside those of the others.
        config: Of the new run.
    """
    now = flat(json.loads(json.dumps(asdict(config), default=str)))
    begin = folder.name.removesuffix(config.identity)
    for path in _newest_first(folder.parent.glob(f"{begin}*/run.json")):
        then = flat(read_json(path).get("config") or {})
        fields = {name for name in now.keys() | then.keys() if now.get(name) != then.get(name)}
        fields.discard("student.name")
        if fields and fields <= CONTENTS.keys():
            changed = ", ".join(text for name, text in CONTENTS.items() if name in fields)
            tell(
                f"train {config.method} {config.data.language}: not the run {path.parent.name}, "
                f"for other are {changed}"
            )
            return


def tell_why_transcribed(path: Path, label: str, clips: Clips) -> None:
    """Say why a test is transcribed, where earlier predictions were of other clips.

    Args:
        path: Of the new predictions, beside earlier ones of the same weights.
        label: Names the step.
        clips: Of the test.
    """
    begin, _, _ = path.stem.rpartition("-")
    for earlier in _newest_first(path.parent.glob(f"{begin}-????????.csv")):
        stored = stored_digests(earlier)
        now = dict(zip(clips.ids, clips.digests, strict=True))
        if earlier != path and tell_changed_clips(label, stored, now):
            return


def tell_changed_clips(label: str, before: dict[str, str], now: dict[str, str]) -> bool:
    """Say how many clips have another text or sound than before; return whether any has.

    Args:
        label: Names the step.
        before: Digest by clip id; "" where it is not known.
        now: The same.
    """
    changed = [clip for clip in now if before.get(clip) and before[clip] != now[clip]]
    if changed:
        tell(
            f"{label}: {len(changed)} of {len(now)} clips have another text or sound than before, "
            f"such as {changed[0]}: computed anew"
        )
    return bool(changed)


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    """Return files by the time of their last change, the latest first."""
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
