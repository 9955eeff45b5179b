"""Answers that a check can compare and nobody can read: `hashed.json` keeps a salted hash of each.

The table has an entry for each number, choice or set that an exercise asks for: the hash of the
right answer, the hashes of the typical mistakes, and the message for each of them. A message is
encrypted with its own answer, so that it can be read only by who has given that answer.

A measured number is rounded to steps. An answer is looked up at its own step and at the two beside
it, so that any number within one step of the right one is found, and none beyond two steps.

`tools/handout.py hash` writes the table from `notebooks/source/to_hash.py`.
"""

import base64
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("hashed.json")
ROUNDS = 10_000  # of the hash: some milliseconds, so that trying all numbers takes long
RIGHT, WRONG = "+", "-"  # the first character of a message before it is encrypted


def _rounded(answer, step: float | None, beside: int = 0) -> str:
    """Return the text that stands for a number or a choice."""
    if isinstance(answer, str):
        return answer
    if math.isinf(answer):
        return str(float(answer))
    if step is None:
        return str(int(answer)) if float(answer).is_integer() else str(float(answer))
    return str(math.floor(answer / step + 0.5) + beside)


def key_of(answer, step: float | None) -> str:
    """Return the text that is hashed: of a tuple the texts of its parts."""
    parts = answer if isinstance(answer, tuple) else (answer,)
    return " ".join(_rounded(part, step) for part in parts)


def _keys_near(answer, step: float | None) -> Iterator[str]:
    """Yield the text of an answer, then those of the steps beside it; no text twice."""
    yield key_of(answer, step)
    if step is None:
        return
    parts = answer if isinstance(answer, tuple) else (answer,)
    for moves in itertools.product((0, -1, 1), repeat=len(parts)):
        near = (_rounded(part, step, move) for part, move in zip(parts, moves, strict=True))
        if any(moves):
            yield " ".join(near)


def lock_and_key(salt: str, name: str, key: str) -> tuple[str, bytes]:
    """Return where the table keeps an answer, and what its message is encrypted with."""
    salted = f"{salt} {name}".encode()
    digest = hashlib.pbkdf2_hmac("sha256", key.encode(), salted, ROUNDS, dklen=48)
    return digest[:16].hex(), digest[16:]


def _mixed(text: bytes, secret: bytes) -> bytes:
    """Encrypt a message, or decrypt it: both are the same."""
    stream = hashlib.shake_256(secret).digest(len(text))
    return bytes(a ^ b for a, b in zip(text, stream, strict=True))


def sealed(message: str, secret: bytes) -> str:
    """Return an encrypted message, as text."""
    return base64.b64encode(_mixed(message.encode(), secret)).decode()


def opened(text: str, secret: bytes) -> str:
    """Return the message that `sealed` has encrypted."""
    return _mixed(base64.b64decode(text), secret).decode()


@dataclass(frozen=True)
class Hashed:
    """What the table knows about one answer.

    Attributes:
        name: The exercise and the part of its answer, such as "2.1 parameters".
        salt: Of the table.
        step: The width to which a number is rounded; None for choices and whole numbers.
        outcomes: Hash of an answer to its encrypted message.
    """

    name: str
    salt: str
    step: float | None
    outcomes: dict[str, str]

    def look_up(self, answer) -> str | None:
        """Return the message for an answer, with RIGHT or WRONG before it; None if not known."""
        for key in _keys_near(answer, self.step):
            place, secret = lock_and_key(self.salt, self.name, key)
            if place in self.outcomes:
                return opened(self.outcomes[place], secret)
        return None

    def check(self, answer, otherwise: str) -> str:
        """Return what is said to the right answer.

        Args:
            answer: A number, a text, or a tuple of them.
            otherwise: The message for a wrong answer that is no typical mistake.

        Raises:
            AssertionError: With the message for a wrong answer.
        """
        message = self.look_up(answer)
        assert message is not None, otherwise
        assert message[0] == RIGHT, message[1:]
        return message[1:]


@functools.cache
def read_table(path: Path = TABLE) -> dict:
    """Return the whole table.

    Raises:
        FileNotFoundError: Where the file is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing, and the checks of the exercises need it: take it from the "
            "handout or the repository again"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def hashed(name: str) -> Hashed:
    """Return what the table knows about an answer.

    Raises:
        FileNotFoundError: Where the file is missing.
        ValueError: Where it has no such answer.
    """
    table = read_table()
    if name not in table["answers"]:
        known = ", ".join(table["answers"])
        raise ValueError(
            f"{TABLE.name} has no answer {name!r}, only {known}: notebooks and table are of "
            "different versions, so take both from the same place"
        )
    entry = table["answers"][name]
    return Hashed(name, table["salt"], entry["step"], entry["outcomes"])
