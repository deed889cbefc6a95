import pytest

from schemas.cloudevents import cloudevent_headers, iso, read_headers


def test_headers_are_the_binary_mode_attributes() -> None:
    headers = cloudevent_headers(
        event_id="e-1", source="catalogue", type_name="pin.changed.v1", time_iso="2017-01-01T00:00:00Z"
    )
    assert read_headers(headers) == {
        "ce_specversion": "1.0",
        "ce_id": "e-1",
        "ce_source": "catalogue",
        "ce_type": "pin.changed.v1",
        "ce_time": "2017-01-01T00:00:00Z",
        "content-type": "application/json",
    }


def test_strange_headers_are_read_not_raised_on() -> None:
    assert read_headers(None) == {}
    assert read_headers([("a", None), ("b", b"\xff")]) == {"a": "", "b": "�"}


@pytest.mark.parametrize(
    ("epoch_ms", "shown"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "253402300800000 ms"),
        (1_700_000_000_000_000, "1700000000000000 ms"),
        (2**63 - 1, "9223372036854775807 ms"),
        (-1, ""),
        (-(2**63), ""),
    ],
)
def test_a_number_that_is_no_moment_is_shown_as_it_came(epoch_ms: int, shown: str) -> None:
    assert iso(epoch_ms) == shown
