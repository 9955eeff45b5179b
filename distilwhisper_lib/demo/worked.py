"""What the demo computes for a sound: texts with their errors, seconds, and the experts' gates.

Nothing is trained and nothing is fetched here: what is missing is named.
"""

import base64
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch

from ..cli.pauses import LONGEST, Piece, cut_at_pauses, is_silent
from ..data.audio import SAMPLE_RATE, LongAudioError, encode_flac, log_mel, pad_features, read_audio
from ..data.batches import position_masks, window_frames
from ..data.corpora.registry import MADE_UP
from ..data.corpora.reports import corpus_report
from ..data.normalisers import normalise, visible
from ..device import autocast, release_memory, use_precision
from ..evaluation.scoring import count_errors, word_errors
from ..evaluation.testsets import TestSet, corpus_of
from ..evaluation.transcription import generate_batch
from ..lab.comparison import NOT_COMPARED
from ..lab.drawing import Picture
from ..lab.lab import Lab
from ..lab.plots import plot_gate_positions, plot_gates_over_sound
from ..method.blocks import last_gates
from ..training.methods import Weights, compared_methods, get_method
from ..whisper.hub import REVISIONS, find_in_cache
from ..whisper.loading import SHIPPED
from ..whisper.mirror import MIRRORED, mirror_folder
from ..whisper.tokens import LANGUAGES, MOST_TOKENS, encode_labels
from ..whisper.window import use_window

MOST_SECONDS = 120  # of a sound of one's own
MOST_DRAWN = 40  # tokens in a picture of the decoder's gates


# ---- what is there


def weights_are_here(name: str) -> bool:
    """Return whether a Whisper can be loaded without a download."""
    if name == "tiny" or name in SHIPPED or Path(name).expanduser().is_dir():
        return True
    if name == MIRRORED and mirror_folder().is_dir():
        return True
    return find_in_cache(name, REVISIONS.get(name)) is not None


def speech_is_here(corpus: str, language: str) -> bool:
    """Return whether a corpus can be opened without a download."""
    if corpus in MADE_UP:
        return True
    try:
        corpus_report(corpus, language)
    except FileNotFoundError:
        return False
    return True


def what_is_missing(lab: Lab) -> list[str]:
    """Return what the lab would have to fetch before anything can be shown, each in words."""
    p = lab.preset
    missing = []
    if not weights_are_here(p.student):
        missing.append(f"the weights of {p.student}")
    languages = [p.language]
    if p.teacher is None:  # the name of the stand-in's training depends on both languages
        languages.append(p.second_language)
    for code in languages:
        corpus = corpus_of(p, code)
        if not speech_is_here(corpus, code):
            missing.append(f"the speech of {corpus} in {LANGUAGES[code].title()}")
    return missing


def is_ready(lab: Lab, name: str) -> bool:
    """Return whether a system can transcribe without a training or a download."""
    method = get_method(name)
    teacher = lab.preset.teacher
    needs_teacher = method.weights is Weights.TEACHER or method.distils
    if teacher is not None and needs_teacher and not weights_are_here(teacher):
        return False  # a training that distils is named by its teacher's weights
    return lab.is_ready(name)


def command_for(lab: Lab) -> str:
    """Return the command that makes what is missing."""
    return f"make course PRESET={lab.preset.name}"


# ---- a sound


@dataclass(frozen=True)
class Sound:
    """What is transcribed.

    Attributes:
        name: For the reader.
        audio: Samples (n,) at 16 kHz.
        pieces: What a system hears at once.
        reference: What is said; "" where nobody knows.
    """

    name: str
    audio: np.ndarray
    pieces: tuple[Piece, ...]
    reference: str = ""

    @property
    def loud_pieces(self) -> list[np.ndarray]:
        """The pieces that are not silent, each as samples."""
        parts = [self.audio[piece.start : piece.end] for piece in self.pieces]
        return [part for part in parts if not is_silent(part)]


def own_sound(path: str | Path, reference: str = "", longest: float = LONGEST) -> Sound:
    """Return a sound from a file.

    Args:
        path: Of the file.
        reference: What is said, where that is known.
        longest: Seconds of a piece; a longer sound is cut at pauses.

    Raises:
        ValueError: For a file that is no sound, broken, silent, or too long. The message has the
            file's name, and not its folder.
        OSError: For a file that cannot be read.
    """
    path = Path(path)
    try:
        audio = read_audio(path, longest=MOST_SECONDS)
    except LongAudioError:
        raise ValueError(
            f"{path.name} is too long: the demo takes up to {MOST_SECONDS} s. Cut it, or call "
            "`distilwhisper transcribe`, which takes recordings of any length"
        ) from None
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), path.name)) from None
    if is_silent(audio):
        raise ValueError(
            f"{path.name}: nothing is louder than -60 dB: record it anew, or louder, and see "
            "whether the right microphone is chosen"
        )
    pieces = cut_at_pauses(audio, longest)
    return Sound(path.name, audio, tuple(pieces), reference.strip())


# ---- errors


def marked_words(reference: str, text: str, normaliser: str) -> list[tuple[str, str, str]]:
    """Return how a text differs from a reference, word by word.

    Args:
        reference: What is said.
        text: What a system has written.
        normaliser: Of both, a name in NORMALISERS.

    Returns:
        ("equal" | "substitute" | "delete" | "insert", word of the reference or "", word of the text
        or "") in order; none where the reference is empty once normalised.
    """
    expected = normalise(reference, normaliser)
    found = normalise(text, normaliser)
    if not expected:
        return []
    alignment = jiwer.process_words(reference=expected, hypothesis=found).alignments[0]
    marks = []
    for part in alignment:
        before = expected.split()[part.ref_start_idx : part.ref_end_idx]
        after = found.split()[part.hyp_start_idx : part.hyp_end_idx]
        pairs = zip_longest(before, after, fillvalue="")
        marks += [(part.type, one, other) for one, other in pairs]
    return marks


def word_error_rate(reference: str, text: str, normaliser: str) -> float | None:
    """Return the WER of one text in per cent; None where the reference is empty."""
    counts = count_errors([reference], [text], normaliser)
    words = counts["words"].iloc[0]
    if not words > 0:  # NaN without a reference
        return None
    return float(100 * word_errors(counts).iloc[0] / words)


# ---- gates


@dataclass(frozen=True)
class Gates:
    """Where a system has used its expert: 1, and where the shared block: 0.

    Attributes:
        encoder: (layers, positions with sound); a position is two frames.
        decoder: (layers, tokens).
        tokens: What the decoder reads at each position.
        features: The log-mel that the encoder has heard (bands, frames).
    """

    encoder: np.ndarray
    decoder: np.ndarray
    tokens: list[str]
    features: np.ndarray


def shares(matrix: np.ndarray) -> list[float]:
    """Return the per cent of positions of each layer that went to the expert."""
    return [float(100 * layer.mean()) for layer in matrix]


# ---- the demo


class Demo:
    """The systems of a lab, each asked about one sound at a time.

    Models are loaded when they are first asked, and stay in memory.

    Args:
        lab: Whose trainings are used.
    """

    def __init__(self, lab: Lab):
        self.lab = lab
        self._models: dict[str, Any] = {}

    def about(self) -> dict[str, Any]:
        """Return what the page can offer.

        Returns:
            preset, language, made_up (whether that is no language of people), normaliser, command;
            missing (what has to be fetched first: then the
            rest is empty); systems and untrained, each with name, label and whether it is asked
            unless the reader says otherwise; tests, with the id and the text of each clip; the
            test and the clip of the example.
        """
        p = self.lab.preset
        about: dict[str, Any] = {
            "preset": p.name,
            "language": LANGUAGES[p.language].title(),
            "made_up": p.corpus in MADE_UP,
            "normaliser": p.normaliser,
            "command": command_for(self.lab),
            "missing": what_is_missing(self.lab),
            "systems": [],
            "untrained": [],
            "tests": {},
            "example": {},
        }
        if about["missing"]:
            return about
        for name, method in compared_methods(p).items():
            kind = "systems" if is_ready(self.lab, name) else "untrained"
            about[kind].append({"name": name, "label": method.label, "usual": method.in_table})
        for key in self._keys():
            clips = self.lab.test_clips(key)
            about["tests"][key] = list(zip(clips.ids, clips.texts, strict=True))
        test, clips = next(iter(about["tests"].items()))
        about["example"] = {"test": test, "clip": clips[0][0]}
        return about

    def _keys(self) -> list[str]:
        """Return the tests of transcription in the lab's language."""
        return [key for key, test in self.lab.test_sets.items() if self._is_shown(test)]

    def _is_shown(self, test: TestSet) -> bool:
        """Return whether a test has clips for the page."""
        if (test.language, test.task) != (self.lab.preset.language, "transcribe"):
            return False
        return test.name not in NOT_COMPARED and speech_is_here(test.corpus, test.language)

    def clip(self, key: str, name: str) -> Sound:
        """Return a clip of a test, its sound changed where the test says so.

        Args:
            key: Of the test, such as "cs/in-domain".
            name: The clip's id.

        Raises:
            ValueError: For an unknown test or clip.
        """
        clips = self.lab.test_clips(key)
        if name not in clips.ids:
            raise ValueError(f"{key} has no clip {name!r}")
        index = clips.ids.index(name)
        audio = read_audio(clips.rows[index]["audio"])
        if clips.change is not None:
            audio = clips.change(audio, seed=index)
        return Sound(name, audio, (Piece(0, len(audio)),), clips.texts[index])

    def own(self, path: str | Path, reference: str = "") -> Sound:
        """Return a sound from a file, in pieces as long as the clips that systems learn from."""
        longest = min(LONGEST, self.lab.preset.max_train_seconds or LONGEST)
        return own_sound(path, reference, longest)

    def work(self, sound: Sound, systems: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield what is known of a sound as soon as it is, ready for JSON.

        Args:
            sound: What is transcribed.
            systems: Names of the systems, in any order.

        Yields:
            "sound", then a "text" for each system, then "gates" for each that has experts.

        Raises:
            ValueError: For no system, or one that is not trained.
        """
        names = [name for name in compared_methods(self.lab.preset) if name in systems]
        if not names:
            raise ValueError("no system is chosen: tick at least one")
        for name in names:
            if not is_ready(self.lab, name):
                label = get_method(name).label
                raise ValueError(f"{label} is not trained here: {command_for(self.lab)}")

        yield self._told(sound)
        texts = {}
        for name in names:
            texts[name], seconds = self.transcribe(name, sound)
            yield self._told_text(name, sound, " ".join(texts[name]), seconds)
        for name in names:
            if get_method(name).has_experts:
                gates = self.gates(name, sound.loud_pieces[0], texts[name][0])
                yield self._told_gates(name, gates)

    # ---- in JSON

    def _told(self, sound: Sound) -> dict[str, Any]:
        """Return what there is to say about a sound before it is transcribed."""
        longest = max(piece.seconds for piece in sound.pieces)
        return {
            "kind": "sound",
            "name": sound.name,
            "seconds": len(sound.audio) / SAMPLE_RATE,
            "pieces": len(sound.pieces),
            "longest": longest,
            "reference": sound.reference,
            "flac": _base64(encode_flac(sound.audio)),
        }

    def _told_text(self, name: str, sound: Sound, text: str, seconds: float) -> dict[str, Any]:
        """Return a system's text with its errors."""
        normaliser = self.lab.preset.normaliser
        return {
            "kind": "text",
            "name": name,
            "label": get_method(name).label,
            "text": text,
            "marks": marked_words(sound.reference, text, normaliser),
            "wer": word_error_rate(sound.reference, text, normaliser),
            "seconds": seconds,
        }

    def _told_gates(self, name: str, gates: Gates) -> dict[str, Any]:
        """Return the pictures of a system's gates, and the shares that they show."""
        label = get_method(name).label
        drawn = gates.tokens[:MOST_DRAWN]
        tokens = [token.replace("$", r"\$") for token in drawn]  # no formulas of matplotlib's
        over_sound = plot_gates_over_sound(gates.features, gates.encoder, f"{label}: encoder")
        over_tokens = plot_gate_positions(gates.decoder[:, : len(tokens)], tokens)
        return {
            "kind": "gates",
            "name": name,
            "label": label,
            "encoder": {"shares": shares(gates.encoder), "png": _png(over_sound)},
            "decoder": {"shares": shares(gates.decoder), "png": _png(over_tokens)},
            "tokens": len(gates.tokens),
            "drawn": len(drawn),
        }

    # ---- models

    def _model(self, name: str) -> Any:
        """Return a system's model, loaded at the first call."""
        if name not in self._models:
            self._models[name] = self.lab.model(name).eval()
        return self._models[name]

    def _processor(self, name: str) -> Any:
        """Return the processor of a system's Whisper."""
        is_teacher = get_method(name).weights is Weights.TEACHER
        return self.lab.teacher_processor if is_teacher else self.lab.processor

    def transcribe(self, name: str, sound: Sound) -> tuple[list[str], float]:
        """Return a system's text for each loud piece, and the seconds that all took."""
        p = self.lab.preset
        model = self._model(name)
        processor = self._processor(name)
        begin = time.perf_counter()
        texts = []
        for audio in sound.loud_pieces:
            features = log_mel(audio, processor.feature_extractor)
            window = window_frames(features.shape[-1], p.margin_seconds)
            with use_precision(p.precision):
                texts += generate_batch(
                    model,
                    processor.tokenizer,
                    pad_features([features], window),
                    p.language,
                    "transcribe",
                    self.lab.decoding,
                )
        seconds = time.perf_counter() - begin
        release_memory()
        return texts, seconds

    @torch.no_grad()
    def gates(self, name: str, audio: np.ndarray, text: str) -> Gates:
        """Return where a system uses its expert, in a pass over a sound and its own text.

        Args:
            name: Of a system with experts.
            audio: Samples (n,), of at most 30 s.
            text: What the system has written.
        """
        tokenizer = self.lab.processor.tokenizer
        features = torch.as_tensor(log_mel(audio, self.lab.processor.feature_extractor))
        labels = encode_labels(tokenizer, text, self.lab.preset.language, limit=None)
        item = {
            "id": name,
            "features": features,
            "labels": labels[:MOST_TOKENS],
            "frames": features.shape[-1],
        }
        batch = self.lab.collator([item])
        inputs = batch["decoder_input_ids"]

        model = self._model(name)
        window = batch["input_features"].to(self.lab.device, model.dtype)
        with (
            use_precision(self.lab.preset.precision),
            use_window(model, window.shape[-1]),
            autocast(self.lab.device, model.dtype),
        ):
            model(input_features=window, decoder_input_ids=inputs.to(self.lab.device))
        found = {stack: torch.stack(layers).float() for stack, layers in last_gates(model).items()}
        masks = position_masks(batch, found["encoder"].shape[-1])
        with_sound = masks["encoder"][0].to(found["encoder"].device)
        return Gates(
            encoder=found["encoder"][:, 0, with_sound].cpu().numpy(),
            decoder=found["decoder"][:, 0].cpu().numpy(),
            tokens=[_token_name(tokenizer, number) for number in inputs[0].tolist()],
            features=features.numpy(),
        )


def _token_name(tokenizer: Any, number: int) -> str:
    """Return how a token is called below a picture; parts of a letter and spaces are a dot."""
    text = visible(tokenizer.decode([number])).strip("<|> ")
    return text.replace("\ufffd", "·") or "·"


def _png(figure: Picture) -> str:
    """Return a figure as PNG in base64."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return _base64(stream.getvalue())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
