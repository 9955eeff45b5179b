"""What notebook 09 says of its results; `notebook_claims.py` collects and checks it."""

import re

from notebook_claims import Claim, numbers_of, output_of

STEM = "09_your_language"
TOKENS = "scores = language_scores("
OF_SPEAKERS = "by_speaker = "
LEARNING = "curve = learning_curve("


def _slipped() -> bool:
    printed = output_of(STEM, "slipped = doubtful")
    slipped, _, first, by_gain, by_loss = map(int, re.findall(r"\d+", printed))
    return (slipped, first, by_gain, by_loss) == (12, 24, 12, 11)


def _not_planted() -> bool:
    table = output_of(STEM, "doubtful = doubtful_clips(own)")
    (row,) = (line for line in table.splitlines() if "Geen tekst..." in line)
    return "another's text" not in row


def _tokens() -> bool:
    order = re.findall(r"(?m)^([a-z]{2}) +\d", output_of(STEM, TOKENS))
    second = numbers_of(STEM, TOKENS, "af")
    corrected = [numbers_of(STEM, TOKENS, code)[-1] for code in order[1:]]
    return (
        order[:2] == ["nl", "af"]
        and order.index("en") < order.index("de")
        and round(second[3], 2) == 0.28
        and max(corrected) <= 0.05
    )


def _baseline() -> bool:
    (wer, *_), characters = _rates("student"), numbers_of(STEM, OF_SPEAKERS, "font_big")
    apart = numbers_of(STEM, OF_SPEAKERS, "font_small")[-1] - characters[-1]
    return 55 < wer < 65 and round(apart) == 6


def _rates(system: str) -> list[float]:
    """Return WER with its interval, then CER with its own, in the table of section 5."""
    return numbers_of(STEM, "found = versus(", system)


def _gain() -> bool:
    table = output_of(STEM, LEARNING)
    (whole,) = (line.split() for line in table.splitlines() if line.startswith("356 "))
    found = numbers_of(STEM, "found = versus(", "experts minus student:")[:3]
    return (
        (_rates("student")[0], _rates("experts  ")[0]) == (59.3, 43.2)
        and found == [-16.1, -20.7, -11.2]
        and 19.5 <= float(whole[1]) <= 20.5
    )


def _doublings() -> bool:
    rows = [line.split() for line in output_of(STEM, LEARNING).splitlines()]
    found = {
        row[0]: [float(value) for value in row[-3:]] for row in rows if row[0] in ("178", "356")
    }
    return (
        found["178"][0] == -7.0
        and found["356"] == [-4.7, -7.5, -1.9]
        and all(high < 0 for *_, high in found.values())
    )


def claims() -> list[Claim]:
    """Return the claims of notebook 09."""
    return [
        Claim(
            "All 12 texts that have slipped are among the first 24 of the list; by the loss alone "
            "11 are.",
            _slipped,
        ),
        Claim("Not every row near the top was planted", _not_planted),
        Claim(
            "The Dutch token comes first, and Afrikaans, Dutch's next relative, second: 0.28 nats "
            "a token worse, which is decided, as it is for all others. English comes before "
            "German, which is the nearer relative",
            _tokens,
        ),
        Claim("Six words of ten are wrong. The two speakers lie 6 points of CER apart.", _baseline),
        Claim(
            "Twenty minutes of two people bring the WER from 59.3 to 43.2 %: 16.1 points less, "
            "[-20.7, -11.2].",
            _gain,
        ),
        Claim(
            "The first doubling brings 7.0 points, the second 4.7, [-7.5, -1.9]. Both are decided "
            "on these clips",
            _doublings,
        ),
    ]
