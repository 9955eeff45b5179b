"""The CLSR block: each position goes through a language's expert or through the shared block.

Notation: h the block's input (hidden states), G(h) the gate's logit, g the gate; B sequences in the
batch, T positions, d the width of the model.

Source: paper, section 3; Zhang et al., "Share or Not?", ICLR 2021; the authors' release (CLSRFFN).
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from .experts import ExpertSettings, FeedForward, Gate, new_expert

# One language for the whole batch; a list with one for each sequence in the batch, None where it
# gets no expert; or None for plain Whisper.
LanguageChoice = str | list[str | None] | None

# On a GPU, positions are sent through one block each from this number on; with fewer, both blocks
# are computed (see `ClsrFeedForward._select`). By arithmetic, not measured: the encoder has 1,500
# positions a clip.
MIN_ROUTED_ON_GPU = 1024

# The number of positions that a block is given is rounded up to a multiple of this (`_apply_at`).
ROUND_UP_TO = 32


class Routing:
    """The state that all CLSR blocks of one model share.

    Attributes:
        settings: Settings of experts and gates.
        languages: Codes of the languages that have experts, in the order of attaching.
        language: The choice of experts, as codes (`LanguageChoice`).
        noise: alpha now, the strength of the gates' training noise.
    """

    def __init__(self, settings: ExpertSettings):
        self.settings = settings
        self.languages: list[str] = []
        self.language: LanguageChoice = None
        self.noise = 0.0
        self._indices: dict[tuple, dict[str | None, torch.Tensor]] = {}

    def choose(self, language: LanguageChoice) -> None:
        """Set `language`, and forget the indices of earlier batches."""
        self.language = language
        self._indices.clear()

    def sequences_by_language(
        self, languages: list[str | None], batch_size: int, device: torch.device
    ) -> dict[str | None, torch.Tensor]:
        """Return the indices of each language's sequences in the batch.

        The indices are made once for all layers and steps: on a GPU each new tensor would make the
        CPU wait.

        Args:
            languages: The language of each sequence.
            batch_size: B, a multiple of their number: in beam search the beams of a sequence follow
                one another in the batch.
            device: Where the indices are needed.

        Raises:
            ValueError: Where the languages do not fit the batch.
        """
        if batch_size % len(languages):
            raise ValueError(
                f"set_language was given {len(languages)} languages, the batch has {batch_size} "
                "sequences (give clips of over 30 s one language for the whole batch: `generate` "
                "drops those that are finished)"
            )

        # Indices made in inference mode cannot be used where gradients are computed.
        key = (*languages, batch_size, device, torch.is_grad_enabled())
        if key not in self._indices:
            beams = batch_size // len(languages)
            language_of = [language for language in languages for _ in range(beams)]
            indices = {}
            for language in dict.fromkeys(languages):
                own = [index for index, other in enumerate(language_of) if other == language]
                indices[language] = torch.tensor(own, device=device)
            self._indices[key] = indices
        return self._indices[key]


class ClsrFeedForward(nn.Module):
    """The shared feed-forward block, and an expert and a gate for each language.

    In training both blocks are computed and mixed by a noisy gate:

        g = sigmoid(G(h) + alpha * eps), eps ~ N(0, 1)
        y = g * expert(h) + (1 - g) * shared(h)

    With the setting `hard`, g is 1 where G(h) + alpha * eps >= 0, else 0, and has the gradient of
    the sigmoid. In evaluation g is 1 where G(h) >= 0, else 0, and each position is computed by one
    of the two blocks. A subclass can compute that in another way: it overrides `_select`, and is
    given to `attach_experts` as `block_class`.

    Attributes:
        shared: The layer's own feed-forward block, frozen.
        routing: The state that all blocks of the model share.
        experts: An expert for each language, by code.
        gates: A gate for each language, by code.
        last_gate: g of the latest forward pass, (B, T), NaN in sequences without an expert; None
            where no sequence had one.
        constant_gates: Languages with the same gate decision at every position in evaluation (True:
            all positions go to the expert), by code; their gates are not computed.
        load_hook: The hook that `attach_experts` has put on the layer, removed when it is detached.
    """

    def __init__(self, shared: FeedForward, routing: Routing):
        super().__init__()
        self.shared = shared
        self.routing = routing
        self.experts = nn.ModuleDict()
        self.gates = nn.ModuleDict()
        self.last_gate: torch.Tensor | None = None
        self.constant_gates: dict[str, bool] = {}
        self.load_hook: RemovableHandle | None = None

    def add_language(self, language: str) -> None:
        """Add an untrained expert and gate for a language, given by its code."""
        settings = self.routing.settings
        weight = self.shared.fc1.get_parameter("weight")  # (inner width, d)
        expert = new_expert(self.shared, settings.rank)
        gate = Gate(weight.shape[1], settings)
        # `to(weight)`: on the device and in the dtype of the shared block.
        self.experts[language] = expert.to(weight).train(self.training)
        self.gates[language] = gate.to(weight).train(self.training)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Route each position by the language that is set: (B, T, d) -> (B, T, d)."""
        self.last_gate = None
        language = self.routing.language
        if language is None:
            return self.shared(h)
        if isinstance(language, str):
            y, self.last_gate = self._one_language(h, language)
            return y
        return self._language_per_sequence(h, language)

    def _one_language(self, h: torch.Tensor, language: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output (B, T, d) and the gate g (B, T) of sequences of one language."""
        settings = self.routing.settings

        # Gates that are not computed.
        if language in self.constant_gates and not self.training:
            is_open = self.constant_gates[language]
            block = self.experts[language] if is_open else self.shared
            return block(h), h.new_full(h.shape[:2], is_open)
        if settings.always_open:
            expert = self.experts[language](h)
            y = F.dropout(expert, settings.expert_dropout, self.training)
            return y, h.new_ones(h.shape[:2])

        logit = self.gates[language](h)  # (B, T, 1)
        if self.training:
            y, g = self._mix(h, language, logit)
        else:
            g = logit >= 0
            y = self._select(h, language, g)
            g = g.to(h.dtype)
        return y, g.squeeze(-1)

    def _mix(
        self, h: torch.Tensor, language: str, logit: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix both blocks by a noisy gate, for training; returns y (B, T, d) and g (B, T, 1)."""
        settings = self.routing.settings
        shared = self.shared(h)

        noisy_logit = logit + self.routing.noise * torch.randn_like(logit)
        g = torch.sigmoid(noisy_logit)
        if settings.hard:  # the value is 0 or 1, the gradient that of the sigmoid
            g = (noisy_logit >= 0).to(g.dtype) + (g - g.detach())

        if torch.rand(()) < settings.skip_gate:
            # The gate budget still counts g. `0 * g` makes g a part of the output, where training
            # in several processes looks for the parameters that have gradients.
            return shared + 0 * g, g

        expert = F.dropout(self.experts[language](h), settings.expert_dropout)
        return g * expert + (1 - g) * shared, g

    def _select(self, h: torch.Tensor, language: str, g: torch.Tensor) -> torch.Tensor:
        """Send each position through one block, for evaluation.

        Returns expert(h) where g (B, T, 1) is true, and shared(h) elsewhere, (B, T, d).

        On a GPU both blocks are computed for few positions, as in a step of the decoder: to count
        the open gates, the CPU would have to wait for the GPU in every layer. torch.compile makes
        one graph of this method where `torch._dynamo.config.capture_dynamic_output_shape_ops` is
        True.
        """
        shared = self.shared
        expert = self.experts[language]
        positions = h.flatten(0, -2)  # (B T, d)
        is_open = g.flatten()  # (B T,)

        if h.is_cuda and len(positions) < MIN_ROUTED_ON_GPU:
            return torch.where(g, expert(h), shared(h))

        # The same gate decision at every position: the other block is not computed.
        if not torch.compiler.is_compiling():
            open_count = int(is_open.count_nonzero())
            if open_count == 0:
                return shared(h)
            if open_count == len(positions):
                return expert(h)

        to_expert = is_open.nonzero().squeeze(1)
        to_shared = (~is_open).nonzero().squeeze(1)
        from_expert = _apply_at(expert, positions, to_expert)
        from_shared = _apply_at(shared, positions, to_shared)
        y = from_expert.new_empty(positions.shape)
        y.index_copy_(0, to_expert, from_expert)
        y.index_copy_(0, to_shared, from_shared)
        return y.view(h.shape)

    def _language_per_sequence(self, h: torch.Tensor, languages: list[str | None]) -> torch.Tensor:
        """Route each sequence of h (B, T, d) by its own language; returns (B, T, d)."""
        sequences = self.routing.sequences_by_language(languages, h.shape[0], h.device)
        y = torch.empty_like(h)
        gate = torch.full(h.shape[:2], torch.nan, dtype=h.dtype, device=h.device)
        for language, indices in sequences.items():
            part = h.index_select(0, indices)
            if language is None:
                part_y = self.shared(part)
            else:
                part_y, g = self._one_language(part, language)
                gate = gate.index_copy(0, indices, g.to(h.dtype))
            y = y.index_copy(0, indices, part_y.to(h.dtype))

        has_experts = any(language is not None for language in languages)
        self.last_gate = gate if has_experts else None
        return y


def _apply_at(block: nn.Module, positions: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return block(positions[indices]), (n, d).

    The number of indices is rounded up, with copies of position 0 that are cut off afterwards:
    oneDNN prepares each new shape anew (750 positions of width 512 in bf16 take 35 ms instead
    of 5).
    """
    count = len(indices)
    multiple = max(1, min(ROUND_UP_TO, len(positions) // 4))
    padded = F.pad(indices, (0, -count % multiple))
    return block(positions.index_select(0, padded))[:count]
