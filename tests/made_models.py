"""Small random models in the formats of the hub: a CTC model of several languages, and experts."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import expert_parameters
from distilwhisper_lib.method.released import save_released
from distilwhisper_lib.whisper.tiny import tiny_whisper

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "|"]

# Letters by MMS's code of a language; "eng" is in the weights of the model itself.
LETTERS = {"eng": "abcdefgh", "ces": "abcřží", "cat": "abcçé"}


def letters_of(code: str) -> dict[str, int]:
    """Return the ids of a language's letters."""
    return {letter: index for index, letter in enumerate([*SPECIAL, *LETTERS[code]])}


def make_ctc(folder: Path, seed: int = 0) -> Path:
    """Write a random wav2vec 2.0 with adapters, in the format of facebook/mms-1b-all."""
    folder.mkdir(parents=True)
    config = Wav2Vec2Config(
        vocab_size=len(letters_of("eng")),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        adapter_attn_dim=4,
        mask_time_prob=0.0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Wav2Vec2ForCTC(config)
        model.save_pretrained(folder)
        for code in ("ces", "cat"):
            _write_adapter(model, folder, code)

    vocabulary = {code: letters_of(code) for code in LETTERS}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=True)
    extractor.save_pretrained(folder)
    Wav2Vec2CTCTokenizer(folder / "vocab.json", target_lang="eng").save_pretrained(folder)
    return folder


def _write_adapter(model: Wav2Vec2ForCTC, folder: Path, code: str) -> None:
    """Write random weights of a language: adapters of all layers, and the layer of letters."""
    tensors = {
        name: torch.randn_like(weight)
        for name, weight in model.named_parameters()
        if ".adapter_layer." in name
    }
    tensors["lm_head.weight"] = torch.randn(len(letters_of(code)), model.config.hidden_size)
    tensors["lm_head.bias"] = torch.zeros(len(letters_of(code)))
    tensors["lm_head.bias"][: len(SPECIAL)] = -100  # else it might write no letter
    save_file(tensors, folder / f"adapter.{code}.safetensors")


def make_published(folder: Path, languages: tuple[str, ...] = ("cs", "ca"), noise: float = 0.0):
    """Write the tiny Whisper with experts in the authors' format; untrained ones change nothing."""
    model = attach_experts(tiny_whisper(), list(languages))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for _, parameter in expert_parameters(model):
            parameter.data += noise * torch.randn_like(parameter)
    return save_released(model, folder)
