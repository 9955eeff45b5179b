"""What is put beside Whisper's feed-forward block: an expert, whole or of a low rank, and a gate.

Source: paper, section 3; the authors' release (CLSRFFN, CLSRGate). Not in the paper: gates that are hard in training
(Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013) and experts of a low rank (Hu et
al., "LoRA", ICLR 2022).
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class ExpertSettings:
    """Settings of experts and gates; the defaults are the authors' release."""

    gate_dim: int = 64
    expert_dropout: float = 0.3  # on the expert's output, in training
    gate_dropout: float = 0.1  # on the gate's input, in training
    skip_gate: float = (
        0.2  # probability that a layer uses the shared block alone for a batch, in training
    )
    noise: float = 5.0  # alpha at the end of training; it rises linearly from 0
    hard: bool = (
        False  # gates are 0 or 1 in training too, with the gradient of soft ones (straight-through)
    )
    always_open: bool = False  # no gate is asked: every position goes to its expert (an ablation)
    rank: int = 0  # of experts that are a low-rank difference to the shared block; 0: experts are whole copies of it


class Gate(nn.Module):
    """G(h) = w2 · ReLU(W1 h + b1): one logit a token. (B, T, d) -> (B, T, 1)."""

    def __init__(self, d_model: int, settings: ExpertSettings):
        super().__init__()
        self.dropout = nn.Dropout(settings.gate_dropout)
        self.linear1 = nn.Linear(d_model, settings.gate_dim)
        self.linear2 = nn.Linear(settings.gate_dim, 1, bias=False)
        nn.init.normal_(self.linear1.weight, std=0.01)
        nn.init.zeros_(self.linear1.bias)
        nn.init.zeros_(
            self.linear2.weight
        )  # G = 0: the gate starts undecided, and open in evaluation

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.linear2(torch.relu(self.linear1(self.dropout(h))))


class FeedForward(nn.Module):
    """Whisper's own feed-forward block, fc2(activation(fc1(h))). (B, T, d) -> (B, T, d)."""

    def __init__(self, fc1: nn.Module, activation_fn: nn.Module, fc2: nn.Module):
        super().__init__()
        self.fc1, self.activation_fn, self.fc2 = fc1, activation_fn, fc2

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(h)))


class LowRankLinear(nn.Module):
    """W h + b of the shared block, which stays its own, plus B A h with a small rank. (..., in) -> (..., out)."""

    def __init__(self, linear: nn.Module, rank: int):
        super().__init__()
        out, width = linear.weight.shape
        self._shared = [linear]  # in a list: not a part of this module
        self.down, self.up = (
            nn.Linear(width, rank, bias=False),
            nn.Linear(rank, out, bias=False),
        )  # A, B
        nn.init.zeros_(self.up.weight)  # begins as the shared block

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self._shared[0](h) + self.up(self.down(h))


def new_expert(shared: FeedForward, rank: int = 0) -> FeedForward:
    """Return an expert that computes what the shared block does: a copy, or one of a low rank (see ExpertSettings)."""
    if not rank:
        return copy.deepcopy(shared).requires_grad_(True)
    return FeedForward(
        LowRankLinear(shared.fc1, rank), shared.activation_fn, LowRankLinear(shared.fc2, rank)
    )
