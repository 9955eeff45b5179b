"""The cost of experts at inference, compared with plain transformers Whisper.

    make benchmark NAME=inference [ARGS=--quick]

Runs:

    plain      transformers' Whisper: no language set
    mixed      both blocks computed for every position, then one of the two selected, as the
               authors' code does
    routed     the library's blocks
    languages  the library's blocks where the examples of a batch take turns in language: plain,
               and two languages with experts
    agreeing   routed, but a layer makes the same gate decision at every position: open in every
               other layer. Eleven of twelve layers of our trained experts do so (notebook 08): this
               is nearer to what a user pays than random gates are
    fixed      the same decisions as constant gates, which are not computed
    halves     plain, but half of the positions after the other through each block: a lower bound
               for any routing, as a product of half the rows takes more than half of the time

Whisper's window of 30 s; the real weights of whisper-base, random ones in the shapes of other
sizes. Half of the gates are open; where nothing else is said they are drawn anew for each position,
which is the hardest case for routing. autocast: weights in fp32 and arithmetic in 16 bits, as the
library transcribes.

Floor, a lower bound for plain Whisper: its multiplications at the speed that a plain matrix product
reaches here; token by token also the decoder's weights, read once per token at the speed of a plain
copy, where that takes longer. --compile: by torch.compile, in one pass only (`generate` would need
a cache of fixed length).
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.utils.logging import set_verbosity_error

from distilwhisper_lib.device import autocast, mixed_precision, pick_device, weights_cast_once
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks, expert_parameters
from distilwhisper_lib.method.languages import use_language
from distilwhisper_lib.method.routing import ClsrFeedForward
from distilwhisper_lib.presets import MOST_NEW_TOKENS
from distilwhisper_lib.programs import number_option, run_program
from distilwhisper_lib.whisper.loading import fastest_attention, load_whisper
from distilwhisper_lib.whisper.tiny import tiny_whisper

from .measuring import HALF_PRECISIONS, as_rows, interleaved, reached_bytes, reached_flops, report

# Width, layers of each stack, attention heads
SHAPES = {"base": (512, 6, 8), "small": (768, 12, 12), "large-v2": (1280, 32, 20)}

# Of weights and arithmetic
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Languages of the examples of a batch, in turn
LANGUAGES = [None, "cs", "ca"]


def whisper_of(size: str) -> WhisperForConditionalGeneration:
    """Return a Whisper with random weights in the shapes of a size, or the tests' tiny one."""
    if size == "tiny":
        return tiny_whisper().eval()
    width, layers, heads = SHAPES[size]
    config = WhisperConfig(
        vocab_size=51865,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        attn_implementation=fastest_attention(),
    )
    return WhisperForConditionalGeneration(config).eval()


def flops(config: WhisperConfig, batch: int, tokens: int) -> float:
    """Return the floating-point operations of plain Whisper in one pass.

    Args:
        config: Of the model.
        batch: Clips, each with a window of 30 s.
        tokens: Decoder positions of each clip; 0 counts the encoder, and the keys and values that
            cross-attention makes of its output.
    """
    width = config.d_model
    positions = config.max_source_positions
    projection = 2 * width * width
    feed_forward = 4 * width * config.encoder_ffn_dim

    # Two convolutions over three frames; the second has stride 2
    convolutions = 2 * positions * 3 * width * (2 * config.num_mel_bins + width)
    encoder_layer = positions * (4 * projection + feed_forward) + 4 * positions * positions * width
    encoder = config.encoder_layers * encoder_layer + convolutions

    self_attention = tokens * 4 * projection + 2 * tokens * tokens * width
    keys_and_values = positions * 2 * projection
    cross_attention = keys_and_values + tokens * (2 * projection + 4 * positions * width)
    decoder_layer = self_attention + cross_attention + tokens * feed_forward
    decoder = config.decoder_layers * decoder_layer

    vocabulary = tokens * 2 * width * config.vocab_size
    return batch * (encoder + decoder + vocabulary)


class SwitchableBlock(ClsrFeedForward):
    """The library's block, which can also compute both blocks for every position.

    Attributes:
        computes_both: Whether it does so, as the authors' code does; otherwise each position goes
            through one block.
    """

    computes_both = False

    def _select(self, h: torch.Tensor, language: str, gate: torch.Tensor) -> torch.Tensor:
        """Return expert(h) where the gate (B, T, 1) is open and shared(h) elsewhere, (B, T, d)."""
        if self.computes_both:
            return torch.where(gate, self.experts[language](h), self.shared(h))
        return super()._select(h, language, gate)


@contextmanager
def both_computed(model: nn.Module) -> Iterator[None]:
    """Within the block every position is computed by both blocks."""
    blocks = clsr_blocks(model)
    for block in blocks:
        block.computes_both = True
    try:
        yield
    finally:
        for block in blocks:
            block.computes_both = False


class GateDecisions:
    """Hooks that replace the decisions of a model's gates: half of them are open.

    Args:
        model: With experts attached.

    Attributes:
        same_everywhere: Whether a layer makes the same decision at every position, open in every
            other layer; otherwise decisions are drawn anew for each position at every call.
    """

    def __init__(self, model: nn.Module):
        self.same_everywhere = False
        for index, block in enumerate(clsr_blocks(model)):
            for gate in block.gates.values():
                gate.register_forward_hook(partial(self._decide, index))

    def _decide(
        self, layer: int, gate: nn.Module, inputs: tuple, logit: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits that take the place of the gate's own."""
        if self.same_everywhere:
            return torch.full_like(logit, 1.0 if layer % 2 == 0 else -1.0)
        return torch.rand_like(logit) - 0.5

    @contextmanager
    def same_at_every_position(self) -> Iterator[None]:
        """Within the block each layer makes the same decision everywhere, of computed gates."""
        self.same_everywhere = True
        try:
            yield
        finally:
            self.same_everywhere = False


@contextmanager
def constant_gates(model: nn.Module) -> Iterator[None]:
    """Within the block the gates of every other layer are constantly open, the others' closed."""
    blocks = clsr_blocks(model)
    for index, block in enumerate(blocks):
        block.constant_gates["cs"] = index % 2 == 0
    try:
        yield
    finally:
        for block in blocks:
            block.constant_gates.clear()


class Halves(nn.Module):
    """A block that takes the first half of all positions, then the second."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return block(h), (B, T, d)."""
        halves = h.flatten(0, -2).tensor_split(2)  # (B T / 2, d) each
        outputs = [self.block(half) for half in halves if len(half)]
        return torch.cat(outputs).view(h.shape)


@contextmanager
def in_halves(model: nn.Module) -> Iterator[None]:
    """Within the block the shared blocks take their positions in two halves."""
    blocks = clsr_blocks(model)
    for block in blocks:
        block.shared = Halves(block.shared)
    try:
        yield
    finally:
        for block in blocks:
            block.shared = block.shared.block


class Setting:
    """A model and a batch, and the calls that are measured.

    Args:
        size: A key of SHAPES, or "tiny".
        dtype: A key of DTYPES, or "autocast".
        batch: Clips.
        tokens: Decoder positions of each clip.
        compiled: Whether the model is compiled for `one_pass`.
    """

    def __init__(self, size: str, dtype: str, batch: int, tokens: int, compiled: bool = False):
        self.device = pick_device()
        self.dtype = DTYPES.get(dtype, torch.float32)
        self.mixed_precision = dtype == "autocast"
        self.tokens = tokens

        model = load_whisper("openai/whisper-base").eval() if size == "base" else whisper_of(size)
        languages = [language for language in LANGUAGES if language]
        model = model.to(self.device, self.dtype)
        self.model = attach_experts(model, languages, block_class=SwitchableBlock)
        self.gates = GateDecisions(self.model)
        self.forward = torch.compile(self.model) if compiled else self.model

        config = self.model.config
        shape = (batch, config.num_mel_bins, 2 * config.max_source_positions)
        self.features = torch.randn(*shape, device=self.device, dtype=self.dtype)
        self.token_ids = torch.randint(10, 50, (batch, tokens), device=self.device)

    def one_pass(self):
        """Run encoder and decoder once, with all tokens given."""
        return self.forward(input_features=self.features, decoder_input_ids=self.token_ids)

    def token_by_token(self):
        """Generate as many tokens greedily."""
        # Whisper's own `generate` would loop over windows
        generate = super(WhisperForConditionalGeneration, self.model).generate
        return generate(
            self.features,
            decoder_input_ids=self.token_ids[:, :4],
            max_new_tokens=self.tokens,
            min_new_tokens=self.tokens,
            do_sample=False,
        )

    @torch.no_grad()
    def within(
        self,
        call: Callable[[], object],
        language: str | list[str | None] | None,
        *contexts: AbstractContextManager,
    ):
        """Return what `call` returns with a language set, within further contexts."""
        with ExitStack() as stack:
            stack.enter_context(use_language(self.model, language))
            if self.mixed_precision:
                stack.enter_context(autocast(self.device))
                stack.enter_context(weights_cast_once(self.model))
            for context in contexts:
                stack.enter_context(context)
            return call()

    def runs(
        self, call: Callable[[], object], compiled: bool = False
    ) -> dict[str, Callable[[], object]]:
        """Return the runs by name; of a compiled model only the first three."""
        model, within = self.model, self.within
        runs = {
            "plain": lambda: within(call, None),
            "mixed": lambda: within(call, "cs", both_computed(model)),
            "routed": lambda: within(call, "cs"),
        }
        if compiled:
            return runs

        clips = len(self.token_ids)
        if clips > 1:
            in_turn = [LANGUAGES[index % len(LANGUAGES)] for index in range(clips)]
            runs["languages"] = lambda: within(call, in_turn)
        runs["agreeing"] = lambda: within(call, "cs", self.gates.same_at_every_position())
        runs["fixed"] = lambda: within(call, "cs", constant_gates(model))
        runs["halves"] = lambda: within(call, None, in_halves(model))
        return runs

    def floors(self) -> dict[str, float]:
        """Return a lower bound in seconds for plain Whisper, by what is measured."""
        dtype = self.dtype
        if self.mixed_precision:
            dtype = HALF_PRECISIONS[mixed_precision(self.device)]
        speed = reached_flops(self.device, dtype)
        clips = len(self.token_ids)
        one_pass = flops(self.model.config, clips, self.tokens) / speed
        encoder = flops(self.model.config, clips, 0) / speed

        # Bytes of the decoder's own weights, without experts and gates
        added = {id(weight) for _, weight in expert_parameters(self.model)}
        decoder = self.model.model.decoder.parameters()
        decoder_bytes = sum(weight.nbytes for weight in decoder if id(weight) not in added)
        reading = self.tokens * decoder_bytes / reached_bytes(self.device)

        return {
            "one pass": one_pass,
            "token by token": encoder + max(reading, one_pass - encoder),
        }


def measure(
    size: str, dtype: str, batch: int, tokens: int, repeats: int, compiled: bool = False
) -> list[dict]:
    """Return the rows of one setting: encoder and decoder in one pass, and token by token.

    The arguments are those of `Setting`; `repeats` is the number of rounds.
    """
    setting = Setting(size, dtype, batch, tokens, compiled)
    floors = setting.floors()
    calls = {"one pass": setting.one_pass}
    if not compiled:
        calls["token by token"] = setting.token_by_token

    rows = []
    for work, call in calls.items():
        runs = setting.runs(call, compiled)
        rows += as_rows(
            interleaved(runs, repeats, setting.device),
            "plain",
            dict.fromkeys(runs, floors[work]),
            size=size,
            dtype=dtype,
            batch=batch,
            compiled="yes" if compiled else "no",
            work=work,
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(
        prog="make benchmark NAME=inference ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole = number_option(low=1, whole=True)
    tokens = number_option(low=1, high=MOST_NEW_TOKENS, whole=True)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="whisper-base, batch 1, 8 tokens, 2 rounds unless other options say otherwise: under "
        "a minute",
    )
    parser.add_argument("--sizes", nargs="+", choices=[*SHAPES, "tiny"], default=["base", "small"])
    parser.add_argument("--batches", nargs="+", type=whole, default=[1, 16], help="clips")
    parser.add_argument("--dtypes", nargs="+", choices=[*DTYPES, "autocast"], default=["fp32"])
    parser.add_argument("--tokens", type=tokens, default=30, help="decoder positions of a clip")
    parser.add_argument("--repeats", type=whole, default=9, help="rounds")
    parser.add_argument(
        "--compile", action="store_true", help="measure each setting with torch.compile as well"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        parser.set_defaults(sizes=["base"], batches=[1], repeats=2, tokens=8)
        options = parser.parse_args(arguments)

    torch.manual_seed(0)
    # Without it the library's blocks break the graph
    torch._dynamo.config.capture_dynamic_output_shape_ops = options.compile
    set_verbosity_error()

    rows = []
    for size in dict.fromkeys(options.sizes):
        for dtype in dict.fromkeys(options.dtypes):
            for batch in dict.fromkeys(options.batches):
                for compiled in (False, True) if options.compile else (False,):
                    rows += measure(size, dtype, batch, options.tokens, options.repeats, compiled)
    report("inference", rows, ("size", "dtype", "batch", "compiled", "work"))


if __name__ == "__main__":
    run_program(main)
