"""`python tests/check_real.py`: real weights, real speech, every trained system, in some five minutes.

Each system is trained on a handful of utterances; it fails where its word error rate on these same utterances
does not fall to half of the student's. That is a check of the machinery, not a result.
"""

import shutil
import sys

from distilwhisper_lib.evaluation.testsets import TestSet
from distilwhisper_lib.lab.comparison import score
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.training.systems import TRAINED

CLIPS, KEY = 8, "cs/training"
RATES = {
    "fine-tuning": 1e-4,
    "lora": 1e-3,
    "clsr-ft": 3e-4,
    "distilwhisper-released": 3e-4,
    "distilwhisper": 3e-4,
}


def check_lab() -> Lab:
    """Return the laptop preset cut down to CLIPS short utterances, with what lets a system learn them by heart soon:
    one rate for all experts, which train without dropout, and a teacher that knows these very utterances."""
    lab = Lab(
        "laptop",
        name="check",
        train_clips=CLIPS,
        validation_clips=4,
        epochs=20,
        batch_size=2,
        eval_batch_size=8,
        max_train_seconds=2.5,
        train_margin_seconds=1.0,
        margin_seconds=1.0,
        max_new_tokens=48,
        learning_rates=RATES,
        experts={"expert_dropout": 0.0, "gate_dropout": 0.0, "skip_gate": 0.0},
    )
    lab.train_teacher = lambda: lab.train("fine-tuning")
    lab.test_sets[KEY] = TestSet("training", lab.preset.language, lab.preset.corpus, "train")
    lab.test_rows = lambda key: lab.rows("train", limit=CLIPS)
    return lab


def main() -> int:
    """Train and score every system; returns 1 where one has not learned."""
    lab, failed = check_lab(), []
    shutil.rmtree(
        lab.folder, ignore_errors=True
    )  # what an earlier state of the code has trained proves nothing
    before = score(lab, "student", KEY)["wer"]
    print(f"student: WER {before:.1f} on {CLIPS} training utterances", flush=True)
    for system in TRAINED:
        after = score(lab, system, KEY)["wer"]
        if after > before / 2:
            failed.append(system)
        print(
            f"{system}: WER {after:.1f}: {'NOT halved' if system in failed else 'halved'}",
            flush=True,
        )
    print(f"{len(TRAINED) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
