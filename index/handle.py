"""The one reference that serving swaps, and leases on what it pointed to.

Reading takes no lock of ours: it relies on what CPython makes atomic, a reference assignment and
`deque.append` and `pop`. A lease counts itself in and then looks again whether the reference moved, so
a swap that saw no lease cannot be wrong about it.
"""

from collections import deque
from collections.abc import Callable
from threading import Lock
from types import TracebackType
from typing import Generic, Protocol, TypeVar
from weakref import ref


class Closable(Protocol):
    """What a handle can hold."""

    def close(self) -> None:
        """Called once, after the last lease ended."""
        ...


T = TypeVar("T", bound=Closable)


class _Generation(Generic[T]):
    __slots__ = ("__weakref__", "closers", "leases", "number", "retired", "value")

    def __init__(self, value: T, number: int) -> None:
        self.value, self.number, self.retired = value, number, False
        self.leases: deque[None] = deque()
        self.closers: list[Callable[[], None]] = [value.close]

    def end_lease(self, dispose: Callable[[Callable[[], None]], object]) -> None:
        self.leases.pop()
        self.close_if_unused(dispose)

    def close_if_unused(self, dispose: Callable[[Callable[[], None]], object]) -> None:
        """Several threads may come here at once; one of them gets the closer."""
        if not self.retired or self.leases:
            return
        try:
            close = self.closers.pop()
        except IndexError:
            return
        dispose(close)


def _at_once(close: Callable[[], None]) -> None:
    close()


class Handle(Generic[T]):
    """Holds what is current. `dispose` runs an old one's `close`, by default in the last lease's thread."""

    def __init__(self, value: T, dispose: Callable[[Callable[[], None]], object] = _at_once) -> None:
        self._current = _Generation(value, 1)
        self._dispose = dispose
        self._swapping = Lock()
        # Weak: only a lease keeps an old one, or what it points to would live until the next swap.
        self._retired: deque[ref[_Generation[T]]] = deque()

    def lease(self) -> "Lease[T]":
        """A context manager that gives what is current when it is entered, unchanged until it is left."""
        return Lease(self)

    def swap(self, new: T) -> None:
        """Make `new` current: one reference assignment. The old one closes when its last lease ends."""
        with self._swapping:
            old = self._current
            self._current = _Generation(new, old.number + 1)
            old.retired = True
            self._forget_closed()
            self._retired.append(ref(old))
        old.close_if_unused(self._dispose)

    @property
    def generation(self) -> int:
        """1 for the first value, one more with each swap."""
        return self._current.number

    @property
    def leases_open(self) -> int:
        """Leases now open, on the current and on older generations."""
        return len(self._current.leases) + sum(len(old.leases) for old in self._old())

    @property
    def generations_open(self) -> int:
        """Generations not closed yet: 1, and one more for each old one that a lease still holds."""
        return 1 + sum(bool(old.closers) for old in self._old())

    def _old(self) -> list[_Generation[T]]:
        return [old for one in list(self._retired) if (old := one()) is not None]

    def _forget_closed(self) -> None:
        for _ in range(len(self._retired)):
            one = self._retired.popleft()
            old = one()
            if old is not None and old.closers:
                self._retired.append(one)

    def _enter(self) -> _Generation[T]:
        while True:
            generation = self._current
            generation.leases.append(None)
            if generation is self._current:
                return generation
            # Swapped between the two lines: what was leased may be closed already.
            generation.end_lease(self._dispose)


class Lease(Generic[T]):
    """One request's hold on one generation. Enter it once."""

    __slots__ = ("_generation", "_handle")

    def __init__(self, handle: Handle[T]) -> None:
        self._handle = handle
        self._generation: _Generation[T] | None = None

    @property
    def generation(self) -> int:
        """Number of the generation that is leased. Raises RuntimeError outside of the `with` block."""
        if self._generation is None:
            raise RuntimeError("the lease is not open")
        return self._generation.number

    def __enter__(self) -> T:
        if self._generation is not None:
            raise RuntimeError("a lease is entered once")
        self._generation = self._handle._enter()
        return self._generation.value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        generation, self._generation = self._generation, None
        if generation is not None:
            generation.end_lease(self._handle._dispose)
