"""CTranslate2's Whisper, read with numpy and turned into transformers' Whisper.

A model.bin is: version, "WhisperSpec", revision, then the variables one after the other (name, shape, type, size,
data), then the aliases. The layout was read from files and from CTranslate2's public model specification.
"""

import io
import struct

import numpy as np
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

DTYPES = {
    0: np.float32,
    1: np.int8,
    2: np.int16,
    3: np.int32,
    4: np.float16,
}  # CTranslate2's type ids
# CTranslate2's name of a block -> transformers' name, inside encoder and decoder
BLOCKS = {
    "conv1": "conv1",
    "conv2": "conv2",
    "layer_norm": "layer_norm",
    "embeddings": "embed_tokens",
}
# CTranslate2's name of a linear map or norm -> transformers' names (several: fused along the output axis)
PARTS = {
    "self_attention/layer_norm": ["self_attn_layer_norm"],
    "self_attention/linear_0": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "self_attention/linear_1": ["self_attn.out_proj"],
    "attention/layer_norm": ["encoder_attn_layer_norm"],
    "attention/linear_0": ["encoder_attn.q_proj"],
    "attention/linear_1": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
    "attention/linear_2": ["encoder_attn.out_proj"],
    "ffn/layer_norm": ["final_layer_norm"],
    "ffn/linear_0": ["fc1"],
    "ffn/linear_1": ["fc2"],
}

KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


class _Reader(io.BytesIO):
    """Reads little-endian numbers, strings and arrays one after the other."""

    def take(self, count: int) -> bytes:
        found = self.read(count)
        if len(found) < count:
            raise ValueError(
                f"CTranslate2 model ends after {self.tell()} bytes, in the middle of its data: "
                "the file is truncated"
            )
        return found

    def number(self, form: str = "<I") -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        return self.take(self.number("<H"))[:-1].decode("utf-8", "replace")  # ends with a zero byte

    def array(self) -> np.ndarray:
        shape = [self.number() for _ in range(self.number("<B"))]
        kind, size = self.number("<B"), self.number()
        if kind not in DTYPES or size != int(np.prod(shape)) * np.dtype(DTYPES[kind]).itemsize:
            raise ValueError(
                f"CTranslate2 variable of type {kind}, shape {shape} and {size} bytes can't be read"
            )
        return np.frombuffer(self.take(size), DTYPES[kind]).reshape(shape)


def read_variables(data: bytes) -> dict[str, np.ndarray]:
    """Parse a CTranslate2 model file (binary version 6, WhisperSpec) into its variables; aliases are skipped.

    Raises ValueError where the file is truncated, of another version, or another kind of model.
    """
    reader = _Reader(data)
    version, name, _ = reader.number(), reader.string(), reader.number()
    if (version, name) != (6, "WhisperSpec"):
        raise ValueError(
            f"not a Whisper model in CTranslate2's binary version 6 (version {version}, {name[:40]!r})"
        )
    variables = {reader.string(): reader.array() for _ in range(reader.number())}
    for _ in range(2 * reader.number()):  # alias and what it stands for: the tied projection
        reader.string()
    if rest := reader.read():
        raise ValueError(f"CTranslate2 model has {len(rest)} bytes too many: the file is damaged")
    return variables


def convert(variables: dict[str, np.ndarray]) -> WhisperForConditionalGeneration:
    """Build transformers' Whisper (fp32) from CTranslate2's variables.

    Raises ValueError where weights are missing, quantised, or of another shape.
    """
    state = {}
    for name, value in variables.items():
        state |= _translate(name, value)
    model = WhisperForConditionalGeneration(_config(variables))
    fill(model, state, "the CTranslate2 model")
    return model.eval()


def fill(
    model: WhisperForConditionalGeneration, state: dict[str, torch.Tensor], source: str
) -> None:
    """Load all weights of `model` from `state`; raises ValueError that names `source` where it lacks or has others."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    if set(missing) - {"proj_out.weight"} or unexpected:  # the projection is tied to the embeddings
        raise ValueError(f"{source} does not fit Whisper: missing {missing}, unknown {unexpected}")


def _translate(name: str, value: np.ndarray) -> dict[str, torch.Tensor]:
    """Return transformers' tensors for one CTranslate2 variable; settings (numbers without a shape) give none."""
    stack, _, rest = name.partition("/")
    block, _, kind = rest.rpartition("/")
    if not value.shape or rest.startswith("alignment"):
        return {}
    if value.dtype not in (np.float16, np.float32):
        raise ValueError(
            f"CTranslate2 variable {name} is quantised ({value.dtype}): only fp16 and fp32 can be read"
        )
    tensor = torch.from_numpy(value.astype(np.float32))
    if rest == "position_encodings/encodings":
        return {f"model.{stack}.embed_positions.weight": tensor}
    if block in BLOCKS and kind in KINDS:
        return {f"model.{stack}.{BLOCKS[block]}.{KINDS[kind]}": tensor}
    layer, _, part = block.partition("/")
    if part not in PARTS or kind not in KINDS:
        raise ValueError(f"CTranslate2 variable {name} is unknown in Whisper")
    targets = PARTS[part]
    pieces = zip(targets, tensor.chunk(len(targets)), strict=True)  # q, k, v: each (d, d) or (d,)
    prefix = f"model.{stack}.layers.{layer.removeprefix('layer_')}"
    return {
        f"{prefix}.{target}.{KINDS[kind]}": piece.clone()
        for target, piece in pieces
        if not (kind == "bias" and target.endswith("k_proj"))
    }  # Whisper's keys have no bias


def _config(variables: dict[str, np.ndarray]) -> WhisperConfig:
    """Return the configuration that the variables' shapes tell."""

    def layers(stack: str) -> int:
        return len(
            {
                name.split("/")[1]
                for name in variables
                if name.startswith(f"{stack}/layer_") and "ffn" in name
            }
        )

    try:
        vocabulary, width = variables["decoder/embeddings/weight"].shape
        end = vocabulary - 1608  # 1608 special tokens: <|endoftext|> first, the timestamps last
        return WhisperConfig(
            vocab_size=vocabulary,
            d_model=width,
            num_mel_bins=variables["encoder/conv1/weight"].shape[1],
            encoder_layers=layers("encoder"),
            decoder_layers=layers("decoder"),
            encoder_attention_heads=int(variables["encoder/num_heads"]),
            decoder_attention_heads=int(variables["decoder/num_heads"]),
            encoder_ffn_dim=variables["encoder/layer_0/ffn/linear_0/weight"].shape[0],
            decoder_ffn_dim=variables["decoder/layer_0/ffn/linear_0/weight"].shape[0],
            max_source_positions=len(variables["encoder/position_encodings/encodings"]),
            max_target_positions=len(variables["decoder/position_encodings/encodings"]),
            pad_token_id=end,
            bos_token_id=end,
            eos_token_id=end,
            decoder_start_token_id=end + 1,
            begin_suppress_tokens=[220, end],
        )
    except KeyError as error:
        raise ValueError(
            f"the CTranslate2 model has no variable {error}: it is not a Whisper model"
        ) from error
