"""CTranslate2's Whisper, read with numpy and turned into transformers' Whisper.

A model.bin is: version, "WhisperSpec", revision, then the variables one after the other (name,
shape, type, size, data), then the aliases. The layout was read from files and from CTranslate2's
public model specification.
"""

import io
import struct

import numpy as np
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from .checkpoint import check_finite

# CTranslate2's type ids
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}

# CTranslate2's name of a block -> transformers' name, inside encoder and decoder
BLOCKS = {
    "conv1": "conv1",
    "conv2": "conv2",
    "layer_norm": "layer_norm",
    "embeddings": "embed_tokens",
}

# CTranslate2's name of a linear map or norm -> transformers' names, inside a layer. Several names:
# their weights are fused along the output axis.
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

# CTranslate2's name of a tensor -> transformers' name
KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}

# Special tokens of a multilingual Whisper: <|endoftext|> comes first, the timestamps last.
SPECIAL_TOKENS = 1608
SPACE = 220  # token id


# ---- reading the file


class _Reader(io.BytesIO):
    """Reads little-endian numbers, strings and arrays one after the other."""

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes; ValueError where the file ends before."""
        found = self.read(count)
        if len(found) < count:
            raise ValueError(
                f"CTranslate2 model ends after {self.tell()} bytes, in the middle of its data: "
                "the file is truncated"
            )
        return found

    def number(self, form: str = "<I") -> int:
        """Return the next number, in a format of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        """Return the next string: a length, then bytes that end with a zero byte."""
        length = self.number("<H")
        return self.take(length)[:-1].decode("utf-8", "replace")

    def array(self) -> np.ndarray:
        """Return the next array: number of dimensions, shape, type, size in bytes, data."""
        dimensions = self.number("<B")
        shape = [self.number() for _ in range(dimensions)]
        kind = self.number("<B")
        size = self.number()
        if kind not in DTYPES or size != int(np.prod(shape)) * np.dtype(DTYPES[kind]).itemsize:
            raise ValueError(
                f"CTranslate2 variable of type {kind}, shape {shape} and {size} bytes can't be read"
            )
        return np.frombuffer(self.take(size), DTYPES[kind]).reshape(shape)


def read_variables(data: bytes) -> dict[str, np.ndarray]:
    """Parse a CTranslate2 model file (binary version 6, WhisperSpec) into its variables.

    Args:
        data: The content of the file.

    Returns:
        The variables by name. Aliases are skipped.

    Raises:
        ValueError: Where the file is truncated, of another version, or another kind of model.
    """
    reader = _Reader(data)
    version = reader.number()
    name = reader.string()
    reader.number()  # the specification's revision
    if (version, name) != (6, "WhisperSpec"):
        raise ValueError(
            "not a Whisper model in CTranslate2's binary version 6 "
            f"(version {version}, {name[:40]!r})"
        )

    variables = {}
    for _ in range(reader.number()):
        variable = reader.string()
        variables[variable] = reader.array()

    for _ in range(reader.number()):  # one alias: the projection, which is tied to the embeddings
        reader.string()
        reader.string()

    surplus = reader.read()
    if surplus:
        raise ValueError(
            f"CTranslate2 model has {len(surplus)} bytes too many: the file is damaged"
        )
    return variables


# ---- building the model


def convert(variables: dict[str, np.ndarray]) -> WhisperForConditionalGeneration:
    """Build transformers' Whisper (fp32) from CTranslate2's variables.

    Raises:
        ValueError: Where weights are missing, quantised, or of another shape.
    """
    state: dict[str, torch.Tensor] = {}
    for name, value in variables.items():
        state.update(_translate(name, value))
    model = WhisperForConditionalGeneration(_config(variables))
    fill(model, state, "the CTranslate2 model")
    return model.eval()


def fill(
    model: WhisperForConditionalGeneration, state: dict[str, torch.Tensor], source: str
) -> None:
    """Load all weights of `model` from `state`.

    Args:
        model: It is filled in place.
        state: Tensors by transformers' names. The output projection may be missing: it is tied to
            the embeddings.
        source: Where the tensors come from, for the error message.

    Raises:
        ValueError: Where tensors are missing, unknown, of another shape or not finite.
    """
    check_finite(state.items(), source)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # of another shape
        lines = [line.strip() for line in str(error).splitlines()]
        raise ValueError(f"{source} does not fit Whisper: {lines[-1]}") from error
    if set(missing) - {"proj_out.weight"} or unexpected:
        raise ValueError(f"{source} does not fit Whisper: missing {missing}, unknown {unexpected}")


def _translate(name: str, value: np.ndarray) -> dict[str, torch.Tensor]:
    """Return transformers' tensors for one CTranslate2 variable; settings give none."""
    stack, _, rest = name.partition("/")
    block, _, kind = rest.rpartition("/")
    if not value.shape or rest.startswith("alignment"):  # settings are numbers without a shape
        return {}
    if value.dtype not in (np.float16, np.float32):
        raise ValueError(
            f"CTranslate2 variable {name} is quantised ({value.dtype}): only fp16 and fp32 can be "
            "read"
        )

    # Weights outside the layers.
    tensor = torch.from_numpy(value.astype(np.float32))
    if rest == "position_encodings/encodings":
        return {f"model.{stack}.embed_positions.weight": tensor}
    if block in BLOCKS and kind in KINDS:
        return {f"model.{stack}.{BLOCKS[block]}.{KINDS[kind]}": tensor}

    # Weights of a layer.
    layer, _, part = block.partition("/")
    if part not in PARTS or kind not in KINDS:
        raise ValueError(f"CTranslate2 variable {name} is unknown in Whisper")
    prefix = f"model.{stack}.layers.{layer.removeprefix('layer_')}"
    targets = PARTS[part]
    tensors = {}
    for target, piece in zip(targets, tensor.chunk(len(targets)), strict=True):
        if kind == "bias" and target.endswith("k_proj"):
            continue  # Whisper's keys have no bias
        tensors[f"{prefix}.{target}.{KINDS[kind]}"] = piece.clone()
    return tensors


def _config(variables: dict[str, np.ndarray]) -> WhisperConfig:
    """Return the configuration that the variables' shapes tell."""
    try:
        vocabulary, width = variables["decoder/embeddings/weight"].shape
        end = vocabulary - SPECIAL_TOKENS
        return WhisperConfig(
            vocab_size=vocabulary,
            d_model=width,
            num_mel_bins=variables["encoder/conv1/weight"].shape[1],
            encoder_layers=_count_layers(variables, "encoder"),
            decoder_layers=_count_layers(variables, "decoder"),
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
            begin_suppress_tokens=[SPACE, end],
        )
    except KeyError as error:
        raise ValueError(
            f"the CTranslate2 model has no variable {error}: it is not a Whisper model"
        ) from error


def _count_layers(variables: dict[str, np.ndarray], stack: str) -> int:
    """Return the number of layers of "encoder" or "decoder"."""
    feed_forward = [
        name for name in variables if name.startswith(f"{stack}/layer_") and "ffn" in name
    ]
    return len({name.split("/")[1] for name in feed_forward})
