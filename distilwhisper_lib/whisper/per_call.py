"""Values that hold for a call instead of for the model, and classes that read them.

A model is one object for all threads. What may differ between two calls (the language, the window)
is therefore not a plain attribute of it: `PerCall` holds such a value for the thread or task that
has set it.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import MappingProxyType
from typing import Any

import torch

# The values of all `PerCall` objects in this thread or asyncio task.
_VALUES: ContextVar[Mapping["PerCall", Any]] = ContextVar("values", default=MappingProxyType({}))


class PerThread(threading.local):
    """One value for each thread; copies and pickles of it hold None.

    Attributes:
        value: The value of this thread.
    """

    def __init__(self) -> None:  # called once in each thread
        self.value: Any = None

    def __reduce__(self):
        return PerThread, ()


class PerCall:
    """A value for the calls of this thread or asyncio task; None where none is set.

    Threads that are started within `use` do not see the value, unless they are given this context
    (`asyncio.to_thread` and `contextvars.copy_context` do that). torch.compile cannot read a
    context variable; it reads a copy of the value that belongs to the thread, and compiles again
    when that has changed. So with a compiled model the tasks of one thread must not be within `use`
    at the same time: the copy is that of the task that has entered last.
    """

    def __init__(self) -> None:
        self._of_thread = PerThread()
        self._users: set[object] = set()

    def __reduce__(self):
        return PerCall, ()  # a copied or unpickled model begins without values

    @property
    def is_used(self) -> bool:
        """Whether any thread or task is within `use`."""
        return bool(self._users)

    def get(self) -> Any:
        """Return the value that holds here, or None."""
        if torch.compiler.is_dynamo_compiling():
            return self._of_thread.value
        return _VALUES.get().get(self)

    def replace(self, value: Any) -> None:
        """Set another value until the end of the innermost `use` of this thread or task."""
        _VALUES.set({**_VALUES.get(), self: value})
        self._of_thread.value = value

    @contextmanager
    def use(self, value: Any) -> Iterator[None]:
        """Set a value within the block, and the previous one afterwards, also on errors."""
        user = object()
        self._users.add(user)
        token = _VALUES.set({**_VALUES.get(), self: value})
        self._of_thread.value = value
        try:
            yield
        finally:
            _VALUES.reset(token)
            self._of_thread.value = _VALUES.get().get(self)
            self._users.discard(user)


# ---- classes of single objects


class Mixin:
    """Base of classes that `mix_in` adds to the class of one object.

    The object's new class has the name of the old one and derives from it, so that everything that
    asks for either still finds it. It can be copied and pickled.
    """

    _plain_class: type
    _mixins: tuple[type, ...]

    def __reduce_ex__(self, protocol):
        _, _, *state = super().__reduce_ex__(protocol)
        return _new_object, (type(self)._plain_class, type(self)._mixins), *state


def mix_in(target: Any, mixin: type[Mixin]) -> None:
    """Give one object the methods of `mixin`, before those of its own class."""
    plain, mixins = _parts(target)
    if mixin not in mixins:
        target.__class__ = _class_with(plain, (*mixins, mixin))


def take_out(target: Any, mixin: type[Mixin]) -> None:
    """Undo `mix_in`."""
    plain, mixins = _parts(target)
    kept = tuple(other for other in mixins if other is not mixin)
    target.__class__ = _class_with(plain, kept) if kept else plain


def _parts(target: Any) -> tuple[type, tuple[type, ...]]:
    """Return the plain class of an object, and what was mixed in."""
    own = type(target)
    if "_mixins" in vars(own):
        return own._plain_class, own._mixins
    return own, ()


@cache
def _class_with(plain: type, mixins: tuple[type, ...]) -> type:
    """Return the class of objects of class `plain` with `mixins`."""
    about = {
        "__module__": plain.__module__,
        "__qualname__": plain.__qualname__,
        "_plain_class": plain,
        "_mixins": mixins,
    }
    return type(plain.__name__, (*mixins, plain), about)


def _new_object(plain: type, mixins: tuple[type, ...]) -> Any:
    """Return a new object, whose state is set afterwards (`copy` and `pickle` call it)."""
    return object.__new__(_class_with(plain, mixins))
