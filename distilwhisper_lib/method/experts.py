"""Modules added to Whisper's feed-forward network: experts, full or of low rank, and gates.

Notation: h hidden states; B sequences in the batch, T positions, d the width of the model.

Source: paper (method); the authors' release (CLSRFFN, CLSRGate). Not in the paper: gates that are
hard in training (Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons",
2013) and experts of low rank (Hu et al., "LoRA", ICLR 2022).
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from ..checks import check_flag, check_number


@dataclass(frozen=True)
class ExpertSettings:
    """Settings of experts and gates; the defaults are the authors' release.

    Attributes:
        gate_dim: Inner width of a gate.
        expert_dropout: Dropout on the expert's output, in training.
        gate_dropout: Dropout on the gate's input, in training.
        skip_gate: Probability that a layer uses the shared block alone for a language of a batch,
            in training.
        noise: alpha, the strength of the gates' noise at the end of training. `GateNoise`, a
            callback that a Trainer of your own needs too, raises it linearly from 0.
        hard: Gates are 0 or 1 in training too, with the gradient of soft gates (straight-through).
        always_open: The gate is bypassed: every position goes to its expert (an ablation).
        rank: Rank of the experts' difference to the shared block; 0: experts are full copies of it.

    Raises:
        ValueError: For a value of another type or out of range, also from JSON.
    """

    gate_dim: int = 64
    expert_dropout: float = 0.3
    gate_dropout: float = 0.1
    skip_gate: float = 0.2
    noise: float = 5.0
    hard: bool = False
    always_open: bool = False
    rank: int = 0

    def __post_init__(self):
        check_number("gate_dim", self.gate_dim, low=1, whole=True)
        check_number("expert_dropout", self.expert_dropout, low=0, below=1)
        check_number("gate_dropout", self.gate_dropout, low=0, below=1)
        check_number("skip_gate", self.skip_gate, low=0, high=1)
        check_number("noise", self.noise, low=0)
        check_flag("hard", self.hard)
        check_flag("always_open", self.always_open)
        check_number("rank", self.rank, low=0, whole=True)


class Gate(nn.Module):
    """The gate G(h) = w2 · ReLU(W1 h + b1): one logit per position.

    At first w2 = 0, so the logit is 0 everywhere: undecided in training, open in evaluation.
    """

    def __init__(self, d_model: int, settings: ExpertSettings):
        super().__init__()
        self.dropout = nn.Dropout(settings.gate_dropout)
        self.linear1 = nn.Linear(d_model, settings.gate_dim)
        self.linear2 = nn.Linear(settings.gate_dim, 1, bias=False)
        nn.init.normal_(self.linear1.weight, std=0.01)
        nn.init.zeros_(self.linear1.bias)
        nn.init.zeros_(self.linear2.weight)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return the gate's logits: (B, T, d) -> (B, T, 1)."""
        return self.linear2(torch.relu(self.linear1(self.dropout(h))))


class FeedForward(nn.Module):
    """A feed-forward block as Whisper has it: fc2(activation(fc1(h)))."""

    def __init__(self, fc1: nn.Module, activation_fn: nn.Module, fc2: nn.Module):
        super().__init__()
        self.fc1 = fc1
        self.activation_fn = activation_fn
        self.fc2 = fc2

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Apply the block at every position: (..., d) -> (..., d)."""
        return self.fc2(self.activation_fn(self.fc1(h)))


class LowRankLinear(nn.Module):
    """A linear layer of the shared block plus a difference of low rank: W h + b + B A h.

    W and b stay the shared block's and are not parameters of this module. At first B = 0, so it
    computes what the shared layer does.
    """

    def __init__(self, shared: FeedForward, name: str, rank: int):
        super().__init__()
        out_features, in_features = getattr(shared, name).get_parameter("weight").shape
        # The block and not its layer, in whose place an adapter or a quantised one may be put; in a
        # list, so that torch does not register it as a submodule.
        self._shared = [shared]
        self._name = name
        self.down = nn.Linear(in_features, rank, bias=False)  # A
        self.up = nn.Linear(rank, out_features, bias=False)  # B
        nn.init.zeros_(self.up.weight)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Apply the layer at every position: (..., in) -> (..., out)."""
        return getattr(self._shared[0], self._name)(h) + self.up(self.down(h))


def new_expert(shared: FeedForward, rank: int = 0) -> FeedForward:
    """Return an untrained expert, which computes what the shared block does.

    Args:
        shared: The layer's own feed-forward block.
        rank: 0: a full copy; else the shared block plus a difference of this rank.
    """
    if rank == 0:
        return copy.deepcopy(shared).requires_grad_(True)
    fc1 = LowRankLinear(shared, "fc1", rank)
    fc2 = LowRankLinear(shared, "fc2", rank)
    return FeedForward(fc1, shared.activation_fn, fc2)
