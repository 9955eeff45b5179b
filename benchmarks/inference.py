"""`python -m benchmarks.inference`: what experts cost at inference, against plain transformers Whisper.

    plain      transformers' Whisper, no language set
    mixed      both blocks computed for every position, then one of the two chosen, as the authors' code does
    routed     the library's blocks
    languages  the same where the rows of the batch take turns: plain, and two languages with experts
    agreeing   routed, but a layer's gates all say the same, every other layer's open: so do those of eleven of twelve
               layers of our trained experts (notebook 08); this is nearer to what a user pays than drawn gates are
    fixed      the same gates fixed, so that they are not even computed
    halves     plain, but half of the positions after the other through each block: what any routing costs at least,
               for a product of half the rows takes more than half of the time

Whisper's 30 s window; real weights of whisper-base, random ones in the shapes of other sizes. Half of the gates are
open, where nothing else is said drawn anew for each position: the hardest case for routing. autocast: weights in fp32
and arithmetic in 16 bits, as the library transcribes. Floor, of plain Whisper: its multiplications at the speed that a
plain matrix product reaches here; token by token also the decoder's weights, read once a token at the speed of a plain
copy, where that takes longer. --compile: by torch.compile, in one pass only (`generate` would need a cache of fixed
length).
"""

import argparse
from contextlib import ExitStack, contextmanager

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.utils.logging import set_verbosity_error

from distilwhisper_lib.device import autocast, mixed_precision, pick_device, weights_cast_once
from distilwhisper_lib.method.attach import (
    attach_experts,
    clsr_blocks,
    expert_parameters,
    use_language,
)
from distilwhisper_lib.method.routing import ClsrFeedForward
from distilwhisper_lib.whisper.loading import fastest_attention, load_whisper
from distilwhisper_lib.whisper.tiny import tiny_whisper

from .measuring import as_rows, interleaved, reached_bytes, reached_flops, report

SHAPES = {
    "base": (512, 6, 8),
    "small": (768, 12, 12),
    "large-v2": (1280, 32, 20),
}  # width, layers a stack, heads
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}  # of weights and arithmetic
ROWS = [None, "cs", "ca"]  # languages of the rows of a batch, in turn


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


def flops(config, batch: int, tokens: int) -> float:
    """Return the floating-point operations of plain Whisper: window of 30 s, then `tokens` decoder positions."""
    d, s, ffn = (
        config.d_model,
        config.max_source_positions,
        4 * config.d_model * config.encoder_ffn_dim,
    )
    project = 2 * d * d
    front = (
        2 * s * 3 * d * (2 * config.num_mel_bins + d)
    )  # two convolutions over three frames, the second halves them
    encoder = config.encoder_layers * (s * (4 * project + ffn) + 4 * s * s * d) + front
    cross = s * 2 * project + tokens * (
        2 * project + 4 * s * d
    )  # its keys and values count once, with no tokens too
    decoder = config.decoder_layers * (
        tokens * (4 * project + ffn) + 2 * tokens * tokens * d + cross
    )
    return batch * (encoder + decoder + tokens * 2 * d * config.vocab_size)


@contextmanager
def switched(name: str):
    """Within the block a switch of this module is on.

    "mixed": every position is computed by both blocks, the baseline of the authors' code; "agree": all gates of a layer
    say the same (they are computed as before).
    """
    globals()[name] = True
    try:
        yield
    finally:
        globals()[name] = False


def _choose(self, h, language, g):
    if mixed:
        return torch.where(g, self.experts[language](h), self.shared(h))
    return routed(self, h, language, g)


mixed, agree, routed = False, False, ClsrFeedForward._choose
ClsrFeedForward._choose = (
    _choose  # once: torch.compile sees a changed global, but not a changed method
)


def gates_set(model) -> None:
    """Open half of all gates, at positions drawn anew at every call; with the switch "agree" every other layer's."""
    for number, block in enumerate(clsr_blocks(model)):
        for gate in block.gates.values():
            gate.register_forward_hook(
                lambda module, inputs, G, sign=(-1) ** number: (
                    torch.full_like(G, sign) if agree else torch.rand_like(G) - 0.5
                )
            )


@contextmanager
def fixed_gates(model):
    """Within the block every other layer's gates are fixed open, the others' shut."""
    for number, block in enumerate(clsr_blocks(model)):
        block.fixed["cs"] = number % 2 == 0
    try:
        yield
    finally:
        for block in clsr_blocks(model):
            block.fixed.clear()


class Halves(torch.nn.Module):
    """A block that takes the first half of all positions, then the second."""

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.block = block

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return block(h), (B, T, d)."""
        parts = [part for part in h.flatten(0, -2).tensor_split(2) if len(part)]
        return torch.cat([self.block(part) for part in parts]).view(h.shape)


@contextmanager
def in_halves(model):
    """Within the block the shared blocks take their positions in two halves."""
    for block in clsr_blocks(model):
        block.shared = Halves(block.shared)
    try:
        yield
    finally:
        for block in clsr_blocks(model):
            block.shared = block.shared.block


class Setting:
    """A model and a batch of one size, precision and batch size, and the calls that are measured."""

    def __init__(self, size: str, dtype: str, batch: int, tokens: int, compiled: bool = False):
        self.device, self.dtype, self.tokens = (
            pick_device(),
            DTYPES.get(dtype, torch.float32),
            tokens,
        )
        self.mixed_precision = dtype == "autocast"
        model = load_whisper("openai/whisper-base").eval() if size == "base" else whisper_of(size)
        self.model = attach_experts(
            model.to(self.device, self.dtype), [code for code in ROWS if code]
        )
        gates_set(self.model)
        config = self.model.config
        shape = (batch, config.num_mel_bins, 2 * config.max_source_positions)
        self.features = torch.randn(*shape, device=self.device, dtype=self.dtype)
        self.inputs = torch.randint(10, 50, (batch, tokens), device=self.device)
        self.whole = torch.compile(self.model) if compiled else self.model

    def one_pass(self):
        """Run encoder and decoder once, all tokens given."""
        return self.whole(input_features=self.features, decoder_input_ids=self.inputs)

    def token_by_token(self):
        """Generate the same number of tokens, greedily."""
        limits = {"max_new_tokens": self.tokens, "min_new_tokens": self.tokens, "do_sample": False}
        generate = super(
            WhisperForConditionalGeneration, self.model
        ).generate  # without Whisper's loop over windows
        return generate(self.features, decoder_input_ids=self.inputs[:, :4], **limits)

    @torch.no_grad()
    def within(self, call, language, *contexts):
        """Return what a call returns with a language set, in further contexts."""
        with ExitStack() as stack:
            if self.mixed_precision:
                contexts = (autocast(self.device), weights_cast_once(self.model), *contexts)
            for context in (use_language(self.model, language), *contexts):
                stack.enter_context(context)
            return call()

    def runs(self, call, compiled: bool) -> dict:
        """Return the runs by name; of compiled models the first three."""
        rows = [ROWS[row % len(ROWS)] for row in range(len(self.inputs))]
        runs = {
            "plain": lambda: self.within(call, None),
            "mixed": lambda: self.within(call, "cs", switched("mixed")),
            "routed": lambda: self.within(call, "cs"),
        }
        if not compiled:
            runs |= {"languages": lambda: self.within(call, rows)} if len(rows) > 1 else {}
            runs |= {
                "agreeing": lambda: self.within(call, "cs", switched("agree")),
                "fixed": lambda: self.within(call, "cs", fixed_gates(self.model)),
                "halves": lambda: self.within(call, None, in_halves(self.model)),
            }
        return runs

    def floors(self) -> dict[str, float]:
        """Return the least seconds that plain Whisper needs here, by what is measured."""
        computed = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[
            mixed_precision(self.device)
        ]
        speed = reached_flops(self.device, computed if self.mixed_precision else self.dtype)
        added = {id(weight) for _, weight in expert_parameters(self.model)}
        read = sum(
            weight.nbytes
            for weight in self.model.model.decoder.parameters()
            if id(weight) not in added
        )
        reading = self.tokens * read / reached_bytes(self.device)
        whole, heard = (
            flops(self.model.config, len(self.inputs), n) / speed for n in (self.tokens, 0)
        )
        return {"one pass": whole, "token by token": heard + max(reading, whole - heard)}


def measure(
    size: str, dtype: str, batch: int, tokens: int, repeats: int, compiled: bool = False
) -> list[dict]:
    """Return the rows of one size, precision and batch: encoder and decoder in one pass, and token by token."""
    setting, rows = Setting(size, dtype, batch, tokens, compiled), []
    floors = setting.floors()
    for name, call in {
        "one pass": setting.one_pass,
        "token by token": setting.token_by_token,
    }.items():
        if compiled and name == "token by token":
            continue
        runs = setting.runs(call, compiled)
        rows += as_rows(
            interleaved(runs, repeats, setting.device),
            "plain",
            dict.fromkeys(runs, floors[name]),
            size=size,
            dtype=dtype,
            batch=batch,
            compiled="yes" if compiled else "no",
            work=name,
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="whisper-base, batch 1: under a minute"
    )
    parser.add_argument("--sizes", nargs="*", choices=[*SHAPES, "tiny"], default=["base", "small"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--dtypes", nargs="*", choices=[*DTYPES, "autocast"], default=["fp32"])
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="each setting by torch.compile too")
    a = parser.parse_args(arguments)
    if a.quick:
        a.sizes, a.batches, a.repeats, a.tokens = a.sizes[:1], [1], 2, min(a.tokens, 8)
    torch.manual_seed(0)
    torch._dynamo.config.capture_dynamic_output_shape_ops = (
        a.compile
    )  # or the routed blocks break the graph
    set_verbosity_error()
    rows = [
        row
        for size in a.sizes
        for dtype in a.dtypes
        for batch in a.batches
        for compiled in ((False, True) if a.compile else (False,))
        for row in measure(size, dtype, batch, a.tokens, a.repeats, compiled)
    ]
    report("inference", rows, ("size", "dtype", "batch", "compiled", "work"))


if __name__ == "__main__":
    main()
