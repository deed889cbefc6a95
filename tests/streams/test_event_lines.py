import pytest

from streams.event_lines import part

DEEP = b"[" * 300 + b"]" * 300
DEEPER = b"[" * 1_000 + b"]" * 1_000


@pytest.mark.parametrize(
    "line",
    [
        b'{"topic": "a", "value": {"x": ' + DEEP + b"}}",
        b'{"topic": "a", "value": {}, "id": ' + DEEP + b"}",
        b'{"topic": "a", "value": {}, "key": ' + DEEPER + b"}",
    ],
)
def test_a_line_that_is_nested_too_deep_is_undecodable_and_the_others_are_read(line: bytes) -> None:
    good = b'{"topic": "b", "key": 7, "value": {"x": 1}, "id": 9}'

    parted = part([line, b"", good, b"{"], 5, None)

    assert [number for number, _ in parted.undecodable] == [5, 8]
    assert parted.undecodable[0][1] == "no event: nested too deep"
    assert list(parted.events) == ["b"]
    events = parted.events["b"]
    assert (events.line_numbers, events.values, events.keys, events.has_key, events.names) == (
        [7],
        [b'{"x":1}'],
        [b"7"],
        [True],
        [b"[null,9]"],
    )
