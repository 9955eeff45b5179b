"""What notebook 09 says of its results; `notebook_claims.py` collects and checks it."""

import re

from notebook_claims import Claim, numbers_of, output_of

STEM = "09_your_language"
TOKENS = "scores = language_scores("


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


def claims() -> list[Claim]:
    """Return the claims of notebook 09."""
    return [
        Claim(
            "All 12 texts that have slipped are among the first 24 of the list; by the loss alone "
            "11 are.",
            _slipped,
        ),
        Claim("One row near its top was not planted", _not_planted),
        Claim(
            "The Dutch token comes first, and Afrikaans, Dutch's next relative, second: 0.28 nats "
            "a token worse, which is decided, as it is for all others. English comes before "
            "German, which is the nearer relative",
            _tokens,
        ),
    ]
