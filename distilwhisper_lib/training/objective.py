"""What is minimised."""

from dataclasses import dataclass

from ..fidelity import Fidelity
from .teacher import TeacherDistributions


@dataclass(frozen=True)
class Objective:
    """What is minimised: smoothed cross-entropy, the gate budget (None: none) and distillation (None: none)."""

    label_smoothing: float = 0.1
    budget: float | None = 0.5
    per_stack: bool = False
    teacher: TeacherDistributions | None = None
    divergence: str = "js"
    temperature: float = 1.0  # of the divergence; the teacher's outputs are of the same
    fidelity: Fidelity = Fidelity()
    agreement: float = 0.0  # weight of `gate_uniformity_loss`, added to the budget's

    def key(self) -> list:
        """Return all that the trained weights depend on, as a list that can be hashed."""
        teacher = (
            self.teacher.folder.name if self.teacher else None
        )  # its name changes with the temperature
        return [
            self.label_smoothing,
            self.budget,
            self.per_stack,
            teacher,
            teacher and self.divergence,
            *self.fidelity.on(),
            *([f"agreement {self.agreement:g}"] if self.agreement else []),
        ]
