"""The sizes of a Whisper, and arithmetic on them: parameters and floating-point operations."""

from dataclasses import dataclass

VOCABULARY = 51865  # of every multilingual Whisper up to large-v2
MEL_BANDS = 80
NATIVE_FRAMES = 3000  # mel frames of Whisper's 30 s window
FRAMES_PER_SECOND = 100  # of the log-mel; an encoder position is two frames
ENCODER_POSITIONS = 1500
DECODER_POSITIONS = 448


@dataclass(frozen=True)
class WhisperShape:
    """Sizes of a Whisper.

    Attributes:
        width: Width of the model, d.
        layers: Layers of the encoder, and as many of the decoder.
        ffn: Inner width of a feed-forward block.
    """

    width: int
    layers: int
    ffn: int

    @property
    def feed_forward_parameters(self) -> int:
        """Parameters of one feed-forward block, fc1 and fc2 with their biases."""
        return 2 * self.width * self.ffn + self.ffn + self.width

    @property
    def parameters(self) -> int:
        """Parameters of the whole model; the output projection is tied to the token embedding."""
        d = self.width
        attention = 4 * d * d + 3 * d  # keys have no bias
        layer_norm = 2 * d

        convolutions = (3 * MEL_BANDS * d + d) + (3 * d * d + d)
        encoder_layer = attention + self.feed_forward_parameters + 2 * layer_norm
        encoder = convolutions + ENCODER_POSITIONS * d + self.layers * encoder_layer + layer_norm

        embeddings = (VOCABULARY + DECODER_POSITIONS) * d
        decoder_layer = 2 * attention + self.feed_forward_parameters + 3 * layer_norm
        decoder = embeddings + self.layers * decoder_layer + layer_norm
        return encoder + decoder

    def forward_flops(self, tokens: float) -> float:
        """Floating-point operations of a forward pass of one clip with `tokens` decoder positions.

        Two operations for a multiplication and an addition.
        """
        d = self.width
        n = self.layers
        s = ENCODER_POSITIONS

        convolutions = NATIVE_FRAMES * 3 * MEL_BANDS * d + s * 3 * d * d
        encoder_attention = n * s * (4 * d * d + 2 * s * d)
        decoder_attention = n * (
            tokens * (6 * d * d + 2 * (tokens + s) * d)  # self-attention, queries, outputs
            + s * 2 * d * d  # keys and values of the encoder's output
        )
        feed_forward = n * (s + tokens) * 2 * d * self.ffn
        output = tokens * VOCABULARY * d
        return 2.0 * (convolutions + encoder_attention + decoder_attention + feed_forward + output)


SHAPES = {
    "openai/whisper-base": WhisperShape(512, 6, 2048),
    "openai/whisper-small": WhisperShape(768, 12, 3072),
    "openai/whisper-large-v2": WhisperShape(1280, 32, 5120),
}
