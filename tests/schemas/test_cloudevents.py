from schemas.cloudevents import cloudevent_headers, read_headers


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
