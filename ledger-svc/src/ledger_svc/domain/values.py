"""How the domain's values are made: they never change, which the type checker sees to, and cost little to make.

A frozen dataclass sets each field through ``object.__setattr__``, at eight times the cost of a plain one: a hold of 17
fields took 1.6 µs instead of 0.2, and a reserve and its settle make some 200 fields. So these are frozen to whoever
checks types, which `make check` does, and plain when they run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

__all__ = ["OfEach", "lazy", "value"]

V = TypeVar("V")
T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as value
    from functools import cached_property as lazy
else:
    from dataclasses import dataclass

    def value(*, frozen: bool, slots: bool = False):
        """A dataclass that is compared and hashed by its fields. Takes what a frozen dataclass takes, and no less, so
        that what is read at the class says what it is.
        """
        assert frozen, "what changes is a dataclass"
        return dataclass(slots=slots, unsafe_hash=True)

    class lazy:
        """``functools.cached_property`` without its lock, which Python 3.12 has given up, too: the values are made and
        used in one thread, and what is worked out twice is the same.
        """

        def __init__(self, work_out):
            self._work_out = work_out
            self.__doc__ = work_out.__doc__

        def __set_name__(self, owner, name):
            self._name = name

        def __get__(self, instance, owner=None):
            if instance is None:
                return self
            found = instance.__dict__[self._name] = self._work_out(instance)
            return found


class OfEach(Generic[V, T]):
    """What was worked out of each of some values that come again and again as the same object: found by what the value
    is and not by what it says, because the hash of a price costs as much as all else that a receipt asks of it. An
    equal value that is another object is worked out, too. Keeps ``at_most`` and forgets the oldest.
    """

    def __init__(self, work_out: Callable[[V], T], *, at_most: int) -> None:
        self._work_out = work_out
        self._at_most = at_most
        self._found: dict[int, tuple[V, T]] = {}
        """By id: a value is kept here, so that as long as its id is, no other has it."""

    def of(self, value: V) -> T:
        """What comes of a value. What ``work_out`` raises is raised, each time."""
        found = self._found.get(id(value))
        if found is not None:
            return found[1]
        worked_out = self._work_out(value)
        if len(self._found) >= self._at_most:
            del self._found[next(iter(self._found))]
        self._found[id(value)] = (value, worked_out)
        return worked_out
