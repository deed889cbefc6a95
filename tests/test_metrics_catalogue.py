"""docs/metrics.md is what the catalogues say."""

from .metrics_catalogue import PAGE, page


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text("utf-8") == page(), "run `make metrics`"
