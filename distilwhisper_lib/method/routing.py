"""The CLSR block: routing between the shared feed-forward block and a language's expert."""

import torch
from torch import nn

from .experts import ExpertSettings, FeedForward, Gate, new_expert

WORTH_WAITING = 1024  # positions from which a GPU routes too; by arithmetic, not measured: the encoder has 1,500 a clip

ROUND_TO = 32  # positions: see `_rounded`


class Routing:
    """What all blocks of one model share: the languages of the current rows, and the noise of the gates."""

    def __init__(self, settings: ExpertSettings):
        self.settings = settings
        self.known: list[str] = []
        self.language: str | list[str | None] | None = None
        self.noise = 0.0  # alpha now
        self._rows: dict[tuple, dict[str | None, torch.Tensor]] = {}

    def rows(self, batch: int, device: torch.device) -> dict[str | None, torch.Tensor]:
        """Return the indices of each language's rows in a batch; beams of a row follow one another, as in `generate`.

        They are made once for all layers and steps: a GPU would have to be waited for at each new tensor.
        """
        languages = self.language
        if batch % len(languages):
            raise ValueError(
                f"set_language was given {len(languages)} languages, the batch has {batch} rows (clips of "
                "over 30 s, of which `generate` drops rows, go one language a batch)"
            )
        key = (*languages, batch, device, torch.is_grad_enabled())
        if key not in self._rows:
            rows = [language for language in languages for _ in range(batch // len(languages))]
            self._rows[key] = {
                language: torch.tensor(
                    [i for i, row in enumerate(rows) if row == language], device=device
                )
                for language in languages
            }
        return self._rows[key]


class ClsrFeedForward(nn.Module):
    """The shared block, and per language an expert (a copy of it) and a gate that chooses between the two.

    Training: g = sigmoid(G + alpha * eps), eps ~ N(0, 1), and y = g * expert(h) + (1 - g) * shared(h); where the
    settings say `hard`, g = 1 where G + alpha * eps >= 0, else 0, and has the gradient of the sigmoid.
    Evaluation: g = 1 where G >= 0, else 0. `last_gate` (B, T) holds g of the latest call, NaN in rows without
    an expert; it is None where no row had one.
    """

    def __init__(self, shared: FeedForward, routing: Routing):
        super().__init__()
        self.shared, self.routing = shared, routing
        self.experts, self.gates = nn.ModuleDict(), nn.ModuleDict()
        self.last_gate: torch.Tensor | None = None
        self.fixed: dict[
            str, bool
        ] = {}  # gates that are the same at every position in evaluation, by language
        self.register_state_dict_post_hook(_to_whisper_names)

    def add_language(self, language: str) -> None:
        """Add an expert that equals the shared block, and an undecided gate."""
        settings, weight = self.routing.settings, self.shared.fc1.weight
        self.experts[language] = new_expert(self.shared, settings.rank).to(weight)
        self.gates[language] = Gate(weight.shape[1], settings).to(weight).train(self.training)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Route h (B, T, d) by the languages that are set; returns (B, T, d)."""
        self.last_gate = None
        language = self.routing.language
        if language is None:
            return self.shared(h)
        if isinstance(language, str):
            y, self.last_gate = self._mix(h, language)
            return y
        return self._mix_rows(h)

    def _mix(self, h: torch.Tensor, language: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the routed output (B, T, d) and the gate (B, T) of one language."""
        if not self.training and language in self.fixed:
            block = self.experts[language] if self.fixed[language] else self.shared
            return block(h), h.new_full(h.shape[:2], self.fixed[language])
        settings = self.routing.settings
        if settings.always_open:
            y = nn.functional.dropout(
                self.experts[language](h), settings.expert_dropout, self.training
            )
            return y, h.new_ones(h.shape[:2])
        logit = self.gates[language](h)  # (B, T, 1)
        if not self.training:
            g = logit >= 0
            return self._choose(h, language, g), g.squeeze(-1).to(h.dtype)
        shared = self.shared(h)
        g = torch.sigmoid(noisy := logit + self.routing.noise * torch.randn_like(logit))
        if settings.hard:
            g = (noisy >= 0).to(g.dtype) + (
                g - g.detach()
            )  # the value is 0 or 1, the gradient that of the sigmoid
        if torch.rand(()) < settings.skip_gate:
            return shared + 0 * g, g.squeeze(
                -1
            )  # the budget sees g: several processes must find it in the output
        expert = nn.functional.dropout(self.experts[language](h), settings.expert_dropout)
        return g * expert + (1 - g) * shared, g.squeeze(-1)

    def _choose(self, h: torch.Tensor, language: str, g: torch.Tensor) -> torch.Tensor:
        """Return expert(h) where g (B, T, 1) is true and shared(h) elsewhere, (B, T, d).

        Each position goes through one of the two. On a GPU both are computed of few positions, as in a step of the
        decoder: to count those that are open, the device would have to be waited for in every layer. torch.compile
        makes one graph of it where torch._dynamo.config.capture_dynamic_output_shape_ops is True.
        """
        shared, expert = self.shared, self.experts[language]
        rows, opened = h.flatten(0, -2), g.flatten()  # (B T, d), (B T,)
        if h.is_cuda and len(rows) < WORTH_WAITING:
            return torch.where(g, expert(h), shared(h))
        if not torch.compiler.is_compiling() and (count := int(opened.count_nonzero())) in (
            0,
            len(rows),
        ):
            return expert(h) if count else shared(h)
        to_expert, to_shared = opened.nonzero().squeeze(1), (~opened).nonzero().squeeze(1)
        chosen = _rounded(expert, rows, to_expert)
        y = chosen.new_empty(rows.shape).index_copy_(0, to_expert, chosen)
        return y.index_copy_(0, to_shared, _rounded(shared, rows, to_shared)).view(h.shape)

    def _mix_rows(self, h: torch.Tensor) -> torch.Tensor:
        """Route each row of h (B, T, d) by its own language; returns (B, T, d)."""
        y, rows = torch.empty_like(h), self.routing.rows(h.shape[0], h.device)
        if any(rows):
            self.last_gate = torch.full(h.shape[:2], torch.nan, dtype=h.dtype, device=h.device)
        for language, index in rows.items():
            if language is None:
                mixed = self.shared(h.index_select(0, index))
            else:
                mixed, g = self._mix(h.index_select(0, index), language)
                self.last_gate = self.last_gate.index_copy(0, index, g.to(h.dtype))
            y = y.index_copy(0, index, mixed.to(h.dtype))
        return y


def _rounded(block: nn.Module, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return block(rows[index]), (n, d). n is rounded up, with row 0 again, and cut off afterwards: oneDNN prepares
    each new shape (750 rows of width 512 in bf16 take 35 ms instead of 5)."""
    count, step = len(index), max(1, min(ROUND_TO, len(rows) // 4))
    return block(rows.index_select(0, nn.functional.pad(index, (0, -count % step))))[:count]


def _to_whisper_names(block, state: dict, prefix: str, _) -> None:
    """Give the shared block's tensors the names that they have in a plain Whisper; PEFT needs LoRA's as they are."""
    for key in [key for key in state if key.startswith(f"{prefix}shared.") and ".lora_" not in key]:
        state[prefix.removesuffix("fc1.") + key.removeprefix(f"{prefix}shared.")] = state.pop(key)
