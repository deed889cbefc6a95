"""Recent figures: rates over full seconds and quantiles over the ring."""

import pytest

from serving.recent import RATE_SECONDS, SAMPLES, RecentRequests


def test_the_rate_counts_full_seconds_only() -> None:
    recent = RecentRequests()
    for second, requests in ((100, 20), (101, 30), (102, 999)):
        for _ in range(requests):
            recent.add({"total": 0.001}, second)
    assert recent.per_second(102) == 50 / RATE_SECONDS
    assert recent.per_second(102 + 2 * RATE_SECONDS) == 0


def test_quantiles_are_of_the_last_samples() -> None:
    recent = RecentRequests()
    for _ in range(SAMPLES):
        recent.add({"total": 9.0}, 1)
    for number in range(SAMPLES):
        recent.add({"total": float(number)}, 1)
    found = recent.quantiles()["total"]
    assert found["p50_seconds"] == pytest.approx((SAMPLES - 1) / 2)
    assert found["p99_seconds"] == pytest.approx((SAMPLES - 1) * 0.99)
