"""The answers behind `notebooks/hashed.json`, in plain words; not part of the students' handout.

`tools/handout.py hash` hashes them, each with the message that its giver reads. A typical mistake
has a message of its own; any other wrong answer gets the one that stands in the check.
"""

import itertools
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from made_up import LABELS, made_up_batch, made_up_errors

from distilwhisper_lib import js_divergence


@dataclass
class Answer:
    """One answer.

    Attributes:
        right: The right answer: a number, a text, or a tuple of numbers.
        says: What is said to it.
        mistakes: Pairs of a wrong answer and what is said to it.
        step: The width to which numbers are rounded: within it of the right one a number is right,
            beyond twice of it never. None for choices and whole numbers, which must be equal.
    """

    right: object
    says: str = ""
    mistakes: list[tuple[object, str]] = field(default_factory=list)
    step: float | None = None


ANSWERS: dict[str, Answer] = {}

ROUNDED = "that looks rounded: give the exact number, all its digits"

# ---- notebook 00

FRAMES = 100 * (2.8 + 6.0)
# The library's window has two frames more, those that overlap the end of the clip: right as well
ANSWERS["0.2 frames"] = Answer(
    FRAMES,
    mistakes=[
        (100 * 2.8, "the window holds the margin too, not only the clip"),
        (100 * (2.8 + 2 * 6.0), "the margin comes after the clip alone, not before it"),
        (FRAMES / 2.5, "that counts a frame every 25 ms: 25 ms is its length, but the next one starts 10 ms later"),
        (FRAMES / 100, "that is in seconds: how many frames start in them?"),
    ],
    step=2,
)
ANSWERS["0.2 positions"] = Answer(FRAMES / 2, step=1)
MIXED_UNITS = "compare frames with frames, or positions with positions: 3000 frames are 1500 positions"
ANSWERS["0.2 per cent"] = Answer(
    100 * FRAMES / 3000,
    says="the other seven tenths of the native window would be silence that nobody needs",
    mistakes=[
        (100 * FRAMES / 1500, MIXED_UNITS),
        (100 * FRAMES / 2 / 3000, MIXED_UNITS),
        (100 * 280 / 3000, "the share is that of the whole window: the margin goes through the encoder too"),
        (100 - 100 * FRAMES / 3000, "that is the share which is saved: the question is for the share that is left"),
    ],
    step=0.4,
)

# ---- notebook 01

TOO_FEW = "that is too few errors: the hypothesis cannot be reached from the reference"
ANSWERS["1.1 errors"] = Answer(3, mistakes=[(count, TOO_FEW) for count in (0, 1, 2)])
ANSWERS["1.1 wer"] = Answer(
    100 * 3 / 6,
    says=(
        "there are two shortest ways, (3, 0, 0) and (1, 1, 1), and both give the same WER. One wrong ending costs as "
        "much as a missing word: WER is hard on languages with rich endings"
    ),
    step=0.1,
)


def interval_answer() -> Answer:
    """Return the paired interval of exercise 1.2, and those that mistakes give."""
    first, second, words, draws = made_up_errors()
    rates = [100 * errors[draws].sum(1) / words[draws].sum(1) for errors in (first, second)]
    difference = rates[0] - rates[1]
    apart = [np.percentile(rate, [2.5, 97.5]) for rate in rates]
    wanted = np.percentile(difference, [2.5, 97.5])
    of_single_clips = (100 * (first - second) / words)[draws].mean(1)
    for_each_clip = (first - second)[draws].mean(1)
    alone = apart[0][1] - apart[0][0]

    two_intervals = (
        "this subtracts two separate intervals: subtract within each resample, then take the percentiles"
    )
    mean_of_rates = (
        "this averages the rates of single clips, so a clip of one word weighs as much as one of ten: sum the errors "
        "and the words of the drawn clips, then divide"
    )
    without_words = "these are errors for each clip: a WER divides by the words of the drawn clips"
    percentiles = "np.percentile counts from 0 to 100: 2.5 and 97.5 (0.025 and 0.975 are for np.quantile)"
    found = [
        (apart[0] - apart[1], two_intervals),
        (apart[0] - apart[1][::-1], two_intervals),
        (np.percentile(of_single_clips, [2.5, 97.5]), mean_of_rates),
        (np.percentile(for_each_clip, [2.5, 97.5]), without_words),
        (100 * np.percentile(for_each_clip, [2.5, 97.5]), without_words),
        (-wanted[::-1], "the sign is the other way round: WER(first) - WER(second)"),
        (wanted[::-1], "low comes first, then high"),
        (wanted / 100, "the difference is asked for in points (per cent)"),
        (np.percentile(difference, [0.025, 0.975]), percentiles),
        (np.percentile(difference, [5, 95]), "that leaves out 5 % at each end, so it is a 90 % interval"),
    ]
    return Answer(
        tuple(wanted),
        says=(
            f"the paired interval is {wanted[1] - wanted[0]:.1f} points wide, that of one system alone {alone:.1f}: "
            "what makes a clip hard for both cancels out"
        ),
        mistakes=[(tuple(pair), message) for pair, message in found],
        step=0.02,  # so that two of the sorted differences are right too
    )


ANSWERS["1.2 interval"] = interval_answer()

RIGHT_STATEMENTS = {"b", "d"}
WRONG_STATEMENTS = {
    "a": "(a) is wrong: insertions count as errors but not as reference words, so WER has no upper end; a loop of "
    "fifty words in a clip of three alone adds fifty errors",
    "c": "(c) is wrong: two overlapping intervals do not mean that there is no difference. Both systems heard the same "
    "clips, so the paired difference is the test, and its interval can be far narrower",
    "e": "(e) is wrong: a stand-in shares its student's weaknesses, and was tuned on clips of the same game. What it "
    "leaves of the gap says nothing about what whisper-large-v2 would leave",
}
MISSING_STATEMENTS = {
    "b": "a statement is missing: where do a test's errors sit, and what is the share of loops in their column for?",
    "d": "a statement is missing: which of them keeps model and language alike, so that only the sound differs?",
}


def statements_answer() -> Answer:
    """Return exercise 1.3: a message for every choice of statements."""
    letters = sorted({*RIGHT_STATEMENTS, *WRONG_STATEMENTS})
    mistakes = []
    for number in range(len(letters) + 1):
        for chosen in itertools.combinations(letters, number):
            wrong = [WRONG_STATEMENTS[letter] for letter in chosen if letter in WRONG_STATEMENTS]
            missing = [MISSING_STATEMENTS[letter] for letter in sorted(RIGHT_STATEMENTS - set(chosen))]
            if wrong or missing:
                mistakes.append(("".join(chosen), "; ".join(wrong or missing)))
    return Answer(
        "".join(sorted(RIGHT_STATEMENTS)),
        says="read intervals, loops and conditions before you compare two numbers",
        mistakes=mistakes,
    )


ANSWERS["1.3 statements"] = statements_answer()

# ---- notebook 02: whisper-medium

FFN = 2 * 1024 * 4096 + 4096 + 1024
GATE = 1024 * 64 + 64 + 64
LAYERS = 24 + 24
PARAMETERS = LAYERS * (FFN + GATE)
ANSWERS["2.1 parameters"] = Answer(
    PARAMETERS,
    mistakes=[
        (PARAMETERS // 2, "that is half of it: there are 24 encoder AND 24 decoder layers"),
        (LAYERS * FFN, "the experts are right; the gates are missing"),
        (
            LAYERS * (2 * FFN + GATE),
            "the shared block is counted too: it belongs to all languages, so a language costs one FFN",
        ),
        (LAYERS * (FFN - 4096 - 1024 + GATE), "the weights are right; the biases of fc1, fc2 are missing"),
        (LAYERS * (FFN + GATE + 1), "nearly: the gate's second linear layer has no bias"),
        (LAYERS * (FFN + GATE - 64), "nearly: the gate's first linear layer has a bias"),
        (FFN + GATE, "that is one layer: there are 24 in the encoder and 24 in the decoder"),
        *((round(PARAMETERS, -digits), ROUNDED) for digits in range(3, 8)),
    ],
)
ANSWERS["2.1 megabytes_fp16"] = Answer(
    2 * PARAMETERS / 1e6,
    says=(
        f"{PARAMETERS / 1e6:.1f} million parameters, {2 * PARAMETERS / 1e6:.0f} MB in fp16, for one language of "
        "whisper-medium"
    ),
    mistakes=[
        (PARAMETERS / 1e6, "that is one byte a number; fp16 takes two bytes"),
        (4 * PARAMETERS / 1e6, "that is fp32; in fp16 a number takes two bytes"),
        (2 * PARAMETERS / 2**20, "that is MiB (2^20 bytes); the question is for 10^6 bytes"),
        (2 * PARAMETERS / 1e9, "that is in gigabytes: the question is for megabytes"),
    ],
    step=0.5,
)
LARGER = "with that strength more than half are binary, but is there a smaller one? So which is the first"
ANSWERS["2.3 first_alpha"] = Answer(
    4,
    says=(
        "even at alpha = 5 a third of the undecided gates is soft: the noise alone makes nothing binary, it makes "
        "large |G| worth learning"
    ),
    mistakes=[
        (3, "at that strength not yet half of the undecided gates are binary, so which is the first?"),
        *((alpha, LARGER) for alpha in range(5, 11)),
    ],
)

# ---- notebook 03

T, S = np.array([0.8, 0.2]), np.array([0.4, 0.6])
M = (T + S) / 2


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Return KL(p || q) in nats."""
    return float((p * np.log(p / q)).sum())


def kl_of_logs(log_p: torch.Tensor, log_q: torch.Tensor) -> float:
    """Return the mean of KL(p || q) over positions, of log-probabilities (N, V)."""
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


JS = (kl(T, M) + kl(S, M)) / 2
NOT_AVERAGE = "JS compares t and s with their average m"
ANSWERS["3.1 js_nats"] = Answer(
    JS,
    mistakes=[
        (JS / math.log(2), "that is in bits (log2); in nats the logarithm is natural"),
        ((kl(M, T) + kl(M, S)) / 2, "that is half of KL(m || t) plus half of KL(m || s): m comes second, in both"),
        ((kl(T, S) + kl(S, T)) / 2, f"that is the mean of KL(t || s) and KL(s || t); {NOT_AVERAGE}"),
        (math.sqrt(JS), "that is the square root of it (scipy's jensenshannon is a distance, the root of JS)"),
        (2 * JS, "that is the sum of both KL terms; JS is half of it"),
        (JS / math.log(10), "that is with the logarithm to base 10; in nats the logarithm is natural"),
        (kl(S, T), f"that is KL(s || t); {NOT_AVERAGE}"),
        (kl(T, S), f"that is KL(t || s); {NOT_AVERAGE}"),
        (kl(T, M), "that is KL(t || m) alone: JS is half of KL(t || m) plus half of KL(s || m)"),
        (kl(S, M), "that is KL(s || m) alone: JS is half of KL(t || m) plus half of KL(s || m)"),
        (round(JS, 2), "that is rounded too much: three decimals are asked for"),
    ],
    step=5e-4,
)
ANSWERS["3.1 largest_js"] = Answer(
    math.log(2),
    says=f"JS is {JS:.4f} nats, and no vocabulary takes it beyond log 2 = {math.log(2):.4f}",
    mistakes=[
        (1.0, "1 is the bound in bits; how much is a bit in nats?"),
        (math.inf, "KL has no largest value, JS has: m is never zero where t is not"),
        (
            math.log(51865),
            "log V is the largest entropy; does V occur in the argument for the bound of JS?",
        ),
        (2 * math.log(2), "that is the bound of both KL terms together; JS is half of their sum"),
    ],
    step=4e-3,
)


def masked_js_answer() -> Answer:
    """Return the value of exercise 3.2 on its batch, and those that mistakes give."""
    teacher, student = made_up_batch()
    keep = LABELS != -100
    right = float(js_divergence(teacher[keep], student[keep]))
    rows = [float(js_divergence(t[k], s[k])) for t, s, k in zip(teacher, student, keep, strict=True)]
    everywhere = float(js_divergence(teacher.flatten(0, 1), student.flatten(0, 1)))
    logits = (teacher[keep], student[keep])
    log_t, log_s = (one.log_softmax(-1) for one in logits)
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    of_logits = ((logits[0] + logits[1]) / 2).log_softmax(-1)
    m_first = (kl_of_logs(log_m, log_t) + kl_of_logs(log_m, log_s)) / 2
    without_average = (kl_of_logs(log_t, log_s) + kl_of_logs(log_s, log_t)) / 2
    wrong_average = (kl_of_logs(log_t, of_logits) + kl_of_logs(log_s, of_logits)) / 2
    return Answer(
        right,
        mistakes=[
            (everywhere, "that is the mean over all positions, padded ones included"),
            (
                right * float(keep.double().mean()),
                "padded positions are set to zero, but still counted: divide by the number of labelled positions, not "
                "by B * T",
            ),
            (right * int(keep.sum()), "that is the sum over the positions, not the mean"),
            (
                m_first,
                "that is half of KL(m || t) plus half of KL(m || s): m comes second in both. (F.kl_div takes the logarithm "
                "of the second distribution as its first argument)",
            ),
            (without_average, f"that is the mean of KL(t || s) and KL(s || t); {NOT_AVERAGE}"),
            (kl_of_logs(log_t, log_s), f"that is KL(t || s); {NOT_AVERAGE}"),
            (wrong_average, "m is the average of the probabilities, yours is that of the logits"),
            (
                right - math.log(2),
                "negative: m is half of the sum of t and s, so log 2 has to be subtracted from torch.logaddexp",
            ),
            (math.sqrt(right), "that is the square root of JS"),
            (
                sum(rows) / len(rows),
                "that is a mean of means: a position of a short sequence weighs more than one of a long sequence; all "
                "labelled positions count the same",
            ),
            (2 * right, "twice too large: JS is HALF of the sum of both KL terms"),
            (right / math.log(2), "that is in bits: take the natural logarithm"),
            (
                right / teacher.shape[-1],
                "that is a mean over the vocabulary too: sum over the tokens, then take the mean over the positions",
            ),
        ],
        step=1e-4,
    )


ANSWERS["3.2 masked_js"] = masked_js_answer()
ANSWERS["3.3 smallest_k 3"] = Answer(256)
ANSWERS["3.3 smallest_k 6"] = Answer(16)

# ---- notebook 04: whisper-small

LORA = 24 * 2 * 64 * (768 + 3072)
ANSWERS["4.1 lora_parameters"] = Answer(
    LORA,
    says=f"{LORA:,} parameters, under 5 % of whisper-small's 241.7 million",
    mistakes=[
        (
            LORA // 2,
            "half of it: each layer has two linear layers, fc1 and fc2, each of them has an A and a B, and there are 12 + 12 "
            "layers",
        ),
        (24 * 2 * (768 + 3072), "that is for r = 1: A and B have r rows or columns"),
        (LORA + 24 * (768 + 3072), "LoRA's A and B have no bias"),
        (
            24 * 2 * 768 * 3072,
            "that is the number of weights in fc1 and fc2 themselves, which stay frozen",
        ),
        (
            2 * LORA,
            "twice as much: that is LoRA on the shared block and on the expert of each layer, as the released script "
            "has it; here is only one block a layer",
        ),
        (2 * 64 * (768 + 3072), "that is one layer: there are 12 in the encoder and 12 in the decoder"),
        *((round(LORA, -digits), ROUNDED) for digits in range(3, 7)),
    ],
)

# ---- notebook 05

NONE_OF_EIGHT = 0.95**8
ANSWERS["5.2 at_least_one"] = Answer(
    1 - NONE_OF_EIGHT,
    says=(
        f"about {1 - NONE_OF_EIGHT:.2f}: among eight comparisons of equals, one in three times something looks decided"
    ),
    mistakes=[
        (
            8 * 0.05,
            "0.4 = 8 * 0.05 counts twice the cases in which two intervals miss together; with 30 comparisons it would "
            "give more than 1",
        ),
        (NONE_OF_EIGHT, "that is the probability that none of them excludes zero: take the opposite"),
        (0.05**8, "that is the probability that all eight do, which is something else"),
        (8 * 0.05 * 0.95**7, "that is the probability of exactly one"),
        (0.05, "0.05 is for a single comparison; here there are eight"),
        (
            1 - 0.975**8,
            "0.05 holds both ends of an interval already: each comparison excludes zero by luck with 0.05, not 0.025",
        ),
    ],
    step=4e-3,
)

# ---- notebook 06: parameters of whisper-small, and of experts and gates for a language

SMALL, EXPERTS = 241.7e6, 114.5e6
ANSWERS["6.3 fine_tuning_gb"] = Answer(
    16 * SMALL / 1e9,
    mistakes=[
        (16 * SMALL / 2**30, "that is in GiB (2^30 bytes); here a gigabyte has 10^9"),
        (
            4 * SMALL / 1e9,
            "these are the weights alone; each has a gradient and two means as well: 16 bytes",
        ),
        (12 * SMALL / 1e9, "Adam has two means: with weight and gradient that makes 16 bytes each"),
        (8 * SMALL / 1e9, "Adam's two means are missing: with them a parameter takes 16 bytes each"),
    ],
    step=5e-3,
)
ANSWERS["6.3 experts_gb"] = Answer(
    (4 * SMALL + 16 * EXPERTS) / 1e9,
    says="experts take less than fine-tuning, although model and experts together are half as large again",
    mistakes=[
        (
            16 * (SMALL + EXPERTS) / 1e9,
            "that trains Whisper as well: a frozen parameter has no gradient and no means, only its 4 bytes",
        ),
        (16 * EXPERTS / 1e9, "the frozen Whisper is there too: 4 bytes each"),
        ((8 * SMALL + 16 * EXPERTS) / 1e9, "a frozen parameter has no gradient: only its 4 bytes"),
        (4 * (SMALL + EXPERTS) / 1e9, "that is for transcribing: in training each expert's parameter takes 16 bytes"),
        (
            (4 * SMALL + 16 * EXPERTS) / 2**30,
            "that is in GiB (2^30 bytes); here a gigabyte has 10^9",
        ),
    ],
    step=5e-3,
)

# ---- notebook 07: 1,500 positions of the encoder, 30 of the decoder, a budget of 0.5

ANSWERS["7.1 decoder_share"] = Answer(
    30 / 1530,
    mistakes=[
        (30 / 1500, "2.00 % is 30 of 1,500; the share is of all positions, the decoder's own included"),
        (
            0.5,
            "the mean is over gates, not over stacks: at each layer the decoder has 30 positions, the encoder 1,500",
        ),
        (1500 / 1530, "that is the encoder's share"),
    ],
    step=5e-5,
)
ANSWERS["7.1 encoder_mean"] = Answer(
    0.5 * 1530 / 1500,
    says="two points more in the encoder pay for a decoder that never uses its experts",
    mistakes=[
        (0.5, "with 0.5 in the encoder and 0 in the decoder the mean lies below 0.5"),
        (
            0.5 * 1500 / 1530,
            "upside down: the encoder has to make up for the decoder, so its mean is above 0.5",
        ),
        (1.0, "then the mean over all gates would be far above the budget of 0.5"),
    ],
    step=5e-4,
)

# ---- notebook 08: 60 MB for two weights in each of 24 layers of whisper-small

BYTES_OF_A_RANK = 24 * 2 * (768 + 3072) * 2
RANK = int(60e6 // BYTES_OF_A_RANK)
MEGABYTES_OF_64 = 64 * BYTES_OF_A_RANK / 1e6
ANSWERS["8.2 largest_rank"] = Answer(
    RANK,
    says=(
        f"rank {RANK} in 60 MB; 64, LoRA's in the release, takes {MEGABYTES_OF_64:.0f} MB, where a full copy takes 458"
    ),
    mistakes=[
        (int(60e6 // (BYTES_OF_A_RANK / 2)), "that is for one weight a layer: there are fc1 and fc2"),
        (int(60e6 // (2 * BYTES_OF_A_RANK)), "that is for numbers of 4 bytes; fp16 has 2"),
        (
            int(60 * 2**20 // BYTES_OF_A_RANK),
            "that is for 60 MiB (2^20 bytes each); a megabyte has 10^6",
        ),
        (RANK + 1, f"{RANK + 1} takes {(RANK + 1) * BYTES_OF_A_RANK / 1e6:.1f} MB, which is too much: round down"),
    ],
)

# ---- notebook 09: nats under two tokens, for four clips of 12, 3, 20 and 5 tokens

NATS = {"de": np.array([30, 9, 44, 17]), "nl": np.array([24, 12, 40, 14])}
TOKENS = np.array([12, 3, 20, 5])
A_TOKEN = {code: float(nats.sum() / TOKENS.sum()) for code, nats in NATS.items()}
CLOSER = A_TOKEN["nl"] - A_TOKEN["de"]
OF_CLIPS = float((NATS["nl"] / TOKENS - NATS["de"] / TOKENS).mean())
ANSWERS["9.2 difference"] = Answer(
    CLOSER,
    mistakes=[
        (-CLOSER, "the sign is the other way round: nl minus de, and nl has the smaller loss"),
        (
            OF_CLIPS,
            "that is a mean of the clips' own rates, in which three tokens weigh as much as twenty: sum the nats and the "
            "tokens first",
        ),
        (-10.0, "those are all nats together: divide them by all tokens, for a mean over the tokens is asked for"),
        (-2.5, "that is for each clip: divide by the tokens, not by the clips"),
        *((A_TOKEN[code], "that is one loss alone: the difference of the two is asked for") for code in ("de", "nl")),
    ],
    step=4e-3,
)
ANSWERS["9.2 times"] = Answer(
    math.exp(-CLOSER),
    says=(
        f"{-CLOSER:.2f} nats a token make the right token {math.exp(-CLOSER):.2f} times as probable: of clip b alone the "
        "opposite would follow"
    ),
    mistakes=[
        (math.exp(CLOSER), "turned round: under nl the right token is more probable, so the factor is above 1"),
        (
            A_TOKEN["de"] / A_TOKEN["nl"],
            "that is the ratio of the losses: each of them is a logarithm, so it is their difference that counts",
        ),
        (2**-CLOSER, "a nat belongs to the natural logarithm: e to the power, not 2"),
        (math.exp(10), "that is the ratio of all texts together: for a token take the loss of a token"),
        (-CLOSER, "that is the logarithm of the factor"),
    ],
    step=8e-3,
)
