"""Small random Whispers with every part of the real one.

The smallest has 0.1 million weights and serves tests and the smoke preset; larger ones are trained
from nothing on toy languages. Their tokenizer knows single bytes and Whisper's special tokens, in
Whisper's order. Nothing is downloaded.
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

from .tokens import LANGUAGES, token_id

END = "<|endoftext|>"
START = "<|startoftranscript|>"

# The languages of Whisper before large-v3, in the order of their tokens.
CODES = list(LANGUAGES)[:99]

TASKS = ["translate", "transcribe"]

# All special tokens but the timestamps, in Whisper's order.
_AFTER_TASKS = ["startoflm", "startofprev", "nospeech", "notimestamps"]
SPECIAL = [END, START, *(f"<|{name}|>" for name in [*CODES, *TASKS, *_AFTER_TASKS])]

TIMESTAMPS = [f"<|{0.02 * step:.2f}|>" for step in range(1501)]

# transformers' 0.02 is meant for widths of several hundred; at width 32 the model hardly learns.
WEIGHT_STD = 0.1


def tiny_tokenizer() -> WhisperTokenizer:
    """Return a byte-level tokenizer.

    Ids 0 to 255 are bytes; Whisper's special tokens and the timestamps follow.
    """
    # GPT-2's order: the space "Ġ" is 220, as in Whisper.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = WhisperTokenizer(
        vocab={letter: index for index, letter in enumerate(letters)},
        merges=[],
        pad_token=END,
        extra_special_tokens=SPECIAL,
    )
    timestamps = [AddedToken(token, normalized=True, special=False) for token in TIMESTAMPS]
    tokenizer.add_tokens(timestamps)
    tokenizer.set_prefix_tokens()  # again: the first time it did not know the start token
    return tokenizer


def tiny_processor() -> WhisperProcessor:
    """Return the tiny model's tokenizer with Whisper's usual feature extractor.

    The extractor has 80 mel bands and a window of 30 s.
    """
    return WhisperProcessor(WhisperFeatureExtractor(), tiny_tokenizer())


def tiny_whisper(seed: int = 0) -> WhisperForConditionalGeneration:
    """Return the random model: width 32, 2 + 2 layers, 2 heads, in fp32.

    Args:
        seed: Of the random weights; the same seed gives the same model. The caller's random
            numbers are not touched.
    """
    model = _random_whisper(width=32, ffn=64, heads=2, weight_std=WEIGHT_STD, seed=seed)

    # A random model would predict timestamps between letters, and `generate` would start over.
    embeddings = model.get_input_embeddings().get_parameter("weight")
    with torch.no_grad():
        embeddings[-len(TIMESTAMPS) :] = 0
    return model


def small_whisper(width: int, seed: int = 0) -> WhisperForConditionalGeneration:
    """Return a random model to be trained from nothing: 2 + 2 layers, heads of 16, in fp32.

    Args:
        width: Of the model, a multiple of 16; feed-forward blocks are four times as wide.
        seed: As for `tiny_whisper`.
    """
    weight_std = width**-0.5 / 2
    return _random_whisper(width, 4 * width, width // 16, weight_std, seed)


def _random_whisper(
    width: int, ffn: int, heads: int, weight_std: float, seed: int
) -> WhisperForConditionalGeneration:
    """Return a random model with 2 + 2 layers in evaluation mode.

    Args:
        width: Of the model.
        ffn: Width of the feed-forward blocks.
        heads: Of attention.
        weight_std: Standard deviation of the weights.
        seed: Of the weights.
    """
    tokenizer = tiny_tokenizer()
    end = token_id(tokenizer, END)
    start = end + 1
    space = 220
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=width,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=ffn,
        decoder_ffn_dim=ffn,
        init_std=weight_std,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        begin_suppress_tokens=[space, end],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config)

    not_text = [*TASKS, "startoflm", "startofprev", "nospeech"]
    suppressed = [start, *(token_id(tokenizer, f"<|{name}|>") for name in not_text)]
    alignment_heads = [[1, 0], [1, 1]]
    model.generation_config = generation_settings(
        tokenizer, config, suppressed, [space, end], alignment_heads
    )
    return model.eval()


def generation_settings(
    tokenizer: WhisperTokenizer,
    config: WhisperConfig,
    suppress: list[int],
    suppress_begin: list[int],
    alignment_heads: list[list[int]],
) -> GenerationConfig:
    """Return the settings that `generate(language=, task=)` needs, as the hub's checkpoints do.

    Args:
        tokenizer: The model's.
        config: The model's.
        suppress: Token ids that are never generated.
        suppress_begin: Token ids that are not generated as the first token of text.
        alignment_heads: (layer, head) of the decoder's heads that align text with audio.
    """
    languages = {f"<|{code}|>": token_id(tokenizer, f"<|{code}|>") for code in CODES}
    tasks = {task: token_id(tokenizer, f"<|{task}|>") for task in TASKS}
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        max_length=config.max_target_positions,
        is_multilingual=True,
        lang_to_id=languages,
        task_to_id=tasks,
        no_timestamps_token_id=token_id(tokenizer, "<|notimestamps|>"),
        prev_sot_token_id=token_id(tokenizer, "<|startofprev|>"),
        max_initial_timestamp_index=50,
        return_timestamps=False,
        suppress_tokens=suppress,
        begin_suppress_tokens=suppress_begin,
        alignment_heads=alignment_heads,
    )
