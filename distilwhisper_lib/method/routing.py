"""The CLSR block: each position goes through a language's expert or through the shared block.

Notation: h the block's input (hidden states), G(h) the gate's logit, g the gate; B sequences in the
batch, T positions, d the width of the model.

Source: paper (method); Zhang et al., "Share or Not?", ICLR 2021; the authors' release (CLSRFFN).
"""

import math
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from ..whisper.per_call import PerCall, PerThread
from .experts import ExpertSettings, FeedForward, Gate, new_expert

# One language for the whole batch; a list with one for each sequence in the batch, None where it
# gets no expert; "auto", that of the language token; or None for plain Whisper.
LanguageChoice = str | list[str | None] | None
AUTO = "auto"

# On a GPU, positions are sent through one block each from this number on; with fewer, both blocks
# are computed (see `ClsrFeedForward._select`). By arithmetic, not measured: the encoder has 1,500
# positions a clip.
MIN_ROUTED_ON_GPU = 1024

# The number of positions that a block is given is rounded up to a multiple of this (`_apply_at`).
ROUND_UP_TO = 32


class Choice:
    """A choice of experts. It is made once, at the model's entry, and travels with the call.

    Attributes:
        language: As codes (`LanguageChoice`).
        one_pass: Whether `generate` decodes each batch once, without fallback to other
            temperatures, for which it leaves sequences out.
    """

    def __init__(self, language: LanguageChoice, one_pass: bool = True):
        self.language = language
        self.one_pass = one_pass
        self._indices: dict[tuple, dict[str | None, torch.Tensor]] = {}

    def check_encoder_batch(self, batch_size: int) -> None:
        """Raise ValueError where there is not one language for each sequence of the encoder."""
        if isinstance(self.language, list) and len(self.language) != batch_size:
            raise ValueError(_does_not_fit(self.language, batch_size))

    def sequences_by_language(
        self, batch_size: int, device: torch.device
    ) -> dict[str | None, torch.Tensor]:
        """Return the indices of each language's sequences in the batch.

        The indices are made once for all layers and steps: on a GPU each new tensor would make the
        CPU wait.

        Args:
            batch_size: B, a multiple of the number of languages: in beam search the beams of a
                sequence follow one another in the batch.
            device: Where the indices are needed.

        Raises:
            ValueError: Where the languages do not fit the batch.
        """
        languages = self.language
        assert isinstance(languages, list)
        if batch_size % len(languages):
            raise ValueError(_does_not_fit(languages, batch_size))

        # Indices made in inference mode cannot be used where gradients are computed, and those of
        # an export are no real tensors.
        if torch.compiler.is_exporting():
            return self._make_indices(batch_size, device)
        key = (batch_size, device, torch.is_grad_enabled())
        if key not in self._indices:
            self._indices[key] = self._make_indices(batch_size, device)
        return self._indices[key]

    def _make_indices(
        self, batch_size: int, device: torch.device
    ) -> dict[str | None, torch.Tensor]:
        """Return new indices of each language's sequences in the batch."""
        assert isinstance(self.language, list)
        beams = batch_size // len(self.language)
        language_of = [language for language in self.language for _ in range(beams)]
        indices = {}
        for language in dict.fromkeys(self.language):
            own = [index for index, other in enumerate(language_of) if other == language]
            indices[language] = torch.tensor(own, device=device)
        return indices


def _does_not_fit(languages: list[str | None], batch_size: int) -> str:
    """Return the message about a list of languages that does not fit the batch."""
    return (
        f"set_language was given {len(languages)} languages, the batch has {batch_size} sequences "
        "(give clips of over 30 s one language for the whole batch: `generate` drops those that "
        "are finished)"
    )


class Routing:
    """The state that all CLSR blocks of one model share.

    Attributes:
        settings: Settings of experts and gates.
        languages: Codes of the languages that have experts, in the order of attaching.
        noise: alpha now, the strength of the gates' training noise.
    """

    def __init__(self, settings: ExpertSettings):
        self.settings = settings
        self.languages: list[str] = []
        self.noise = 0.0
        self._default = Choice(None)  # for all threads
        self._override = PerCall()  # for calls of one thread or task
        self._layer = PerThread()  # for the layer that this thread is in

    # ---- the choice of experts

    @property
    def language(self) -> LanguageChoice:
        """The choice of experts that holds here, as codes."""
        return self.current().language

    @language.setter
    def language(self, language: LanguageChoice) -> None:
        self.choose(language)

    def current(self) -> Choice:
        """Return the choice that holds in this thread or task."""
        override = self._override.get()
        return self._default if override is None else override

    def choose(self, language: LanguageChoice) -> None:
        """Choose experts: within `use` until its end, elsewhere for all threads."""
        choice = Choice(language)
        if self._override.get() is None:
            self._default = choice
        else:
            self._override.replace(choice)

    def use(self, choice: Choice) -> AbstractContextManager[None]:
        """Return a context manager in which a choice holds for this thread or task."""
        return self._override.use(choice)

    @property
    def is_used(self) -> bool:
        """Whether any thread or task is within `use`."""
        return self._override.is_used

    # ---- on the way to the blocks

    def enter_layer(self, choice: Choice | None) -> Choice | None:
        """Hand a choice to the block of the layer that this thread runs.

        Args:
            choice: That of the call, or None.

        Returns:
            What was handed over before, for a second call after the layer.
        """
        before = self._layer.value
        self._layer.value = choice
        return before

    def choice_in_layer(self) -> Choice:
        """Return the choice for the block of the layer that this thread runs."""
        choice = self._layer.value
        return self.current() if choice is None else choice


class ClsrFeedForward(nn.Module):
    """The shared feed-forward block, and an expert and a gate for each language.

    In training both blocks are computed and mixed by a noisy gate:

        g = sigmoid(G(h) + alpha * eps), eps ~ N(0, 1)
        y = g * expert(h) + (1 - g) * shared(h)

    With the setting `hard`, g is 1 where G(h) + alpha * eps >= 0, else 0, and has the gradient of
    the sigmoid. In evaluation g is 1 where G(h) >= 0, else 0, and each position is computed by one
    of the two blocks. A subclass can compute that in another way: it overrides `_select`, and is
    given to `attach_experts` as `block_class`.

    NaN >= 0 is false, so that a gate whose logit is NaN would be shut in silence, as if the experts
    brought nothing. In evaluation a logit that is not finite raises ValueError; where the CPU would
    have to wait for a GPU to see it, and in graphs, the output becomes NaN at that position.

    Attributes:
        shared: The layer's own feed-forward block, frozen.
        routing: The state that all blocks of the model share.
        experts: An expert for each language, by code.
        gates: A gate for each language, by code.
        last_gate: g of this thread's latest forward pass, (B, T), NaN in sequences without an
            expert; None where no sequence had one.
        constant_gates: Languages with the same gate decision at every position in evaluation (True:
            all positions go to the expert), by code; their gates are not computed.
        hooks: Those that `attach_experts` has put on the layer, removed when it is detached.
    """

    def __init__(self, shared: FeedForward, routing: Routing):
        super().__init__()
        self.shared = shared
        self.routing = routing
        self.experts = nn.ModuleDict()
        self.gates = nn.ModuleDict()
        self._last_gate = PerThread()
        self.constant_gates: dict[str, bool] = {}
        self.hooks: list[RemovableHandle] = []

    @property
    def last_gate(self) -> torch.Tensor | None:
        """The gates of this thread's latest forward pass."""
        return self._last_gate.value

    @last_gate.setter
    def last_gate(self, gate: torch.Tensor | None) -> None:
        self._last_gate.value = gate

    def extra_repr(self) -> str:
        """Return what is printed of the block; PEFT prints it where it is asked to adapt fc1."""
        languages = ", ".join(self.routing.languages) or "none"
        return (
            f"experts: {languages}; for an adapter on the shared block: "
            r"target_modules=r'.*\.shared\.fc[12]'"
        )

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
        """Route each position by the language of the call: (B, T, d) -> (B, T, d)."""
        self.last_gate = None
        choice = self.routing.choice_in_layer()
        language = choice.language
        if language is None:
            return self.shared(h)
        if isinstance(language, list):
            return self._language_per_sequence(h, choice)
        y, self.last_gate = self._one_language(h, language)
        return y

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
            can_look = _can_look(h)
            # A sum is infinite or NaN where a part of it is, and faster than to ask for each part.
            if can_look and not math.isfinite(logit.sum(dtype=torch.float32).item()):
                raise ValueError(_not_finite(language))
            y = self._select(h, language, g)
            if not can_look:  # 0 * NaN and 0 * inf are NaN
                y = torch.add(y, logit, alpha=0).to(y.dtype)
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
        the open gates, the CPU would have to wait for the GPU in every layer. So they are in a
        traced or exported model, which must hold for other gates than those it was traced with.
        torch.compile makes one graph of this method where
        `torch._dynamo.config.capture_dynamic_output_shape_ops` is True.
        """
        shared = self.shared
        expert = self.experts[language]
        positions = h.flatten(0, -2)  # (B T, d)
        is_open = g.flatten()  # (B T,)

        few_on_gpu = h.is_cuda and len(positions) < MIN_ROUTED_ON_GPU
        traced = torch.jit.is_tracing() or torch.compiler.is_exporting()
        if few_on_gpu or traced:
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

    def _language_per_sequence(self, h: torch.Tensor, choice: Choice) -> torch.Tensor:
        """Route each sequence of h (B, T, d) by its own language; returns (B, T, d)."""
        sequences = choice.sequences_by_language(h.shape[0], h.device)
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

        has_experts = any(language is not None for language in sequences)
        self.last_gate = gate if has_experts else None
        return y


def _can_look(h: torch.Tensor) -> bool:
    """Return whether values may be looked at where the block has the input h (B, T, d).

    Not in graphs, nor for few positions on a GPU, where the CPU would wait in every layer.
    """
    few_on_gpu = h.is_cuda and h.shape[:-1].numel() < MIN_ROUTED_ON_GPU
    traced = torch.jit.is_tracing() or torch.compiler.is_exporting()
    return not (few_on_gpu or traced or torch.compiler.is_compiling())


def _not_finite(language: str) -> str:
    """Return the message about a gate's logit that is not finite."""
    return (
        f"a gate of the {language} experts has a logit that is not finite: its weights, those of a "
        "layer before it, or the input are infinite or NaN, as after a training that diverged; "
        "load the experts again, or train them with a lower learning rate"
    )


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
