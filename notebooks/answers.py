"""What kind of answer is asked for: each function returns the answer, or says what it must be."""

import inspect
import math
from collections.abc import Callable, Iterable

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
    assert not math.isnan(value), f"{name} is NaN: look for 0 / 0, 0 * log(0) or a mean of nothing"
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
    """Return a tensor of this shape."""
    assert isinstance(answer, torch.Tensor), f"{name} must be a tensor, not {described(answer)}"
    assert answer.shape == shape, f"{name} has the shape {tuple(answer.shape)}, not {tuple(shape)}"
    return answer


def gradients(value: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of the sum of `value`; zeros where none arrives."""
    if not value.requires_grad:
        return [torch.zeros_like(one) for one in inputs]
    return list(torch.autograd.grad(value.sum(), inputs, materialize_grads=True))
