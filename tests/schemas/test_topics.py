import re

from schemas.batch import arrow_schema
from schemas.topics import DLQ_SUFFIX, ENRICHMENT_SOURCES, TOPICS


def test_names_are_lower_case_with_dots_and_the_version_last() -> None:
    for name in TOPICS:
        assert re.fullmatch(r"[a-z]+(\.[a-z]+)+\.v[0-9]+", name), name


def test_a_topic_is_found_under_its_own_name_and_says_the_type_of_its_values() -> None:
    for name, topic in TOPICS.items():
        assert topic.name == name
        assert getattr(topic.value, "type_name") == name  # noqa: B009  (ClassVar of each value model)
        assert topic.dlq == name + DLQ_SUFFIX


def test_the_key_is_made_of_fields_of_the_value() -> None:
    for topic in TOPICS.values():
        assert set(topic.key.split(":")) <= set(topic.value.model_fields)


def test_a_pin_stays_on_one_worker_because_its_sources_are_cut_up_alike() -> None:
    assert len({topic.partitions for topic in ENRICHMENT_SOURCES}) == 1
    assert {topic.key for topic in ENRICHMENT_SOURCES} == {"pin_id"}


def test_retention_outlives_a_day_of_hourly_snapshots() -> None:
    # A cutter that was down for less than that still finds every row.
    for topic in TOPICS.values():
        assert topic.retention_ms >= 24 * 3_600_000


def test_every_topic_value_that_is_decoded_in_batches_has_an_arrow_schema() -> None:
    for topic in TOPICS.values():
        if topic.name.startswith(("pin.", "engagement.", "visit.")):
            assert arrow_schema(topic.value).names == list(topic.value.model_fields)
