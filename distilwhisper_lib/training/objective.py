"""What a training minimises: cross-entropy, the gate budget and distillation."""

from dataclasses import dataclass

from ..checks import check_flag, check_number
from ..method.losses import DIVERGENCES

NO_DIVERGENCE = "none"


@dataclass(frozen=True)
class Objective:
    """The loss of a run: smoothed cross-entropy, gate budget and distillation, see `method.losses`.

    Attributes:
        label_smoothing: Of the cross-entropy (release: 0.1).
        budget: Gate budget b, the share of positions that may go to experts; None: no budget.
        per_stack: A budget for encoder and decoder each, instead of one over both (our variant).
        divergence: From the teacher: "js" (paper), "kl", or "none" for a run without distillation.
        divergence_weight: Factor of the divergence, beside the weight that `total_loss` gives it.
        temperature: Of the divergence, and of the cached teacher distributions.
        uniformity: Weight of `gate_uniformity_loss`, which is added to the budget's.

    Raises:
        ValueError: For an unknown divergence, or a value of another type or out of range.
    """

    label_smoothing: float = 0.1
    budget: float | None = 0.5
    per_stack: bool = False
    divergence: str = NO_DIVERGENCE
    divergence_weight: float = 1.0
    temperature: float = 1.0
    uniformity: float = 0.0

    def __post_init__(self):
        kinds = (NO_DIVERGENCE, *DIVERGENCES)
        if self.divergence not in kinds:
            known = ", ".join(kinds)
            raise ValueError(f"unknown divergence {self.divergence!r}: one of {known}")
        check_number("label_smoothing", self.label_smoothing, low=0, below=1)
        if self.budget is not None:
            check_number("budget", self.budget, low=0, high=1)
        check_flag("per_stack", self.per_stack)
        check_number("divergence_weight", self.divergence_weight, above=0)
        check_number("temperature", self.temperature, above=0)
        check_number("uniformity", self.uniformity, low=0)

    @property
    def distils(self) -> bool:
        """Whether the run learns from a teacher."""
        return self.divergence != NO_DIVERGENCE
