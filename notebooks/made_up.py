"""Made-up data that checks give to a reader's function; the same on every machine."""

import random

import numpy as np
import torch

# Of exercise 3.2: five labels in one sequence, two in the other
LABELS = torch.tensor([[1, 2, 3, 4, 5], [1, 2, -100, -100, -100]])


def made_up_errors() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the errors of two systems on 80 clips, the clips' words, and 500 draws of clips."""
    random_number = random.Random(1).random  # the same with every version of Python
    hard = np.array([random_number() for _ in range(80)])  # for both systems
    words = np.array([1 + int(11 * random_number()) for _ in range(80)])
    first = np.round(words * hard).astype(int)
    second = first + np.array([int(2 * random_number()) for _ in range(80)])
    draws = np.array([[int(80 * random_number()) for _ in range(80)] for _ in range(500)])
    return first, second, words, draws


def made_up_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of a teacher and of a student, (2, 5, 7) each."""
    places = torch.arange(70, dtype=torch.float64).view(2, 5, 7)
    return 3 * torch.sin(1.7 * places), 3 * torch.cos(2.9 * places)
