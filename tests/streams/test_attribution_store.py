from pathlib import Path

from streams.attribution_store import (
    NOBODY,
    AttributionStore,
    Group,
    conversion_key,
    due_key,
    group_of,
    impression_key,
    put_newest,
    put_watermark,
    request_key,
    served_of,
)
from streams.attribution_windows import AttributionWindows, Conversion, ServedAt
from streams.step_store import Changes


def test_keys_hold_what_they_were_made_of() -> None:
    group, served = Group(7, NOBODY), ServedAt(2**42, b"request \xc3\xbc")
    key = impression_key(group, served)

    assert (group_of(key), served_of(key)) == (group, served)


def test_a_user_and_a_pin_have_their_impressions_and_conversions_in_order(tmp_path: Path) -> None:
    store = AttributionStore(tmp_path, AttributionWindows())
    group, other = Group(1, 2), Group(1, 3)
    shown = [ServedAt(300, b"b"), ServedAt(20, b"z"), ServedAt(300, b"a")]
    happened = [Conversion(5, 1, -(2**53)), Conversion(5, 1, 0), Conversion(256, 0, 0)]
    changes = Changes()
    for of in (group, other):
        changes.puts |= {impression_key(of, one): b"" for one in shown}
        changes.puts |= {conversion_key(of, one): b"" for one in happened}
    store.write(changes)

    assert list(store.impressions(group, ServedAt(0, b""))) == sorted(shown)
    assert list(store.impressions(group, ServedAt(300, b"a"))) == [ServedAt(300, b"a"), ServedAt(300, b"b")]
    assert list(store.conversions(group, 0, 1_000)) == sorted(happened)
    assert list(store.conversions(group, 5, 256)) == sorted(happened)[:2]
    assert list(store.conversions(group, 6, 257)) == sorted(happened)[2:]
    assert list(store.impressions(Group(2, 2), ServedAt(0, b""))) == []
    store.close()


def test_repeats_are_found_by_their_request_and_no_other_request_stands_among_them(tmp_path: Path) -> None:
    store = AttributionStore(tmp_path, AttributionWindows())
    group = Group(1, 2)
    requests = [b"r", b"r1", b"r" + bytes(8), b"q"]
    shown = [ServedAt(at_ms, request) for request in requests for at_ms in (300, 20, 100, 2**40)]
    store.write(Changes({request_key(of, one): b"" for of in (group, Group(1, 3)) for one in shown}))

    assert store.repeats(group, ServedAt(20, b"r"), 300) == [ServedAt(100, b"r"), ServedAt(300, b"r")]
    assert store.repeats(group, ServedAt(20, b"r"), 299) == [ServedAt(100, b"r")]
    assert store.repeats(group, ServedAt(50, b"r1"), 99) == []
    store.close()


def test_the_queue_gives_what_is_over_in_order_and_goes_on_behind_what_was_swept(tmp_path: Path) -> None:
    store = AttributionStore(tmp_path, AttributionWindows())
    entry = impression_key(Group(1, 2), ServedAt(3, b"r"))
    store.write(Changes({due_key(number, due, entry): b"" for number in (0, 1) for due in (300, 20, 100)}))

    found = list(store.due(0, 300))
    store.swept(0, found[0].key)
    again = list(store.due(0, 301))
    store.close()

    assert [(one.due_ms, one.entry, one.is_impression) for one in found] == [
        (20, entry, True),
        (100, entry, True),
    ]
    # The swept entry itself is still there, because nobody has removed it.
    assert [one.due_ms for one in again] == [20, 100, 300]


def test_times_are_there_after_a_restart(tmp_path: Path) -> None:
    store, changes = AttributionStore(tmp_path, AttributionWindows()), Changes()
    put_newest(changes, ("visit.observed.v1", 12), 345)
    put_watermark(changes, 12, 300)
    store.write(changes)
    store.close()
    again = AttributionStore(tmp_path, AttributionWindows())

    assert (again.newest(), again.watermarks()) == ({("visit.observed.v1", 12): 345}, {12: 300})
    again.close()
