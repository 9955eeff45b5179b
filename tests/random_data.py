"""Random clips, batches and experts for tests, the same every time; nothing is read."""

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from distilwhisper_lib.method.blocks import expert_parameters
from distilwhisper_lib.whisper.tokens import encode_labels
from distilwhisper_lib.whisper.window import use_window

FRAMES = 100  # a window of one second


class RandomClips(Dataset):
    """Looks like `Clips`: features and texts are random, lengths vary between the given bounds."""

    def __init__(self, tokenizer, count, language="cs", seconds=(0.4, 0.9), letters=(3, 8), seed=0):
        draw = torch.Generator().manual_seed(seed)
        self.ids = [f"random/{seed}-{i}" for i in range(count)]
        low, high = seconds
        self.durations = [
            low + (high - low) * torch.rand((), generator=draw).item() for _ in self.ids
        ]
        self.items = []
        texts = []
        for clip, duration in zip(self.ids, self.durations, strict=True):
            frames = round(100 * duration)
            length = int(torch.randint(letters[0], letters[1] + 1, (), generator=draw))
            characters = torch.randint(97, 123, (length,), generator=draw).tolist()
            text = bytes(characters).decode()
            texts.append(text)
            self.items.append(
                {
                    "id": clip,
                    "features": torch.randn(80, frames, generator=draw),
                    "frames": frames,
                    "labels": encode_labels(tokenizer, text, language),
                }
            )
        self.rows = {"text": texts}
        self.texts = texts
        self.digests = list(self.ids)

    @property
    def labels(self):
        return [item["labels"] for item in self.items]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def random_batch(batch_size=2, tokens=6, frames=FRAMES, seed=1):
    """Return features (B, 80, frames) and decoder input ids (B, tokens), the start token first."""
    draw = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(97, 123, (batch_size, tokens), generator=draw)
    token_ids[:, 0] = 257
    return {
        "input_features": torch.randn(batch_size, 80, frames, generator=draw),
        "decoder_input_ids": token_ids,
    }


@torch.no_grad()
def logits(model, batch):
    """Return the logits (B, T, V) of a batch in its own window."""
    with use_window(model, batch["input_features"].shape[-1]):
        return model(**batch).logits


def shake_experts(model, language=None, seed=0, size=0.2):
    """Move experts (by about `size`) and gates from where they start, as training would.

    Afterwards some gates are open, some shut.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in expert_parameters(model, language):
            noise = torch.randn(parameter.shape, generator=draw)
            if ".gates." in name:  # what they start from is random
                parameter.copy_(noise - noise.mean() if name.endswith("linear2.weight") else noise)
            else:
                parameter += size * noise
    return model


def frozen_state(model):
    """Return copies of all tensors of the state but experts and gates."""
    return {
        name: tensor.clone()
        for name, tensor in model.state_dict().items()
        if ".experts." not in name and ".gates." not in name
    }


def same_state(first, second):
    """Return whether two states have the same names and the same tensors, bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def random_counts(n, rate, seed):
    """Return counts as of `count_errors`: n utterances, with `rate` of their words wrong."""
    draw = np.random.default_rng(seed)
    words = draw.integers(1, 10, n)
    errors = draw.binomial(words, rate)
    zero = np.zeros(n)
    return pd.DataFrame(
        {
            "words": words,
            "insertions": zero,
            "deletions": zero,
            "substitutions": errors,
            "characters": 5 * words,
            "character_errors": errors,
            "loop": False,
        }
    )
