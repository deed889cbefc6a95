"""Leases keep what they leased open and unchanged; a swap never waits; each old one closes once."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from threading import Event, Thread
from weakref import ref

import pytest

from index.handle import Handle


class Held:
    """Counts how often it was closed."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads change so often that a race of two lines is hit within a second."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_lease_gives_what_is_current_and_keeps_it_through_a_swap() -> None:
    old, new = Held(), Held()
    handle = Handle(old)
    lease = handle.lease()
    with lease as held:
        handle.swap(new)
        assert held is old
        assert (lease.generation, handle.generation) == (1, 2)
        assert old.closed == 0
        with handle.lease() as later:
            assert later is new
    assert (old.closed, new.closed) == (1, 0)


def test_an_unleased_value_is_closed_by_the_swap() -> None:
    old = Held()
    handle = Handle(old)
    handle.swap(Held())
    assert old.closed == 1


def test_what_is_closed_is_not_held_until_the_next_swap() -> None:
    closers: deque[Callable[[], None]] = deque()
    handle = Handle(Held("old"), closers.append)
    lease = handle.lease()
    with lease as held:
        gone = ref(held)
        handle.swap(Held("new"))
        assert (handle.generations_open, handle.leases_open) == (2, 1)
        del held
    del lease
    assert gone() is not None  # it waits to be closed
    closers.popleft()()
    assert gone() is None
    assert (handle.generations_open, handle.leases_open) == (1, 0)


def test_the_last_of_several_leases_closes() -> None:
    old = Held()
    handle = Handle(old)
    first, second = handle.lease(), handle.lease()
    first.__enter__()
    second.__enter__()
    handle.swap(Held())
    assert (handle.leases_open, handle.generations_open) == (2, 2)
    first.__exit__(None, None, None)
    assert (old.closed, handle.leases_open) == (0, 1)
    second.__exit__(None, None, None)
    assert (old.closed, handle.leases_open, handle.generations_open) == (1, 0, 1)


def test_an_error_in_the_block_ends_the_lease() -> None:
    handle = Handle(Held())
    with pytest.raises(KeyError), handle.lease():
        raise KeyError
    assert handle.leases_open == 0


def test_a_lease_that_is_never_entered_holds_nothing() -> None:
    old = Held()
    handle = Handle(old)
    lease = handle.lease()
    handle.swap(Held())
    assert old.closed == 1
    with pytest.raises(RuntimeError, match="not open"):
        _ = lease.generation


def test_a_lease_is_entered_once() -> None:
    lease = Handle(Held()).lease()
    with lease, pytest.raises(RuntimeError, match="once"):
        lease.__enter__()


def test_closing_can_be_handed_to_somebody_else() -> None:
    old, waiting = Held(), list[Callable[[], None]]()
    handle = Handle(old, dispose=waiting.append)
    handle.swap(Held())
    assert old.closed == 0
    waiting[0]()
    assert old.closed == 1


class SwapsJustBefore(deque[None]):
    """Lets a swap happen between a lease's look at what is current and its counting itself in."""

    def __init__(self, swap: Callable[[], None]) -> None:
        super().__init__()
        self._swap = swap

    def append(self, item: None) -> None:
        self._swap()
        super().append(item)


def test_a_swap_in_the_middle_of_taking_a_lease_gives_the_new_value() -> None:
    old, new = Held("old"), Held("new")
    handle = Handle(old)
    handle._current.leases = SwapsJustBefore(lambda: handle.swap(new))
    with handle.lease() as value:
        assert value is new
        assert (old.closed, new.closed, handle.leases_open) == (1, 0, 1)
    assert (old.closed, new.closed, handle.leases_open) == (1, 0, 0)


def test_eight_threads_never_see_a_closed_value_while_it_is_swapped(eager_switching: None) -> None:
    held = [Held(str(number)) for number in range(400)]
    handle = Handle(held[0])
    done, faults, leased = Event(), list[str](), [0] * 8

    def read(reader: int) -> None:
        while not done.is_set():
            lease = handle.lease()
            with lease as value:
                leased[reader] += 1
                if value is not held[lease.generation - 1]:
                    faults.append(f"generation {lease.generation} gave {value.name}")
                if value.closed:
                    faults.append(f"{value.name} was closed under a lease")

    readers = [Thread(target=read, args=(number,)) for number in range(8)]
    for reader in readers:
        reader.start()
    for number, value in enumerate(held[1:], start=1):
        seen = sum(leased)
        handle.swap(value)
        # Every tenth swap waits until somebody has leased since, so readers and swaps interleave.
        while number % 10 == 0 and sum(leased) == seen:
            pass
    done.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert sum(leased) > 40
    assert [value.closed for value in held] == [1] * 399 + [0]
    assert (handle.leases_open, handle.generations_open, handle.generation) == (0, 1, 400)
