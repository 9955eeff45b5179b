"""`python -m benchmarks.inference`: what experts cost at inference, against plain transformers Whisper.

    plain    transformers' Whisper, no language set
    mixed    both blocks computed for every position, then one of the two chosen, as the authors' code does
    routed   the library's blocks

Random weights in Whisper's shapes, Whisper's 30 s window. Half of the gates are open, drawn anew for each position: the
hardest case for routing. Floor, of plain Whisper: its multiplications at the speed that a plain matrix product reaches
here; token by token also the decoder's weights, read once a token at the speed of a plain copy, where that takes
longer. --compile: by torch.compile, in one pass only (`generate` would need a cache of fixed length).
"""

import argparse
from contextlib import contextmanager

import torch
from distilwhisper_lib import attach_experts, use_language
from distilwhisper_lib.checkpoints import tiny_whisper
from distilwhisper_lib.clsr import ClsrFeedForward, clsr_blocks, expert_parameters
from distilwhisper_lib.device import pick_device
from distilwhisper_lib.weights import fastest_attention
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.utils.logging import set_verbosity_error

from .measuring import as_rows, interleaved, reached_bytes, reached_flops, report

SHAPES = {"base": (512, 6, 8), "small": (768, 12, 12), "large-v2": (1280, 32, 20)}  # width, layers a stack, heads
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def whisper_of(size: str) -> WhisperForConditionalGeneration:
    """Return a Whisper with random weights in the shapes of a size, or the tests' tiny one."""
    if size == "tiny":
        return tiny_whisper().eval()
    width, layers, heads = SHAPES[size]
    config = WhisperConfig(vocab_size=51865, d_model=width, encoder_layers=layers, decoder_layers=layers,
                           encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=4 * width,
                           decoder_ffn_dim=4 * width, attn_implementation=fastest_attention())  # fmt: skip
    return WhisperForConditionalGeneration(config).eval()


def flops(config, batch: int, tokens: int) -> float:
    """Return the floating-point operations of plain Whisper: window of 30 s, then `tokens` decoder positions."""
    d, s, ffn = config.d_model, config.max_source_positions, 4 * config.d_model * config.encoder_ffn_dim
    project = 2 * d * d
    front = 2 * s * 3 * d * (2 * config.num_mel_bins + d)  # two convolutions over three frames, the second halves them
    encoder = config.encoder_layers * (s * (4 * project + ffn) + 4 * s * s * d) + front
    cross = s * 2 * project + tokens * (2 * project + 4 * s * d)  # its keys and values count once, with no tokens too
    decoder = config.decoder_layers * (tokens * (4 * project + ffn) + 2 * tokens * tokens * d + cross)
    return batch * (encoder + decoder + tokens * 2 * d * config.vocab_size)


@contextmanager
def both_computed():
    """Within the block every position is computed by both blocks: the baseline of the authors' code."""
    global mixed
    mixed = True
    try:
        yield
    finally:
        mixed = False


def _choose(self, h, language, g):
    if mixed:
        return torch.where(g, self.experts[language](h), self.shared(h))
    return routed(self, h, language, g)


mixed, routed = False, ClsrFeedForward._choose
ClsrFeedForward._choose = _choose  # once: torch.compile sees a changed global, but not a changed method


def gates_drawn(model) -> None:
    """Open half of all gates, at positions drawn anew at every call."""
    for block in clsr_blocks(model):
        for gate in block.gates.values():
            gate.register_forward_hook(lambda module, inputs, G: torch.rand_like(G) - 0.5)


def measure(size: str, dtype: str, batch: int, tokens: int, repeats: int, compiled: bool = False) -> list[dict]:
    """Return the rows of one size, precision and batch: encoder and decoder in one pass, and token by token."""
    device = pick_device()
    model = attach_experts(whisper_of(size).to(device, DTYPES[dtype]), ["cs"])
    gates_drawn(model)
    frames = 2 * model.config.max_source_positions
    features = torch.randn(batch, model.config.num_mel_bins, frames, device=device, dtype=DTYPES[dtype])
    inputs = torch.randint(10, 50, (batch, tokens), device=device)
    limits = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    speed, rows = reached_flops(device, DTYPES[dtype]), []
    added = {id(weight) for _, weight in expert_parameters(model)}
    read = sum(weight.nbytes for weight in model.model.decoder.parameters() if id(weight) not in added)
    reading = tokens * read / reached_bytes(device)
    whole, heard = (flops(model.config, batch, n) / speed for n in (tokens, 0))
    floors = {"one pass": whole, "token by token": heard + max(reading, whole - heard)}

    whole_model = torch.compile(model) if compiled else model

    def one_pass():
        return whole_model(input_features=features, decoder_input_ids=inputs)

    def token_by_token():
        generate = super(WhisperForConditionalGeneration, model).generate  # without Whisper's own loop over windows
        return generate(features, decoder_input_ids=inputs[:, :4], **limits)

    for name, call in {"one pass": one_pass, **({} if compiled else {"token by token": token_by_token})}.items():
        def within(language, mixed, call=call):
            with torch.no_grad(), use_language(model, language):
                if mixed:
                    with both_computed():
                        return call()
                return call()

        runs = {"plain": lambda: within(None, False), "mixed": lambda: within("cs", True),
                "routed": lambda: within("cs", False)}  # fmt: skip
        rows += as_rows(interleaved(runs, repeats, device), "plain", dict.fromkeys(runs, floors[name]), size=size,
                        dtype=dtype, batch=batch, compiled="yes" if compiled else "no", work=name)  # fmt: skip
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="whisper-base, batch 1: under a minute")
    parser.add_argument("--sizes", nargs="*", choices=[*SHAPES, "tiny"], default=["base", "small"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--dtypes", nargs="*", choices=list(DTYPES), default=["fp32"])
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="each setting by torch.compile too")
    a = parser.parse_args(arguments)
    if a.quick:
        a.sizes, a.batches, a.repeats = a.sizes[:1], [1], 3
    torch.manual_seed(0)
    torch._dynamo.config.capture_dynamic_output_shape_ops = a.compile  # or the routed blocks break the graph
    set_verbosity_error()
    rows = [row for size in a.sizes for dtype in a.dtypes for batch in a.batches
            for compiled in ((False, True) if a.compile else (False,))
            for row in measure(size, dtype, batch, a.tokens, a.repeats, compiled)]  # fmt: skip
    report("inference", rows)


if __name__ == "__main__":
    main()
