"""What kind of answer is asked for: each function returns the answer, or says what it must be."""

import inspect
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch


def described(answer) -> str:
    """Return what a reader gave, in words."""
    if answer is None:
        return "None (is a `return` missing?)"
    if answer is ...:
        return "`...` (still open)"
    if isinstance(answer, str | bool):
        return repr(answer)
    return f"something of the type {type(answer).__name__}"


def number(answer, name: str) -> float:
    """Return a number; an array or a tensor of one element is one too."""
    wanted = f"{name} must be a number, not {described(answer)}"
    try:
        answer = answer.item() if hasattr(answer, "item") else answer
        value = math.nan if isinstance(answer, str | bool) else float(answer)
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(wanted) from None
    assert not isinstance(answer, str | bool), wanted
    assert not math.isnan(value), (
        f"{name} is NaN: look for 0 / 0, 0 * log(0), the logarithm of a negative number or a mean "
        "of nothing"
    )
    return value


def whole_number(answer, name: str) -> int:
    """Return a whole number; 4.0 is one too."""
    value = number(answer, name)
    assert value.is_integer(), f"{name} must be a whole number, not {value}"
    return int(value)


def items(answer, wanted: str) -> list:
    """Return the items of a list, set, tuple, array or column."""
    single = getattr(answer, "ndim", 1) == 0  # an array or a tensor of one number
    one = single or isinstance(answer, str | dict) or hasattr(answer, "columns")  # or a table
    assert isinstance(answer, Iterable) and not one, f"{wanted}, not {described(answer)}"
    return answer.tolist() if hasattr(answer, "tolist") else list(answer)


def numbers(answer, *names: str) -> list[float]:
    """Return as many numbers as there are names, in their order."""
    wanted = f"{len(names)} numbers are asked for, in this order: ({', '.join(names)})"
    assert not isinstance(answer, set), f"{wanted}; a set has no order"
    found = items(answer, wanted)
    assert len(found) == len(names), f"{wanted}; yours are {len(found)}"
    return [number(part, name) for part, name in zip(found, names, strict=True)]


def function(answer, form: str) -> Callable:
    """Return a function that can be called as `form` says, such as "merge(weight, A, B, alpha)"."""
    assert callable(answer), f"{form} must be a function, not {described(answer)}"
    arguments = form[form.index("(") + 1 : -1].split(",")
    try:
        inspect.signature(answer).bind(*arguments)
    except TypeError:
        raise AssertionError(
            f"your function must take these {len(arguments)} arguments, in this order: {form}"
        ) from None
    return answer


def tensor(answer, shape: tuple[int, ...], name: str) -> torch.Tensor:
    """Return a tensor of this shape, in float32: a reader may compute in another precision."""
    assert isinstance(answer, torch.Tensor), f"{name} must be a tensor, not {described(answer)}"
    assert answer.shape == shape, f"{name} has the shape {tuple(answer.shape)}, not {tuple(shape)}"
    return answer.float()


def array(answer, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return an array of numbers of this shape, in float64; a tensor is one too."""
    wanted = f"{name} must be an array of numbers, not {described(answer)}"
    answer = answer.detach().cpu() if isinstance(answer, torch.Tensor) else answer
    try:
        found = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError):
        raise AssertionError(wanted) from None
    assert answer is not None and not isinstance(answer, str | bool), wanted
    assert found.shape == shape, f"{name} has the shape {found.shape}, not {shape}"
    assert not np.isnan(found).any(), f"{name} holds NaN: look for 0 / 0 or a logarithm of nothing"
    return found


def not_a_mistake(given, mistakes: Iterable[tuple], tolerance: float = 1e-4) -> None:
    """Say which mistake a result shows: pairs of the result of a mistake and its message."""
    given = np.asarray(given, dtype=np.float64)
    for wrong, message in mistakes:
        wrong = np.asarray(wrong, dtype=np.float64)
        same = given.shape == wrong.shape and np.allclose(given, wrong, rtol=tolerance, atol=1e-6)
        assert not same, message


def gradients(value: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of the sum of `value`; zeros where none arrives."""
    if not value.requires_grad:
        return [torch.zeros_like(one) for one in inputs]
    return list(torch.autograd.grad(value.sum(), inputs, materialize_grads=True))
