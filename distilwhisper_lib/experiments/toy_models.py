"""The Whispers of the preset `toy`, trained from nothing on made-up speech.

A toy Whisper hears speech in two stages: first the three languages that it knows, then these and a
share of three others. The student is narrow and hears little of the others, the teacher is twice as
wide and hears as much of them as of the first ones, from the beginning. Their weights lie in
data/toy, with the record of how they were made; `make toy ARGS=models` makes them again. A stopped
training goes on where it was.
"""

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from ..data.audio import SAMPLE_RATE
from ..data.batches import Collator
from ..data.corpora.world import ENGLISH, KNOWN, LANGUAGES, LITTLE_KNOWN, ToyLanguage, Voice
from ..device import describe_machine, pick_device
from ..files import (
    atomic_file,
    atomic_folder,
    cache_dir,
    one_at_a_time,
    read_json,
    set_aside,
    short_hash,
    write_json,
)
from ..method.losses import cross_entropy
from ..whisper.loading import SHIPPED, load_processor, load_whisper
from ..whisper.tiny import small_whisper, tiny_processor
from ..whisper.tokens import encode_labels
from ..whisper.window import use_window

BATCH = 32  # clips
TRANSLATED = 0.25  # share of the clips whose label is their toy English text
PITCHES = (0.88, 1.14)  # factor of all frequencies, drawn evenly
NOISES = (0.01, 0.08)  # standard deviation of noise, drawn evenly on a logarithmic scale
MARGIN_SECONDS = 0.2
WARMUP = 0.1  # share of a stage's steps in which the learning rate rises; then it falls to 0
BETAS = (0.9, 0.98)  # of Adam
LARGEST_GRADIENT = 1.0  # norm
SAVED_EVERY = 200  # steps
AHEAD = 4  # batches that are made while the model trains


@dataclass(frozen=True)
class Stage:
    """A part of a training from nothing.

    Attributes:
        steps: Of BATCH clips each.
        share: Of the clips that are in each little-known language; the others are in the known ones
            alike.
        learning_rate: At its highest.
    """

    steps: int
    share: float
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """How a toy Whisper is made.

    Attributes:
        width: Of the model.
        stages: One after another.
        seed: Of weights and clips.
    """

    width: int
    stages: tuple[Stage, ...]
    seed: int = 0


RECIPES = {
    "student": Recipe(64, (Stage(1600, 0.0, 3e-3), Stage(400, 0.05, 1e-3))),
    "teacher": Recipe(128, (Stage(2400, 1 / 6, 2e-3), Stage(1400, 1 / 6, 1.5e-3))),
}


@dataclass(frozen=True)
class Clip:
    """A made-up clip and what a toy Whisper is to write.

    Attributes:
        sound: float32 (n,) at 16 kHz.
        label: Token ids.
    """

    sound: np.ndarray
    label: list[int]


class Speech:
    """Batches without end for the training of a toy Whisper.

    Args:
        seed: Of all that is drawn.
        processor: Of the model.
    """

    def __init__(self, seed: int, processor: WhisperProcessor):
        self.seed = seed
        self.processor = processor
        self.collator = Collator(processor.tokenizer, MARGIN_SECONDS)
        self.languages = {code: ToyLanguage(code) for code in LANGUAGES}
        self.english = ToyLanguage(ENGLISH)

    def batch(self, stage: Stage, number: int) -> dict:
        """Return a batch as `Collator` gives it; its number and the stage decide what is in it."""
        key = int(short_hash([self.seed, asdict(stage), number]), 16)
        rng = np.random.default_rng(key)
        clips = [self._clip(stage.share, rng) for _ in range(BATCH)]
        items = []
        for clip, features in zip(clips, self._features(clips), strict=True):
            frames = len(clip.sound) * 100 // SAMPLE_RATE
            items.append({"id": "", "features": features, "labels": clip.label, "frames": frames})
        return self.collator(items)

    def _clip(self, share: float, rng: np.random.Generator) -> Clip:
        """Return a clip in a language, voice and task that are drawn."""
        little = rng.random() < share * len(LITTLE_KNOWN)
        code = str(rng.choice(LITTLE_KNOWN if little else KNOWN))
        language = self.languages[code]
        line = language.draw_line(rng)
        noise = float(np.exp(rng.uniform(*np.log(NOISES))))
        voice = Voice("", pitch=float(rng.uniform(*PITCHES)), noise=noise)
        sound = language.speak(language.text(line), voice, rng)

        tokenizer = self.processor.tokenizer
        if rng.random() < TRANSLATED:
            label = encode_labels(tokenizer, self.english.text(line), code, "translate")
        else:
            label = encode_labels(tokenizer, language.text(line), code)
        return Clip(sound, label)

    def _features(self, clips: list[Clip]) -> torch.Tensor:
        """Return log-mel features (B, mel bands, F), shorter clips padded with silence."""
        extractor = self.processor.feature_extractor
        hop = extractor.hop_length
        longest = max(len(clip.sound) for clip in clips)
        return extractor(
            [clip.sound for clip in clips],
            sampling_rate=SAMPLE_RATE,
            max_length=-(-longest // hop) * hop,
            padding="max_length",
            return_tensors="pt",
        ).input_features


# ---- training


def train_toy(recipe: Recipe) -> Path:
    """Train a toy Whisper, or return the folder of the one that is there.

    Recipes that begin with the same stages share these.

    Args:
        recipe: How it is made.

    Returns:
        The folder of a checkpoint in fp32, in the cache.
    """
    folder = None
    for count in range(1, len(recipe.stages) + 1):
        folder = _train_stage(recipe, count, folder)
    if folder is None:
        raise ValueError("the recipe has no stages: give at least one")
    return folder


def _train_stage(recipe: Recipe, count: int, start: Path | None) -> Path:
    """Train the last one of the first `count` stages; return the folder of the checkpoint."""
    stages = [asdict(stage) for stage in recipe.stages[:count]]
    drawn = [BATCH, TRANSLATED, PITCHES, NOISES, [ToyLanguage(code).facts for code in LANGUAGES]]
    facts = [recipe.width, recipe.seed, stages, drawn, BETAS, WARMUP]
    folder = cache_dir() / "toy-models" / short_hash(facts)
    with one_at_a_time(folder):
        if (folder / "training.json").is_file():
            return folder
        processor = tiny_processor()
        model = small_whisper(recipe.width, recipe.seed).to(pick_device())
        if start is not None:
            model.load_state_dict(_weights_in(start), strict=False)
        title = f"width {recipe.width}, stage {count}"
        progress = folder.with_name(f"{folder.name}.progress.safetensors")
        speech = Speech(recipe.seed, processor)
        losses = _run_stage(model, recipe.stages[count - 1], speech, progress, title)

        with atomic_folder(folder) as part:
            model.save_pretrained(part)
            processor.save_pretrained(part)
            about = {"width": recipe.width, "seed": recipe.seed, "stages": stages}
            write_json(part / "training.json", about | {"loss": losses, **describe_machine()})
        progress.unlink(missing_ok=True)
    return folder


def _weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint; tied ones are there once."""
    return load_file(folder / "model.safetensors")


def _run_stage(
    model: WhisperForConditionalGeneration, stage: Stage, speech: Speech, path: Path, title: str
) -> list[float]:
    """Train a model in place.

    Args:
        model: On its device.
        stage: How long, on what, how fast.
        speech: Of batches.
        path: Where the state is kept that a stopped training goes on from.
        title: Beside the progress bar.

    Returns:
        The mean loss of each SAVED_EVERY steps.
    """
    model.requires_grad_(True).train()
    model.model.encoder.embed_positions.requires_grad_(False)
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=stage.learning_rate, betas=BETAS, fused=True)

    done, losses = _restored(path, model, optimizer)
    recent: list[float] = []
    batches = _batches(speech, stage, done)
    bar = tqdm(batches, title, stage.steps, initial=done, unit="step")
    for number, batch in enumerate(bar, done + 1):
        rate = stage.learning_rate * _share_of_rate(number - 1, stage.steps)
        recent.append(_step(model, batch, parameters, optimizer, rate))
        if number % SAVED_EVERY == 0 or number == stage.steps:
            losses.append(round(float(np.mean(recent)), 4))
            bar.set_postfix(loss=losses[-1])
            recent = []
            _save(path, model, optimizer, number, losses)
    return losses


def _batches(speech: Speech, stage: Stage, first: int) -> Iterator[dict]:
    """Yield the batches of a stage from number `first` on; a thread makes some of them ahead."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future] = deque()
        for number in range(first, stage.steps):
            waiting.append(pool.submit(speech.batch, stage, number))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _share_of_rate(step: int, steps: int) -> float:
    """Return the learning rate of a step, as a share of the highest."""
    rising = max(1, round(WARMUP * steps))
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / (steps - rising)


def _step(
    model,
    batch: dict,
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Adam,
    rate: float,
) -> float:
    """Make one step with a learning rate; return its loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    device = model.device
    features = batch["input_features"].to(device)
    labels = batch["labels"].to(device)
    with use_window(model, features.shape[-1]):
        logits = model(
            input_features=features, decoder_input_ids=batch["decoder_input_ids"].to(device)
        ).logits
    loss = cross_entropy(logits.flatten(0, 1), labels.flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


# ---- the state of a stopped training

MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what Adam keeps of a weight


def _save(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Adam, done: int, losses: list[float]
) -> None:
    """Write weights and Adam's state after `done` steps."""
    tensors = {f"weight.{name}": weight.data for name, weight in model.named_parameters()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{moment}": state[moment] for moment in MOMENTS}
    about = {"done": str(done), "losses": json.dumps(losses)}
    copies = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as part:
        save_file(copies, part, metadata=about)


def _restored(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Adam
) -> tuple[int, list[float]]:
    """Put weights and Adam's state back; return the steps done and the losses so far.

    A damaged file is set aside, and the stage begins anew.
    """
    if not path.is_file():
        return 0, []
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        set_aside(path, str(error))
        return 0, []

    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[f"weight.{name}"])
    state: dict[int, dict] = {}
    for name, tensor in tensors.items():
        kind, number, moment = name.split(".", 2)
        if kind == "adam":
            state.setdefault(int(number), {})[moment] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return int(about["done"]), json.loads(about["losses"])


# ---- the shipped models


def ship(role: str) -> Path:
    """Train the student or the teacher, and write it into data/toy in fp16.

    Args:
        role: A key of RECIPES.

    Returns:
        The folder.
    """
    trained = train_toy(RECIPES[role])
    folder = SHIPPED[f"toy-{role}"]
    model = load_whisper(trained).half()
    with atomic_folder(folder) as part:
        model.save_pretrained(part)
        load_processor(trained).save_pretrained(part)
        write_json(part / "training.json", read_json(trained / "training.json"))
    return folder
