import pytest

from entrypoints.meter import EVERY_SECONDS, meter


def test_where_nobody_watches_a_line_comes_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with meter("reading", "records", lambda: now[0]) as show:
        for second in range(31):
            now[0] = float(second)
            show(second * 100, 6_000, "fast")
        now[0] += EVERY_SECONDS
        show(4_000, None, "")

    assert capsys.readouterr().err.splitlines() == [
        "reading: 1,000 of 6,000 records, 50 s left fast",
        "reading: 2,000 of 6,000 records, 40 s left fast",
        "reading: 3,000 of 6,000 records, 30 s left fast",
        "reading: 4,000 records",
    ]
