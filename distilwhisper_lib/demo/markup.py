"""What the worker answers, as HTML. Texts are escaped: they come from models and readers."""

from collections.abc import Sequence
from html import escape
from typing import Any

CSS = """
.demo table { width: 100%; border-collapse: collapse; }
.demo th, .demo td { text-align: left; vertical-align: top; padding: 0.4em 0.6em; }
.demo tr { border-bottom: 1px solid var(--border-color-primary); }
.demo .number { text-align: right; white-space: nowrap; }
.demo .words { overflow-wrap: anywhere; min-width: 10em; }
.demo del { color: #b3261e; text-decoration: line-through; }
.demo ins { color: #1a5fb4; text-decoration: underline; }
.dark .demo del { color: #ff9d94; }
.dark .demo ins { color: #99c1f1; }
.demo .scroll { overflow-x: auto; }
.demo .problem { border-left: 4px solid #b3261e; padding: 0.5em 1em; }
.demo img { max-width: 100%; height: auto; background: white; }
.demo audio { width: 100%; }
"""


def _part(content: str) -> str:
    return f'<div class="demo">{content}</div>'


def problem(sentence: str) -> str:
    """Return what went wrong."""
    return _part(f'<p class="problem" role="alert">{escape(sentence)}</p>')


def note(sentence: str) -> str:
    """Return a remark, such as what is going on."""
    return _part(f'<p role="status">{escape(sentence)}</p>')


def missing(about: dict[str, Any]) -> str:
    """Return what is not there and the command that makes it; "" where all is there."""
    command = f"<code>{escape(about['command'])}</code>"
    again = "then start the demo again."
    if about["missing"]:
        things = escape(" and ".join(about["missing"]))
        text = f"Nothing can be shown yet: {things} must be fetched first. Call {command}, {again}"
        return _part(f'<p class="problem" role="alert">{text}</p>')
    if not about["untrained"]:
        return ""
    labels = escape("; ".join(system["label"] for system in about["untrained"]))
    text = f"Not trained here yet: {labels}. The demo trains nothing: call {command}, {again}"
    return _part(f'<p role="status">{text}</p>')


# ---- a sound


def sound(answer: dict[str, Any]) -> str:
    """Return a player of what the systems hear."""
    about = f"{escape(answer['name'])}, {answer['seconds']:.1f} s"
    if answer["pieces"] > 1:
        about += (
            f", cut at pauses into {answer['pieces']} pieces of at most {answer['longest']:.1f} s"
        )
    source = f"data:audio/flac;base64,{answer['flac']}"
    player = f'<audio controls src="{source}" aria-label="what the systems hear"></audio>'
    return _part(f"<p>{about}</p>{player}")


# ---- texts


def texts(answers: Sequence[dict[str, Any]], reference: str, normaliser: str) -> str:
    """Return a row for each system: text, differences to the reference, WER, seconds.

    Args:
        answers: Of the systems that are done.
        reference: What is said; "" where nobody knows. Two columns are then left out.
        normaliser: Of the texts that are compared.
    """
    compared = ["Compared with the reference", "WER (%)"] if reference else []
    heads = ["System", "Text", *compared, "Time (s)"]
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = [f"<tr>{head}</tr>"]
    if reference:
        rest = "<td></td>" * (len(heads) - 2)
        rows.append(f'<tr><th scope="row">Reference</th>{_words(escape(reference))}{rest}</tr>')
    rows += [_row(answer, bool(reference)) for answer in answers]
    table = f'<div class="scroll"><table>{"".join(rows)}</table></div>'
    return _part(table + (_legend(normaliser) if reference else ""))


def _row(answer: dict[str, Any], is_compared: bool) -> str:
    cells = [f'<th scope="row">{escape(answer["label"])}</th>', _words(escape(answer["text"]))]
    if is_compared:
        rate = "–" if answer["wer"] is None else f"{answer['wer']:.1f}"
        cells += [_words(marks(answer["marks"])), _number(rate)]
    cells.append(_number(f"{answer['seconds']:.2f}"))
    return f'<tr data-system="{escape(answer["name"])}">{"".join(cells)}</tr>'


def _words(content: str) -> str:
    return f'<td class="words">{content}</td>'


def _number(text: str) -> str:
    return f'<td class="number">{text}</td>'


def marks(words: Sequence[Sequence[str]]) -> str:
    """Return words with what is missing struck out, and what is wrong or too much underlined."""
    parts = []
    for kind, before, after in words:
        if kind == "equal":
            parts.append(escape(after))
            continue
        if before:
            parts.append(f"<del>{escape(before)}</del>")
        if after:
            parts.append(f"<ins>{escape(after)}</ins>")
    return " ".join(parts)


def _legend(normaliser: str) -> str:
    return (
        "<p><del>Struck out</del>: in the reference, and not written. <ins>Underlined</ins>: "
        "written, and not in the reference. A pair of both is one word for another. "
        f"Words are compared as they are scored (normaliser <code>{escape(normaliser)}</code>). "
        "The time is that of this machine, with the model in memory.</p>"
    )


# ---- gates

STACKS = {  # what a picture shows, and what its positions are called
    "encoder": ("frames", "time from left to right, below the sound"),
    "decoder": ("tokens", "what the decoder reads from left to right"),
}


def gates(answers: Sequence[dict[str, Any]], pieces: int) -> str:
    """Return the pictures of gates of each system with experts, and their shares as text.

    Args:
        answers: Of the systems that are done.
        pieces: Of the sound; the first one that is not silent is shown.
    """
    parts = []
    for answer in answers:
        parts.append(f"<h3>{escape(answer['label'])}: where the expert was used</h3>")
        if pieces > 1:
            parts.append("<p>In the first piece that is not silent.</p>")
        for stack, (positions, across) in STACKS.items():
            parts.append(_picture(answer, stack, positions, across))
    return _part("".join(parts)) if parts else ""


def _picture(answer: dict[str, Any], stack: str, positions: str, across: str) -> str:
    layers = [f"{share:.0f} %" for share in answer[stack]["shares"]]
    cut = ""
    if stack == "decoder" and answer["drawn"] < answer["tokens"]:
        cut = f" Drawn are the first {answer['drawn']} of {answer['tokens']} tokens."
    text = (
        f"{stack.title()}: {positions} that went to the expert, by layer from the first: "
        f"{', '.join(layers)}. Dark is the expert, light the shared block; layers from top to "
        f"bottom, {across}.{cut}"
    )
    picture = f'<img src="data:image/png;base64,{answer[stack]["png"]}" alt="{escape(text)}">'
    return f"<figure>{picture}<figcaption>{escape(text)}</figcaption></figure>"
