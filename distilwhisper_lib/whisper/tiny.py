"""A random Whisper of 0.1 million weights with every part of the real one, for tests and the smoke preset.

Its tokenizer knows single bytes and Whisper's special tokens, in Whisper's order. Nothing is downloaded.
"""

import torch
from tokenizers import AddedToken, pre_tokenizers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from .tokens import LANGUAGES

END, START = "<|endoftext|>", "<|startoftranscript|>"

CODES = list(LANGUAGES)[
    :99
]  # the languages of Whisper before large-v3, in the order of their tokens

TASKS = ["translate", "transcribe"]

SPECIAL = [
    END,
    START,
    *(
        f"<|{name}|>"
        for name in [*CODES, *TASKS, "startoflm", "startofprev", "nospeech", "notimestamps"]
    ),
]

TIMESTAMPS = [f"<|{0.02 * step:.2f}|>" for step in range(1501)]

WEIGHT_STD = (
    0.1  # transformers' 0.02 is meant for widths of several hundred; at 32 it hardly learns
)


def tiny_tokenizer() -> WhisperTokenizer:
    """Return a byte-level tokenizer: ids 0-255 are bytes, then Whisper's special tokens and timestamps."""
    letters = sorted(
        pre_tokenizers.ByteLevel.alphabet()
    )  # GPT-2's order: the space "Ġ" is 220, as in Whisper
    tokenizer = WhisperTokenizer(
        vocab={letter: number for number, letter in enumerate(letters)},
        merges=[],
        pad_token=END,
        extra_special_tokens=SPECIAL,
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=True, special=False) for token in TIMESTAMPS]
    )
    tokenizer.set_prefix_tokens()  # again: the first time it did not know the start token
    return tokenizer


def tiny_processor() -> WhisperProcessor:
    """Return the tiny model's tokenizer with Whisper's usual feature extractor (80 mel bands, 30 s)."""
    return WhisperProcessor(WhisperFeatureExtractor(), tiny_tokenizer())


def tiny_whisper(seed: int = 0) -> WhisperForConditionalGeneration:
    """Return the random model (width 32, 2 + 2 layers, 2 heads), the same for the same seed, in fp32."""
    tokenizer = tiny_tokenizer()
    end = tokenizer.convert_tokens_to_ids(END)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        init_std=WEIGHT_STD,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=end + 1,
        begin_suppress_tokens=[220, end],
    )
    with torch.random.fork_rng(devices=[]):  # leaves the caller's random numbers alone
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config)
    with (
        torch.no_grad()
    ):  # a random model would say times between words, and `generate` would start over at them
        model.get_input_embeddings().weight[-len(TIMESTAMPS) :] = 0
    not_text = [
        tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in [*TASKS, "startoflm", "startofprev", "nospeech"]
    ]
    model.generation_config = generation_settings(
        tokenizer, config, [end + 1, *not_text], [220, end], [[1, 0], [1, 1]]
    )
    return model.eval()


def generation_settings(
    tokenizer: WhisperTokenizer,
    config: WhisperConfig,
    suppress: list[int],
    suppress_begin: list[int],
    alignment_heads: list[list[int]],
) -> GenerationConfig:
    """Return the settings that `generate(language=, task=)` needs, as the hub's checkpoints have them.

    The length limit is stated as new tokens (half the positions, as in OpenAI's decoder): with `max_length` set,
    each `generate(max_new_tokens=)` would warn.
    """
    number = tokenizer.convert_tokens_to_ids
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        max_new_tokens=config.max_target_positions // 2,
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": number(f"<|{code}|>") for code in CODES},
        task_to_id={task: number(f"<|{task}|>") for task in TASKS},
        no_timestamps_token_id=number("<|notimestamps|>"),
        prev_sot_token_id=number("<|startofprev|>"),
        max_initial_timestamp_index=50,
        return_timestamps=False,
        suppress_tokens=suppress,
        begin_suppress_tokens=suppress_begin,
        alignment_heads=alignment_heads,
    )
